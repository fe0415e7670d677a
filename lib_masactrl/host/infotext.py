"""What a request writes into the infotext of its images (``p.extra_generation_params``)."""

from __future__ import annotations

from typing import Any

from lib_masactrl.branches import Branch
from lib_masactrl.host.batch import BranchBatch
from lib_masactrl.settings import MasaCtrlSettings
from lib_masactrl.version import VERSION

_PREFIX = "MasaCtrl "
_RESULT, _BRANCH, _VERSION = "MasaCtrl result", "MasaCtrl branch", "MasaCtrl version"


def clear(p: Any) -> None:
    """Remove our entries: X/Y/Z plot shares one dictionary between the copies of a request that are its cells."""
    if any(key.startswith(_PREFIX) for key in p.extra_generation_params):
        kept = {key: value for key, value in p.extra_generation_params.items() if not key.startswith(_PREFIX)}
        p.extra_generation_params = kept


def write(p: Any, batch: BranchBatch) -> None:
    """Write the settings into the infotext of every target; a source's names its branch only.

    A target's infotext pasted back makes that target and its source again. A source's, pasted back, makes the plain
    image of the source prompt, which is the same picture.
    """
    keys = {_VERSION, _BRANCH, *batch.settings.to_infotext()}
    p.extra_generation_params = {**p.extra_generation_params, **{key: _entry(p, batch, key) for key in sorted(keys)}}


def write_result(p: Any, steps: int, steps_run: int, layers: tuple[int, int]) -> None:
    """Write what was really controlled: how many of the steps that ran, and (controlled, all) layers."""
    p.extra_generation_params[_RESULT] = f"{steps} of {steps_run} steps; {layers[0]} of {layers[1]} layers"


def of_branch(settings: MasaCtrlSettings, branch: Branch) -> dict[str, str]:
    """The infotext entries of one image."""
    if branch.target is None:
        return {_VERSION: VERSION, _BRANCH: "source"}
    own = settings if branch.target == 0 else settings.replace(more_targets="")
    return {_VERSION: VERSION, _BRANCH: f"target {branch.target + 1}", **own.to_infotext()}


def _entry(p: Any, batch: BranchBatch, key: str) -> Any:
    """The value of an entry per image, which A1111 takes as a callable since 1.9; earlier, the first target's."""
    if not hasattr(p, "scheduler"):  # came with 1.9 as well
        return None if key == _BRANCH else of_branch(batch.settings, Branch(0, 0)).get(key)

    def value(index: int, **_: Any) -> str | None:
        return of_branch(batch.settings, batch.branches(p.iteration)[index]).get(key)

    return value
