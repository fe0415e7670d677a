"""How settings stand in an infotext; that the host brings them back is proved by tests/e2e/test_round_trip.py."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lib_masactrl.branches import Branch
from lib_masactrl.errors import SettingsError
from lib_masactrl.infotext_entries import escaped, of_branch, read, sets, unescaped
from lib_masactrl.settings import SETTINGS, MasaCtrlSettings
from tests.setting_values import accordions

KEY = "MasaCtrl source prompt"


@pytest.mark.parametrize(
    "text", ["a cat", "a cat, sitting", 'a "cat"', "two\nlines", " a, cat ", "猫", "(a:1.2)", "[a]"]
)
def test_a_text_that_the_host_brings_back_is_written_as_it_is(text):
    assert escaped(KEY, text) == unescaped(text) == text


@pytest.mark.parametrize(
    "text", ["", " a cat", "a cat ", '"a cat"', "512x512", "512x512\n", KEY, "a\tcat", "\u3000cat", '["a"]', '["a, b"]']
)
def test_a_text_that_the_host_would_change_is_not(text):
    assert escaped(KEY, text).startswith('["')


@given(st.text())
def test_nothing_is_lost(text):
    assert unescaped(escaped(KEY, text)) == text


@pytest.mark.parametrize("text", ['["', '["a', '["a"] and more'])
def test_a_text_of_an_earlier_version_is_no_list(text):
    assert unescaped(text) == text


@given(accordions, st.booleans())
@settings(max_examples=500, deadline=None)
def test_every_setting_of_a_target_is_read_back(named, image_given):
    try:
        written = MasaCtrlSettings.from_mapping(named).with_source_settled(image_given)
    except SettingsError:
        assume(False)
    entries = of_branch(written, Branch(0, 0))
    assert all(sets(setting, entries) for setting in SETTINGS)
    assert MasaCtrlSettings.from_mapping({s.key: read(s, entries) for s in SETTINGS}) == written


@given(accordions)
def test_a_source_switches_control_off_and_leaves_the_rest(named):
    entries = of_branch(MasaCtrlSettings.from_mapping({**named, "source": "image"}), Branch(0, None))
    assert [setting.key for setting in SETTINGS if sets(setting, entries)] == ["enabled"]
    assert read(SETTINGS[0], entries) is False


def test_an_infotext_of_the_first_version_has_a_prompt_as_its_source():
    entries = {"MasaCtrl enabled": "True", "MasaCtrl source prompt": "a cat", "MasaCtrl version": "0.1.0"}
    found = {setting.key: read(setting, entries) for setting in SETTINGS}
    defaults = {setting.key: setting.default for setting in SETTINGS}
    assert found == {**defaults, "enabled": True, "source": "prompt", "source_prompt": "a cat"}


@pytest.mark.parametrize(("key", "value"), [("method", "telepathy"), ("start_step", "soon"), ("mask", "scribbled")])
def test_a_value_of_a_later_version_is_not_guessed(key, value):
    setting = next(s for s in SETTINGS if s.key == key)
    with pytest.raises(SettingsError, match=key):
        read(setting, {setting.infotext_key: value})
