"""The axes of X/Y/Z plot, one for each setting; tests/e2e/test_xyz.py has the cells that a real plot makes of them."""

from __future__ import annotations

import csv
import importlib
import re
import types

import pytest

from lib_masactrl.errors import SettingsError
from lib_masactrl.settings import SETTINGS


class AxisOption:
    """A1111's, as far as it goes in 1.6: no ``prepare`` among its arguments."""

    def __init__(self, label, type, apply, confirm=None, choices=None):
        self.label, self.type, self.apply, self.confirm, self.choices = label, type, apply, confirm, choices


@pytest.fixture
def grid(host):
    """The module of the plot's script."""
    return types.SimpleNamespace(
        AxisOption=AxisOption,
        axis_options=[AxisOption("Nothing", str, None)],
        csv_string_to_list_strip=lambda text: [value.strip() for value in next(csv.reader([text]))],
        re_range=re.compile(r"\s*([+-]?\s*\d+)\s*-\s*([+-]?\s*\d+)(?:\s*\(([+-]\d+)\s*\))?\s*"),
    )


@pytest.fixture
def axes(host, grid):
    """The axes by their settings' keys, as they stand once the script was loaded beside the plot's and others."""
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


@pytest.mark.parametrize(
    ("typed", "values"),
    [
        ("auto, 4-12 (+4)", ["auto", "4", "8", "12"]),
        ("2-4", ["2", "3", "4"]),
        ("7", ["7"]),
        ("7, deep", ["7", "deep"]),
    ],
)
def test_numbers_or_auto_have_ranges(axes, typed, values):
    assert axes["start_layer"].prepare(typed) == axes["end_step"].prepare(typed) == values
    assert not hasattr(axes["start_step"], "prepare"), "the host itself reads ranges of numbers"


def test_a_value_is_put_on_a_cell_alone(axes):
    """Cells are shallow copies of one request."""
    request = types.SimpleNamespace()
    axes["start_step"].apply(request, 2, [2, 3])
    cell = types.SimpleNamespace(**vars(request))
    axes["method"].apply(cell, "union", [])
    assert cell.masactrl_overrides == {"start_step": 2, "method": "union"}
    assert request.masactrl_overrides == {"start_step": 2}


def test_a_wrong_value_is_refused_before_anything_is_made(axes):
    axes["start_layer"].confirm(None, ["4", "auto", ""])
    with pytest.raises(SettingsError, match="start_layer is 'deep'"):
        axes["start_layer"].confirm(None, ["4", "deep"])
