"""The values of X/Y/Z axes, which the host hands over as texts; tests/e2e/test_xyz.py has the real plot."""

from __future__ import annotations

import importlib

import pytest

from lib_masactrl.errors import SettingsError
from lib_masactrl.settings import SETTINGS
from tests.webui_standin import installed


@pytest.fixture
def confirmed():
    """What the host goes on with once an axis's ``confirm`` has seen its values."""
    with installed():
        xyz = importlib.import_module("lib_masactrl.host.xyz")
        settings = {setting.key: setting for setting in SETTINGS}

        def confirm(key, *values):
            given = list(values)
            xyz._confirm(settings[key])(None, given)
            return given

        yield confirm


@pytest.mark.parametrize(
    ("key", "text", "values"),
    [
        ("start_layer", "4-12 (+4)", ["4", "8", "12"]),
        ("start_layer", " 4 - 11(+4)", ["4", "8"]),
        ("end_step", "8-10", ["8", "9", "10"]),
        ("start_layer", "0-10 [3]", ["0", "5", "10"]),
        ("start_layer", "0-10 [4]", ["0", "3", "6", "10"]),
        ("start_layer", "7-9 [1]", ["7"]),
        ("mask_threshold", "0.1-0.5 (+0.2)", ["0.1", "0.3", "0.5"]),
        ("mask_threshold", "0-1 [5]", ["0.0", "0.25", "0.5", "0.75", "1.0"]),
        ("mask_threshold", "1e-3", ["1e-3"]),
        ("source_prompt", "1-3 (+1)", ["1-3 (+1)"]),
    ],
)
def test_ranges(confirmed, key, text, values):
    assert confirmed(key, "auto", text, "auto") == ["auto", *values, "auto"]


@pytest.mark.parametrize("text", ["4-12 (+0)", "12-4", "4-12 (-4)", "-4", "4-x", "0-9 [0]"])
def test_what_is_no_range_is_refused_as_it_stands(confirmed, text):
    with pytest.raises(SettingsError) as refusal:
        confirmed("start_layer", text)
    assert repr(text) in str(refusal.value)


def test_numbers_come_from_the_host_as_they_are(confirmed):
    assert confirmed("start_step", 4, 8) == [4, 8]
