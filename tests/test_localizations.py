"""The translations are of what the accordion really says: the host looks them up by the whole text."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from lib_masactrl.presets import PRESETS
from lib_masactrl.settings import SETTINGS

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "localizations").glob("*.json"))

#: Texts that only Gradio's widgets hold; their modules need a host to be imported.
CODE = [
    ROOT / "lib_masactrl" / "ui.py",
    ROOT / "lib_masactrl" / "host" / "options.py",
    ROOT / "lib_masactrl" / "host" / "recipes.py",
    ROOT / "javascript" / "masactrl.js",
]


def spoken() -> set[str]:
    """Every text that a user may read."""
    texts = {text for setting in SETTINGS for text in (setting.label, setting.help)}
    texts |= {preset.name for preset in PRESETS}
    for file in CODE:
        source = re.sub(r'"\n\s+"', "", file.read_text(encoding="utf-8"))  # adjacent literals are one text
        texts |= set(re.findall(r'"([^"\n]+)"', source))
    return texts


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_no_translation_is_of_a_text_that_is_gone(file):
    translations = json.loads(file.read_text(encoding="utf-8"))
    assert not set(translations) - spoken(), "translate the new text, or delete the old one"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_translation_fills_in_the_same_values(file):
    for text, translation in json.loads(file.read_text(encoding="utf-8")).items():
        assert sorted(re.findall(r"{\d}", text)) == sorted(re.findall(r"{\d}", translation)), text


def test_all_languages_say_the_same():
    keys = [set(json.loads(file.read_text(encoding="utf-8"))) for file in FILES]
    assert len(keys) == 2 and keys[0] == keys[1]
