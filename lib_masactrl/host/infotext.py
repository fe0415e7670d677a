"""What a request writes into the infotext of its images (``p.extra_generation_params``), and how it is read back."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from typing import Any

from lib_masactrl.branches import Branch
from lib_masactrl.host.batch import BranchBatch
from lib_masactrl.setting_kinds import Setting
from lib_masactrl.settings import (
    SETTINGS,
    MasaCtrlSettings,
)
from lib_masactrl.version import VERSION

_PREFIX = "MasaCtrl "
_RESULT, _BRANCH, _VERSION = "MasaCtrl result", "MasaCtrl branch", "MasaCtrl version"
_FOREGROUND, _REFUSAL, _WITHOUT_EFFECT = "MasaCtrl foreground", "MasaCtrl refusal", "MasaCtrl without effect"
_INVERSION, _PSNR, _UNRECTIFIED = "MasaCtrl inversion", "MasaCtrl PSNR", "MasaCtrl PSNR unrectified"

_ENABLED = SETTINGS[0]

#: A value like this comes back from the host as two numbers under other keys (A1111 ``infotext_utils.re_imagesize``).
_SIZE = re.compile(r"\d+x\d+$")


def clear(p: Any) -> None:
    """Remove our entries: X/Y/Z plot shares one dictionary between the copies of a request that are its cells."""
    if any(key.startswith(_PREFIX) for key in p.extra_generation_params):
        kept = {key: value for key, value in p.extra_generation_params.items() if not key.startswith(_PREFIX)}
        p.extra_generation_params = kept


def write(p: Any, batch: BranchBatch, per_image: bool) -> None:
    """Write the settings into the infotext of every target; a source's names its branch only.

    A target's infotext pasted back makes that target and its source again. A source's, pasted back, makes the plain
    image of the source prompt, which is the same picture.

    Args:
        per_image: whether the host takes a callable as the value of an entry, and calls it for each image. If not,
            every infotext is the first target's.
    """
    keys = {_VERSION, _BRANCH, *batch.settings.to_infotext()}
    entry = _entry if per_image else _entry_of_first_target
    p.extra_generation_params = {**p.extra_generation_params, **{key: entry(p, batch, key) for key in sorted(keys)}}


def write_result(p: Any, steps: int, steps_run: int, layers: tuple[int, int]) -> None:
    """Write what was really controlled: how many of the steps that ran, and (controlled, all) layers."""
    p.extra_generation_params[_RESULT] = f"{steps} of {steps_run} steps; {layers[0]} of {layers[1]} layers"


def write_without_effect(p: Any, settings: Collection[Setting]) -> None:
    """Write which settings differ from their default and did nothing beside the others."""
    if settings:
        p.extra_generation_params[_WITHOUT_EFFECT] = ", ".join(setting.label.lower() for setting in settings)


def write_refusal(p: Any, said: str) -> None:
    """Write why the images are made without control, although it was asked for; pasted back, they stay plain."""
    p.extra_generation_params = {**p.extra_generation_params, _VERSION: VERSION, _REFUSAL: said}


def write_foreground(p: Any, said: str) -> None:
    """Write how much of each branch of the batch was foreground."""
    p.extra_generation_params[_FOREGROUND] = said


def write_inversion(p: Any, evaluations: int) -> None:
    """Write what inverting a real image and checking that took; nothing, if both are kept from an earlier request."""
    said = f"{evaluations} U-Net calls" if evaluations else "kept from an earlier request"
    p.extra_generation_params[_INVERSION] = said


def write_interruption(p: Any, doing: str) -> None:
    """Write what an inversion was doing when it was interrupted or skipped."""
    p.extra_generation_params[_INVERSION] = f"interrupted while {doing}"


def clear_reconstruction(p: Any) -> None:
    """Of the batch before: the one at hand has none."""
    for key in (_PSNR, _UNRECTIFIED):
        p.extra_generation_params.pop(key, None)


def write_reconstruction(p: Any, decibels: float | None, unrectified: float | None) -> None:
    """Write how well the source of a real image kept it, if known, and plain sampling from its noise, if checked."""
    p.extra_generation_params[_PSNR] = "unknown" if decibels is None else f"{decibels:.1f} dB"
    if unrectified is not None:
        p.extra_generation_params[_UNRECTIFIED] = f"{unrectified:.1f} dB"


def of_branch(settings: MasaCtrlSettings, branch: Branch) -> dict[str, str]:
    """The infotext entries of one image."""
    if branch.target is None:
        return {_VERSION: VERSION, _BRANCH: "source"}
    own = settings if branch.target == 0 else settings.replace(more_targets="")
    entries = {key: escaped(key, value) for key, value in own.to_infotext().items()}
    return {_VERSION: VERSION, _BRANCH: f"target {branch.target + 1}", **entries}


def sets(setting: Setting, entries: Mapping[str, Any]) -> bool:
    """Whether a pasted infotext, as the host parses it, decides this setting.

    A picture made without control (or a source, which is the plain picture of its prompt) switches control off and
    leaves the rest to the user. Any other decides every setting.
    """
    return setting is _ENABLED or _ENABLED.infotext_key in entries


def read(setting: Setting, entries: Mapping[str, Any]) -> Any:
    """The value of a setting in an infotext that decides it; only what differs from its default was written.

    Raises:
        SettingsError: a value that this version does not know.
    """
    if setting.infotext_key not in entries:
        # Version 0.1.0 knew no other source, so it named none; later ones always do.
        return "prompt" if setting.key == "source" else setting.default
    return setting.parse(unescaped(entries[setting.infotext_key]))


def escaped(key: str, text: str) -> str:
    """``text`` in a form that the host's own quoting brings back unchanged; as it is wherever that does.

    The host quotes a value with a comma, a colon or a line break as JSON, and reads every other one bare: it strips
    white space and quotation marks, takes ``512x512`` apart, and writes a value equal to its key as the key alone
    (A1111 ``infotext_utils``, ``create_infotext``). Such a text is written as a JSON list of one, ``[" a cat"]``.
    """
    quoted_by_host = any(mark in text for mark in ",:\n")
    bare = text != "" and text == text.strip() and text[0] != '"' and text.isprintable()
    if (quoted_by_host or bare) and text != key and text[:2] != '["' and not _SIZE.match(text):
        return text
    return json.dumps([text], ensure_ascii=False)


def unescaped(text: Any) -> Any:
    """What :func:`escaped` was given."""
    if isinstance(text, str) and text.startswith('["'):
        try:
            return json.loads(text)[0]
        except ValueError:  # not ours: a text that an earlier version wrote as it was
            return text
    return text


def _entry(p: Any, batch: BranchBatch, key: str) -> Any:
    def value(index: int, **_: Any) -> str | None:
        return of_branch(batch.settings, batch.branches(p.iteration)[index]).get(key)

    return value


def _entry_of_first_target(p: Any, batch: BranchBatch, key: str) -> str | None:
    return None if key == _BRANCH else of_branch(batch.settings, Branch(0, 0)).get(key)
