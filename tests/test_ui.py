"""The accordion, built of a stand-in for Gradio; tests/e2e/test_browser.py has the real one."""

from __future__ import annotations

import importlib

import pytest

from lib_masactrl.setting_kinds import ChoiceSetting, CountSetting
from lib_masactrl.settings import SETTINGS
from tests import gradio_standin
from tests.webui_standin import installed


class Built:
    """An accordion: its components by key, and its rows by the keys of their settings."""

    def __init__(self, ui, tab, made, **given):
        made.clear()
        self.components = {
            setting.key: component for setting, component in ui.build(tab, ui.ControlNetRecipes(), **given)
        }
        keys = {id(component): key for key, component in self.components.items()}
        rows = [component for component in made if component.given.get("elem_classes") == ["masactrl-row"]]
        self.rows = {tuple(keys[id(child)] for child in row.children): row for row in rows}

    def seen_after(self, other, value):
        """What is visible, settings and rows, once ``other`` has ``value``."""
        changed = {}
        for _, function, outputs in self.components[other].listeners:
            if len(outputs) > 1:
                changed |= {id(output): update["visible"] for output, update in zip(outputs, function(value))}
        everything = {**self.components, **self.rows}
        return {name: changed.get(id(component), component.visible) for name, component in everything.items()}


@pytest.fixture
def build():
    with installed() as host:
        made, _ = gradio_standin.install(host)
        ui = importlib.import_module("lib_masactrl.ui")
        yield lambda tab, **given: Built(ui, tab, made, **given)


@pytest.mark.parametrize("tab", ["txt2img", "img2img"])
def test_every_setting_has_one_place(build, tab):
    accordion = build(tab)
    assert list(accordion.components) == [setting.key for setting in SETTINGS]
    assert sorted(key for row in accordion.rows for key in row) == sorted(setting.key for setting in SETTINGS[1:])


def test_a_setting_that_the_layout_does_not_name_comes_last(build, monkeypatch):
    ui = importlib.import_module("lib_masactrl.ui")
    monkeypatch.setattr(ui, "_ADVANCED", tuple(row for row in ui._ADVANCED if row != ("start_step",)))
    assert list(build("txt2img").rows)[-1] == ("start_step",)


@pytest.mark.parametrize("mask", ["none", "words", "painted"])
def test_settings_of_masks_are_shown_with_a_mask_only(build, mask):
    seen = build("txt2img").seen_after("mask", mask)
    assert seen["source_words"] is (mask == "words")
    assert seen["target_words"] is seen["mask_threshold"] is seen["show_masks"] is (mask != "none")
    assert seen["source_words", "target_words"] is seen["mask_threshold", "average_masks"] is (mask != "none")
    assert seen["show_source"] is seen["show_source", "show_masks"] is True


@pytest.mark.parametrize("source", ["auto", "prompt", "image"])
def test_settings_of_images_are_shown_with_an_image_only(build, source):
    seen = build("img2img").seen_after("source", source)
    assert seen["rectify"] is seen["inversion_steps"] is (source != "prompt")
    assert seen["inversion_steps", "inversion_refinements"] is (source != "prompt")


def test_choices_and_ranges_are_the_table_s(build):
    """Of the tab: what needs a picture is offered in img2img alone, and refused by a paste elsewhere."""
    tabs = {tab: build(tab) for tab in ("txt2img", "img2img")}
    for setting in SETTINGS:
        given = {tab: accordion.components[setting.key].given for tab, accordion in tabs.items()}
        if isinstance(setting, ChoiceSetting):
            assert given["img2img"]["choices"] == list(setting.choices)
            assert set(setting.choices) - set(given["txt2img"]["choices"]) == set(setting.picture_choices)
        assert tabs["txt2img"].components[setting.key].visible in (False, not setting.picture_only)
        if type(setting) is CountSetting:
            assert given["img2img"]["maximum"] == (setting.maximum or 150)
            assert setting.maximum is None or setting.parse(setting.maximum) == setting.maximum
    assert tabs["txt2img"].components["mask"].given["choices"] == ["none", "words"]
    assert tabs["img2img"].components["inversion_refinements"].given["maximum"] == 100


@pytest.mark.parametrize(("tab", "pasted", "warnings"), [("img2img", "painted", 0), ("txt2img", "none", 1)])
def test_a_pasted_choice_that_the_tab_has_not_is_told(build, monkeypatch, tab, pasted, warnings):
    ui, said = importlib.import_module("lib_masactrl.ui"), []
    monkeypatch.setattr(ui.gr, "Warning", said.append, raising=False)
    (mask,) = (setting for setting, _ in ui.build(tab, ui.ControlNetRecipes()) if setting.key == "mask")
    assert ui.PasteTarget(mask)({"MasaCtrl enabled": "True", "MasaCtrl mask": "painted"}) == pasted
    assert len(said) == warnings and all(
        "mask is 'painted', but it takes one of 'none', 'words'" in line for line in said
    )


def test_what_means_nothing_here_is_not_seen(build):
    accordion = build("txt2img", hidden={"control_guides"})
    assert not accordion.components["source"].listeners
    for key in ("source", "rectify", "inversion_steps", "control_guides"):
        (row,) = (row for keys, row in accordion.rows.items() if key in keys)
        assert not accordion.components[key].visible and not row.visible
