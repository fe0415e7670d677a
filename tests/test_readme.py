"""The README's parameter table is the settings table."""

from __future__ import annotations

from pathlib import Path

from lib_masactrl.settings import SETTINGS, Setting

README = Path(__file__).parent.parent / "README.md"


def row(setting: Setting) -> str:
    default = "empty" if setting.default in (None, "") else str(setting.default).lower()
    return f"| `{setting.key}` | {setting.help} | {default} |"


def test_the_parameter_table_is_the_settings_table():
    text = README.read_text(encoding="utf-8")
    table = text.split("<!-- parameters")[1].split("-->", 1)[1].split("<!-- /parameters")[0]
    expected = ["| setting | what it does | default |", "| --- | --- | --- |", *map(row, SETTINGS)]
    assert table.strip().splitlines() == expected
