"""The axes of X/Y/Z plot and their values, over a stand-in; tests/e2e/test_xyz.py has the real plot."""

from __future__ import annotations

import importlib
import types

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


class AxisOption:
    """A1111's, with its arguments of 1.6."""

    def __init__(self, label, type, apply, confirm=None, choices=None):
        self.label, self.type, self.apply, self.confirm, self.choices = label, type, apply, confirm, choices


@pytest.fixture
def axes(host):
    """The axes by their settings' keys, as they stand once the script was loaded beside the plot's and others."""
    grid = types.SimpleNamespace(AxisOption=AxisOption, axis_options=[AxisOption("Nothing", str, None)])
    script = type("Script", (), {"__module__": "xyz_grid.py"})
    other = types.SimpleNamespace(script_class=AxisOption, module=None)
    host.scripts.scripts_data = [other, types.SimpleNamespace(script_class=script, module=grid)]
    register = importlib.import_module("lib_masactrl.host.xyz").register_axes
    register()
    keys = {f"[MasaCtrl] {setting.label}": setting.key for setting in SETTINGS}
    made = {keys[option.label]: option for option in grid.axis_options[1:]}
    register()
    assert len(grid.axis_options) == 1 + len(made), "registered once, however often the page is rebuilt"
    return made


def test_every_setting_has_an_axis_in_the_order_of_the_table(axes):
    """But for that of ControlNet, which is not there."""
    assert list(axes) == [setting.key for setting in SETTINGS if setting.key != "control_guides"]


def test_choices_and_kinds(axes):
    assert axes["method"].choices() == ["mutual", "union"]
    assert axes["rectify"].choices() == ["True", "False"]
    assert axes["source_prompt"].choices is None
    kinds = {key: axes[key].type for key in ("start_step", "inversion_steps", "start_layer", "mask_threshold")}
    assert kinds == {"start_step": int, "inversion_steps": int, "start_layer": str, "mask_threshold": str}


def test_a_value_is_put_on_a_cell_alone(axes):
    """Cells are shallow copies of one request."""
    request = types.SimpleNamespace()
    axes["start_step"].apply(request, 2, [2, 3])
    cell = types.SimpleNamespace(**vars(request))
    axes["method"].apply(cell, "union", [])
    assert cell.masactrl_overrides == {"start_step": 2, "method": "union"}
    assert request.masactrl_overrides == {"start_step": 2}
