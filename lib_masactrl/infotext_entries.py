"""The entries of ours in an image's infotext: what they are called, how they are written and read, on every host."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from lib_masactrl.branches import Branch
from lib_masactrl.setting_kinds import Setting
from lib_masactrl.settings import SETTINGS, MasaCtrlSettings
from lib_masactrl.version import VERSION as PRESENT_VERSION

#: Every key of ours begins so; those of settings follow from their labels (``Setting.infotext_key``).
PREFIX = "MasaCtrl "
VERSION, BRANCH, RESULT = "MasaCtrl version", "MasaCtrl branch", "MasaCtrl result"
FOREGROUND, REFUSAL, WITHOUT_EFFECT = "MasaCtrl foreground", "MasaCtrl refusal", "MasaCtrl without effect"
INVERSION, PSNR, UNRECTIFIED = "MasaCtrl inversion", "MasaCtrl PSNR", "MasaCtrl PSNR unrectified"

_ENABLED = SETTINGS[0]

#: A value like this comes back from the host as two numbers under other keys (A1111 ``infotext_utils.re_imagesize``).
_SIZE = re.compile(r"\d+x\d+$")


def of_branch(settings: MasaCtrlSettings, branch: Branch) -> dict[str, str]:
    """The entries of one image that are known before it is made."""
    if branch.target is None:
        return {VERSION: PRESENT_VERSION, BRANCH: "source"}
    own = settings if branch.target == 0 else settings.replace(more_targets="")
    entries = {key: escaped(key, value) for key, value in own.to_infotext().items()}
    return {VERSION: PRESENT_VERSION, BRANCH: f"target {branch.target + 1}", **entries}


def result(steps: int, steps_run: int, layers: int, all_layers: int) -> str:
    """What was really controlled: how many of the steps that ran, and of the layers there are."""
    return f"{steps} of {steps_run} steps; {layers} of {all_layers} layers"


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
