"""Everything that a user reads is translated: the host looks each text up as a whole."""

from __future__ import annotations

import importlib
import json
import re
import sys
import types
from pathlib import Path

import pytest

from tests import gradio_standin
from tests.webui_standin import installed

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "localizations").glob("*.json"))
#: The same in every language.
NAMES = {"MasaCtrl", "ControlNet", "canny", "auto"}


def in_the_accordion(made):
    ui = importlib.import_module("lib_masactrl.ui")
    for tab in ("txt2img", "img2img"):
        ui.build(tab, ui.ControlNetRecipes())
    return {text for component in made for text in component.texts()}


def on_the_settings_page(options):
    importlib.import_module("lib_masactrl.host.options").add_page()
    return {text for option in options.values() for text in option.texts}


def of_the_axes(host):
    grid = types.SimpleNamespace(axis_options=[], AxisOption=lambda label, *_, **__: types.SimpleNamespace(label=label))
    script_class = type("Script", (), {"__module__": "xyz_grid.py"})
    controlnet = type("Script", (), {"__module__": "controlnet.py"})  # else its axis is not there
    host.scripts.scripts_data = [
        types.SimpleNamespace(script_class=script_class, module=grid),
        types.SimpleNamespace(script_class=controlnet, module=None),
    ]
    importlib.import_module("lib_masactrl.host.xyz").register_axes()
    return {option.label for option in grid.axis_options}


def of_the_preview(monkeypatch):
    """With no checkpoint loaded, with one, and with one that fails."""
    preview = importlib.import_module("lib_masactrl.host.word_preview")
    given = ("words", "cat", "cat", "", "")
    said = [preview.matches(*given)]
    sys.modules["modules.sd_models"].model_data.sd_model = object()
    monkeypatch.setattr(preview, "HostTokenizer", lambda model: None)
    said.append(preview.matches(*given))
    monkeypatch.setattr(preview, "texts_of", lambda prompt, steps: [])
    said.append(preview.matches(*given))
    return {text for html in said for text in gradio_standin.texts_of_html(html)}


def of_the_script():
    script = (ROOT / "javascript" / "masactrl.js").read_text(encoding="utf-8")
    return set(re.findall(r'(?:filled|translated)\("([^"]+)"', script))


@pytest.fixture
def spoken(monkeypatch):
    with installed() as host:
        made, options = gradio_standin.install(host)
        places = [in_the_accordion(made), on_the_settings_page(options), of_the_axes(host)]
        places += [of_the_preview(monkeypatch), of_the_script()]
        assert all(places)
        yield set().union(*places) - NAMES


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_text_is_translated_and_no_other(file, spoken):
    translations = json.loads(file.read_text(encoding="utf-8"))
    assert sorted(spoken - set(translations)) == [], "translate these"
    assert sorted(set(translations) - spoken) == [], "nobody says these any more"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_translation_fills_in_the_same_values(file):
    for text, translation in json.loads(file.read_text(encoding="utf-8")).items():
        assert translation.strip()
        assert sorted(re.findall(r"{\d}", text)) == sorted(re.findall(r"{\d}", translation)), text


def test_there_are_two_languages():
    assert [file.stem for file in FILES] == ["ja_JP", "zh_CN"]
