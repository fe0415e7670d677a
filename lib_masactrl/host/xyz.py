"""X/Y/Z plot axes, one for each setting, derived from the settings table."""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
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
    ThresholdSetting,
)
from lib_masactrl.settings import SETTINGS

_PREFIX = "[MasaCtrl] "

_NUMBER = r"(\d+(?:\.\d+)?)"
_RANGE = re.compile(rf"\s*{_NUMBER}\s*-\s*{_NUMBER}\s*(?:\(\+{_NUMBER}\)|\[(\d+)\])?\s*")


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
    return grid.AxisOption(
        _PREFIX + setting.label,
        kind,
        _apply(setting),
        confirm=_confirm(setting),
        choices=None if choices is None else lambda: choices,
    )


def _expanded(setting: Setting, text: Any) -> list[Any]:
    """The values of a range, ``4-12 (+4)`` or ``0.1-0.5 [3]``, as the host has them on axes of numbers alone.

    Of ``auto`` and numbers an axis has to be one of texts.
    """
    found = _RANGE.fullmatch(text) if isinstance(setting, (OptionalCountSetting, ThresholdSetting)) else None
    if not found:
        return [text]
    first, last, step = Decimal(found[1]), Decimal(found[2]), Decimal(found[3] or 1)
    if found[4]:
        gaps = int(found[4]) - 1
        values = [first + (last - first) * number / max(gaps, 1) for number in range(gaps + 1)]
    else:
        values = [first + step * number for number in range(int((last - first) / step) + 1 if step else 0)]
    return [str(int(value)) if isinstance(setting, CountSetting) else str(float(value)) for value in values] or [text]


def _apply(setting: Setting) -> Callable[[Any, Any, Any], None]:
    def apply(p: Any, value: Any, values: Any) -> None:
        # A new dictionary each time: the cells of a plot are shallow copies of one request.
        setattr(p, OVERRIDES, {**getattr(p, OVERRIDES, {}), setting.key: value})

    return apply


def _confirm(setting: Setting) -> Callable[[Any, list[Any]], None]:
    def confirm(p: Any, values: list[Any]) -> None:
        # In place: the host goes on with this very list. (AUTOMATIC1111 1.6 has no other hook for texts.)
        values[:] = [value for text in values for value in _expanded(setting, text)]
        for value in values:
            setting.parse(value)

    return confirm
