"""Law 10, its pure half: one table, and what its surfaces make of it agrees."""

from __future__ import annotations

import math
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib_masactrl.errors import SettingsError
from lib_masactrl.setting_kinds import MAXIMUM_TEXT_LENGTH
from lib_masactrl.settings import (
    SETTINGS,
    MasaCtrlSettings,
)

KEYS = [setting.key for setting in SETTINGS]

counts = st.integers(0, 200)
texts = st.text(max_size=40)
valid = st.fixed_dictionaries(
    {"source_prompt": st.text(alphabet=string.printable, min_size=1, max_size=40).filter(str.strip)},
    optional={
        "enabled": st.just(True),
        "more_targets": texts,
        "source": st.sampled_from(["auto", "prompt", "image"]),
        "method": st.sampled_from(["mutual", "union"]),
        "start_step": counts,
        "start_layer": st.none() | counts,
        "inversion_steps": counts,
        "inversion_refinements": st.integers(0, 100),
        "rectify": st.booleans(),
        "check_inversion": st.booleans(),
        "show_source": st.booleans(),
        "mask": st.sampled_from(["none", "words", "painted"]),
        "mask_threshold": st.just("auto") | st.floats(0, 1),
    },
).map(lambda values: {**values, "enabled": True})


def test_the_contract_of_design_6():
    settings = MasaCtrlSettings()
    assert settings.start_step == 4
    assert (settings.end_step, settings.start_layer) == (None, None)
    assert (settings.enabled, settings.source_prompt, settings.method, settings.show_source) == (
        False,
        "",
        "mutual",
        True,
    )


@given(valid)
def test_named_positional_and_infotext_forms_agree(values):
    named = MasaCtrlSettings.from_args([values, "ignored UI default"])
    positional = MasaCtrlSettings.from_args([getattr(named, key) for key in KEYS])
    assert positional == named
    assert MasaCtrlSettings.from_infotext({**named.to_infotext(), "Steps": "20"}) == named


def test_only_settings_that_differ_from_their_default_are_written():
    settings = MasaCtrlSettings(enabled=True, source_prompt="a cat", start_step=6)
    assert settings.to_infotext() == {
        "MasaCtrl enabled": "True",
        "MasaCtrl source prompt": "a cat",
        "MasaCtrl start step": "6",
    }
    assert MasaCtrlSettings(start_step=6).to_infotext() == {}


@pytest.mark.parametrize("empty", [None, "", " ", "auto", "none"])
def test_an_empty_layer_is_automatic(empty):
    assert MasaCtrlSettings(start_layer=empty, end_step=empty) == MasaCtrlSettings()


@pytest.mark.parametrize("number", [7, 7.0, "7", " 7 "])
def test_whole_numbers_in_every_form_a_surface_gives(number):
    settings = MasaCtrlSettings(start_step=number, start_layer=number)
    assert (settings.start_step, settings.start_layer) == (7, 7)


REFUSED = [
    ("enabled", 1),
    ("enabled", "yes"),
    ("enabled", None),
    ("source_prompt", None),
    ("source_prompt", ["a cat"]),
    ("source_prompt", "x" * (MAXIMUM_TEXT_LENGTH + 1)),
    ("source_prompt", "x" * 10_000_000),
    ("more_targets", 3),
    ("more_targets", "a\n" * 40),
    ("source", "picture"),
    ("source", True),
    ("inversion_steps", -1),
    ("inversion_refinements", 101),
    ("inversion_steps", 1001),
    ("rectify", "maybe"),
    ("method", "Mutual"),
    ("method", 0),
    ("method", None),
    ("start_step", -1),
    ("start_step", 4.5),
    ("start_step", math.nan),
    ("start_step", math.inf),
    ("start_step", True),
    ("start_step", None),
    ("start_step", "four"),
    ("start_step", "4" * 50),
    ("start_step", "\u00b2"),
    ("start_step", {}),
    ("end_step", -1),
    ("end_step", 3),
    ("end_step", [5]),
    ("start_layer", -1),
    ("start_layer", "ten"),
    ("start_layer", 1.5),
    ("mask", "drawn"),
    ("mask", True),
    ("source_words", 5),
    ("mask_threshold", -0.1),
    ("mask_threshold", 1.1),
    ("mask_threshold", math.nan),
    ("mask_threshold", "otsu"),
    ("mask_threshold", None),
    ("mask_threshold", True),
    ("show_source", "maybe"),
    ("show_source", 2),
]


@pytest.mark.parametrize(("key", "value"), REFUSED)
def test_bad_values_are_refused_in_one_short_line_that_names_the_key(key, value):
    with pytest.raises(SettingsError, match=key) as refusal:
        MasaCtrlSettings.from_args([{"enabled": True, "source_prompt": "a cat", key: value}])
    message = str(refusal.value)
    assert message == f"MasaCtrl: {refusal.value.message}" and "MasaCtrl: " not in refusal.value.message
    assert "\n" not in message
    assert len(message) < 300
    assert vars(refusal.value)["status_code"] == 422  # the host's API handler reads vars()
    assert vars(refusal.value)["detail"] == message


@pytest.mark.parametrize("key", ["start_stpe", "", 5, "x" * 100_000])
def test_unknown_keys_are_refused_with_those_that_exist(key):
    with pytest.raises(SettingsError, match=r"unknown setting .*start_step") as refusal:
        MasaCtrlSettings.from_args([{key: 1}])
    assert len(str(refusal.value)) < 400


def test_an_enabled_run_needs_a_source_prompt():
    with pytest.raises(SettingsError, match="source_prompt is empty"):
        MasaCtrlSettings.from_args([True, "prompt", "  "])
    with pytest.raises(SettingsError, match="source_prompt is empty"):
        MasaCtrlSettings.from_args([True]).with_source_settled(image_given=False)


def test_the_source_is_settled_by_whether_there_is_an_image():
    auto = MasaCtrlSettings(enabled=True, source_prompt="a cat")
    assert auto.with_source_settled(image_given=False).source == "prompt"
    assert auto.with_source_settled(image_given=True).source == "image"
    assert MasaCtrlSettings(enabled=True).with_source_settled(image_given=True).source == "image"
    given = auto.replace(source="prompt")
    assert given.with_source_settled(image_given=True) is given
    with pytest.raises(SettingsError, match="no picture here"):
        auto.replace(source="image").with_source_settled(image_given=False)


ALL_WORDS = {"source_words": "cat", "target_words": "cat", "mask_threshold": 0.3, "average_masks": True}
OF_IMAGES = {"inversion_steps": 90, "inversion_refinements": 1, "rectify": False, "check_inversion": True}


@pytest.mark.parametrize(
    ("values", "idle"),
    [
        ({}, []),
        ({"mask_threshold": 0.1, "rectify": True}, []),  # as by default
        ({"mask": "words", **ALL_WORDS, "show_masks": True}, []),
        ({**ALL_WORDS, "show_masks": True}, [*ALL_WORDS, "show_masks"]),
        ({"mask": "painted", **ALL_WORDS, "show_masks": True}, ["source_words"]),
        ({"mask": "painted", **ALL_WORDS, "target_words": " , "}, ["source_words", "mask_threshold", "average_masks"]),
        (OF_IMAGES, []),
        ({"source": "image", **OF_IMAGES}, []),
        ({"source": "prompt", **OF_IMAGES}, list(OF_IMAGES)),
        (
            {"source": "prompt", "start_step": 0, "more_targets": "a dog", "method": "union", "control_guides": "both"},
            [],
        ),
    ],
)
def test_what_does_nothing_beside_the_others_is_known(values, idle):
    settings = MasaCtrlSettings.from_mapping({"enabled": True, "source_prompt": "a cat", **values})
    assert [setting.key for setting in settings.without_effect()] == idle


def test_more_values_than_settings_are_refused():
    with pytest.raises(SettingsError, match=f"there are {len(KEYS)} settings"):
        MasaCtrlSettings.from_args([False] + [""] * len(KEYS))


def test_what_stands_in_a_closed_accordion_cannot_stop_a_picture():
    assert (
        MasaCtrlSettings.from_args([False, "prompt", "", "", "mutual", 4, "three", "ten", True]) == MasaCtrlSettings()
    )


def test_overrides_win_and_are_checked():
    assert MasaCtrlSettings.from_args([True, "prompt", "a cat"], {"start_step": "8"}).start_step == 8
    assert MasaCtrlSettings.from_args([False, "prompt", "a cat"], {"enabled": "True"}).enabled
    with pytest.raises(SettingsError, match="start_step"):
        MasaCtrlSettings.from_args([True, "prompt", "a cat"], {"start_step": -1})


def test_targets_are_the_lines_that_say_something():
    settings = MasaCtrlSettings(more_targets=" a cat running \n\n a cat asleep\n")
    assert settings.target_prompts == ("a cat running", "a cat asleep")
    assert settings.targets == 3
