"""X/Y/Z plot axes, one for each setting, derived from the settings table."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from modules import scripts

from lib_masactrl.host.controlnet import hidden_settings
from lib_masactrl.host.request import OVERRIDES
from lib_masactrl.setting_kinds import (
    ChoiceSetting,
    CountSetting,
    FlagSetting,
    OptionalCountSetting,
    Setting,
)
from lib_masactrl.settings import SETTINGS

_PREFIX = "[MasaCtrl] "


def register_axes() -> None:
    """Add the axes to the X/Y/Z plot script, once, however often the UI is rebuilt.

    The script's module is found by its class's module name (A1111 ``extensions-builtin/hypertile`` does the same).
    """
    for data in scripts.scripts_data:
        if data.script_class.__module__ in ("xyz_grid.py", "scripts.xyz_grid"):
            grid = data.module
            present = {option.label for option in grid.axis_options}
            new = [_axis(grid, setting) for setting in SETTINGS if setting.key not in hidden_settings()]
            grid.axis_options.extend(option for option in new if option.label not in present)


def _axis(grid: Any, setting: Setting) -> Any:
    kind = int if isinstance(setting, CountSetting) and not isinstance(setting, OptionalCountSetting) else str
    choices = None
    if isinstance(setting, ChoiceSetting):
        choices = list(setting.choices)
    elif isinstance(setting, FlagSetting):
        choices = ["True", "False"]
    axis = grid.AxisOption(
        _PREFIX + setting.label,
        kind,
        _apply(setting),
        confirm=_confirm(setting),
        choices=None if choices is None else lambda: choices,
    )
    if isinstance(setting, OptionalCountSetting):  # assigned, because A1111 1.6 knows no such argument
        axis.prepare = functools.partial(_counts, grid)
    return axis


def _counts(grid: Any, text: str) -> list[str]:
    """The values of an axis that takes numbers or ``auto``, with ranges as the host has them: ``auto, 4-12 (+4)``."""
    values: list[str] = []
    for value in grid.csv_string_to_list_strip(text):
        found = grid.re_range.fullmatch(value)
        if found:
            values += map(str, range(int(found[1]), int(found[2]) + 1, int(found[3] or 1)))
        else:
            values.append(value)
    return values


def _apply(setting: Setting) -> Callable[[Any, Any, Any], None]:
    def apply(p: Any, value: Any, values: Any) -> None:
        # A new dictionary each time: the cells of a plot are shallow copies of one request.
        setattr(p, OVERRIDES, {**getattr(p, OVERRIDES, {}), setting.key: value})

    return apply


def _confirm(setting: Setting) -> Callable[[Any, list[Any]], None]:
    def confirm(p: Any, values: list[Any]) -> None:
        for value in values:
            setting.parse(value)

    return confirm
