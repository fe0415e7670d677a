"""The buttons that set up ControlNet's first unit, over stand-ins for Gradio and for ControlNet's components.

That a real extension's units are set up is proved by ``tests/e2e/test_browser_controlnet.py``.
"""

from __future__ import annotations

import importlib

import pytest

from tests.gradio_standin import install


@pytest.fixture
def recipes(host):
    made, _ = install(host)
    module = importlib.import_module("lib_masactrl.host.recipes")
    module.made = made
    return module


class Block:
    """Any other component."""

    def __init__(self, **given):
        vars(self).update(given)


class Part:
    """A component of ControlNet's; its listeners are kept."""

    def __init__(self, name, tab="img2img", number="-0", choices=()):
        self.elem_id = f"{tab}_controlnet_ControlNet{number}_controlnet_{name}"
        self.choices, self.changed = choices, []

    def change(self, **given):
        self.changed.append(given)


TYPES = ["All", "Canny", ("Depth", "Depth")]  # as A1111 and as newer Gradio have choices


def unit(number="-0", preprocessors=("none", "canny"), types=TYPES):
    return [
        Part("enable_checkbox", number=number),
        Part("type_filter_radio", number=number, choices=types),
        Part("preprocessor_dropdown", number=number, choices=preprocessors),
    ]


def connected(recipes, parts, ours_first):
    """The buttons of img2img, by name, whichever extension is built first."""
    buttons = recipes.ControlNetRecipes()
    buttons.build("img2img")
    if ours_first:
        buttons.connect("enabled", "guides")
    for part in parts:
        buttons.notice(part)
    if not ours_first:
        buttons.connect("enabled", "guides")
    return buttons


def pressed(button, guides="", kind="All"):
    """What a button sets, by component."""
    ((_, function, outputs),) = button.listeners
    return dict(zip(outputs, function(guides, kind)))


@pytest.mark.parametrize("ours_first", [True, False])
@pytest.mark.parametrize("number", ["-0", ""])
def test_a_button_sets_up_the_first_unit(recipes, ours_first, number):
    parts = enable, kind, preprocessor = unit(number)
    strangers = [Part("enable_checkbox", number="-1"), Part("enable_checkbox", tab="txt2img"), Block()]
    buttons = connected(recipes, [*strangers, *parts], ours_first)
    assert buttons._row.visible
    assert [name for name, button in buttons._buttons.items() if button.visible] == ["canny", "depth"]
    set_to = pressed(buttons._buttons["canny"], "source")
    assert {enable: True, kind: "Canny", "enabled": True, "guides": "target, source"}.items() <= set_to.items()
    assert set_to[preprocessor] == "none" and not set(strangers[:2]) & set(set_to)
    ((listener,),) = (preprocessor.changed,)
    assert listener["inputs"] == [preprocessor, buttons._wanted] == listener["outputs"]


def test_accordions_are_opened(recipes):
    """That of the extension, and in the Forge family the first unit's, whose checkbox its own script leaves alone."""
    accordion = Block(elem_id="controlnet")
    first, second = (Block(elem_classes=["cnet-unit-enabled-accordion"], accordion=f"{n}'s") for n in (0, 1))
    buttons = connected(recipes, [accordion, first, second, *unit()], ours_first=True)
    set_to = pressed(buttons._buttons["canny"])
    assert set_to[accordion] == set_to["0's"] == {"open": True} and set_to[first] is True
    assert second not in set_to and "1's" not in set_to


def test_an_extension_that_cannot_choose_none_chooses_by_itself(recipes):
    """Then a preprocessor of ours could not be told from what stood there before."""
    *_, preprocessor = parts = unit(preprocessors=("canny", "invert"))
    buttons = connected(recipes, parts, ours_first=True)
    assert pressed(buttons._buttons["canny"])[preprocessor] == {}


def test_without_controlnet_the_buttons_are_not_shown(recipes):
    enable, kind, _ = unit()
    assert not connected(recipes, [enable, kind], ours_first=True)._row.visible
    assert not connected(recipes, [], ours_first=False)._row.visible


@pytest.mark.parametrize("chosen", ["canny", "invert"])
def test_a_recipe_has_its_preprocessor_whichever_the_extension_chooses(recipes, chosen):
    """What the user chooses after that is left alone."""
    guides, preprocessor, wanted = recipes._set_up({}, "Canny", "canny", "None", "source", "All")
    assert (guides, preprocessor) == ("target, source", "None")
    left_alone = {}
    assert recipes._correct("None", preprocessor, wanted) == [left_alone, wanted]
    correction, wanted = recipes._correct("None", chosen, wanted)
    assert correction == (left_alone if chosen == "canny" else "canny")
    assert recipes._correct("None", "invert", wanted) == [left_alone, ""]


def test_a_recipe_pressed_again_and_one_without_a_preprocessor_of_its_own(recipes):
    assert recipes._set_up({}, "Canny", "canny", "None", "target", "Canny") == ["target", "canny", ""]
    assert recipes._set_up({1: True}, "Depth", None, "None", None, "All") == ["target", True, {}, ""]
