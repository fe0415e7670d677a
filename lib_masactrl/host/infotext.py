"""What a request writes into the infotext of its images (``p.extra_generation_params``)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from lib_masactrl import infotext_entries as entries
from lib_masactrl.branches import Branch
from lib_masactrl.host.batch import BranchBatch
from lib_masactrl.setting_kinds import Setting
from lib_masactrl.version import VERSION as PRESENT_VERSION


def clear(p: Any) -> None:
    """Remove our entries: X/Y/Z plot shares one dictionary between the copies of a request that are its cells."""
    if any(key.startswith(entries.PREFIX) for key in p.extra_generation_params):
        kept = {key: value for key, value in p.extra_generation_params.items() if not key.startswith(entries.PREFIX)}
        p.extra_generation_params = kept


def write(p: Any, batch: BranchBatch, per_image: bool) -> None:
    """Write the settings into the infotext of every target; a source's names its branch only.

    A target's infotext pasted back makes that target and its source again. A source's, pasted back, makes the plain
    image of the source prompt, which is the same picture.

    Args:
        per_image: whether the host takes a callable as the value of an entry, and calls it for each image. If not,
            every infotext is the first target's.
    """
    keys = {entries.VERSION, entries.BRANCH, *batch.settings.to_infotext()}
    entry = _entry if per_image else _entry_of_first_target
    p.extra_generation_params = {**p.extra_generation_params, **{key: entry(p, batch, key) for key in sorted(keys)}}


def write_result(p: Any, steps: int, steps_run: int, layers: tuple[int, int]) -> None:
    """Write what was really controlled: how many of the steps that ran, and (controlled, all) layers."""
    p.extra_generation_params[entries.RESULT] = entries.result(steps, steps_run, *layers)


def write_without_effect(p: Any, settings: Collection[Setting]) -> None:
    """Write which settings differ from their default and did nothing beside the others."""
    if settings:
        p.extra_generation_params[entries.WITHOUT_EFFECT] = ", ".join(setting.label.lower() for setting in settings)


def write_refusal(p: Any, said: str) -> None:
    """Write why the images are made without control, although it was asked for; pasted back, they stay plain."""
    p.extra_generation_params = {**p.extra_generation_params, entries.VERSION: PRESENT_VERSION, entries.REFUSAL: said}


def write_foreground(p: Any, said: str) -> None:
    """Write how much of each branch of the batch was foreground."""
    p.extra_generation_params[entries.FOREGROUND] = said


def write_inversion(p: Any, evaluations: int) -> None:
    """Write what inverting a real image and checking that took; nothing, if both are kept from an earlier request."""
    said = f"{evaluations} U-Net calls" if evaluations else "kept from an earlier request"
    p.extra_generation_params[entries.INVERSION] = said


def write_interruption(p: Any, doing: str) -> None:
    """Write what an inversion was doing when it was interrupted or skipped."""
    p.extra_generation_params[entries.INVERSION] = f"interrupted while {doing}"


def clear_reconstruction(p: Any) -> None:
    """Of the batch before: the one at hand has none."""
    for key in (entries.PSNR, entries.UNRECTIFIED):
        p.extra_generation_params.pop(key, None)


def write_reconstruction(p: Any, decibels: float | None, unrectified: float | None) -> None:
    """Write how well the source of a real image kept it, if known, and plain sampling from its noise, if checked."""
    p.extra_generation_params[entries.PSNR] = "unknown" if decibels is None else f"{decibels:.1f} dB"
    if unrectified is not None:
        p.extra_generation_params[entries.UNRECTIFIED] = f"{unrectified:.1f} dB"


def _entry(p: Any, batch: BranchBatch, key: str) -> Any:
    def value(index: int, **_: Any) -> str | None:
        return entries.of_branch(batch.settings, batch.branches(p.iteration)[index]).get(key)

    return value


def _entry_of_first_target(p: Any, batch: BranchBatch, key: str) -> str | None:
    return None if key == entries.BRANCH else entries.of_branch(batch.settings, Branch(0, 0)).get(key)
