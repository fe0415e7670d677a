"""Format, lint and types; and that presentation keeps to our own elements, and our own names."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("program", ["ruff format --check", "ruff check", "mypy"])
def test_program(program):
    done = subprocess.run([sys.executable, "-m", *program.split()], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_rule_of_the_style_sheet_is_about_an_element_of_ours():
    text = re.sub(r"/\*.*?\*/", "", (ROOT / "style.css").read_text(encoding="utf-8"), flags=re.DOTALL)
    selectors = [selector.strip() for rule in re.findall(r"([^{}]+){", text) for selector in rule.split(",")]
    assert selectors
    assert all(re.match(r"[.#]masactrl", selector) for selector in selectors), selectors


def test_javascript_leaves_one_name_of_ours_behind():
    text = (ROOT / "javascript" / "masactrl.js").read_text(encoding="utf-8")
    assert text.rstrip().endswith("})();")
    assert set(re.findall(r"window\.(\w+) = ", text)) == {"masactrlDescribeWindow"}
