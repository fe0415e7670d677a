"""How settings stand in an infotext; that the host brings them back is proved by tests/e2e/test_round_trip.py."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib_masactrl.host.infotext import escaped, unescaped

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
