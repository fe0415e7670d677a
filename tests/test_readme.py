"""What README and its companions say exists: settings and files. See also test_documented_commands.py."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lib_masactrl.setting_kinds import Setting
from lib_masactrl.settings import SETTINGS

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = [
    str(page.relative_to(ROOT)) for folder in (".", "docs", "demo/checkpoint") for page in (ROOT / folder).glob("*.md")
]


def row(setting: Setting) -> str:
    default = "empty" if setting.default in (None, "") else str(setting.default).lower()
    return f"| `{setting.key}` | {setting.help} | {default} |"


def test_the_parameter_table_is_the_settings_table():
    text = README.read_text(encoding="utf-8")
    table = text.split("<!-- parameters")[1].split("-->", 1)[1].split("<!-- /parameters")[0]
    expected = ["| setting | what it does | default |", "| --- | --- | --- |", *map(row, SETTINGS)]
    assert table.strip().splitlines() == expected


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text):
        assert target.startswith("https://") or (ROOT / page).parent.joinpath(target).exists(), target
