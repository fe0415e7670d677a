"""What is said at load time, by running the extension's files as a WebUI does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture
def load(tmp_path):
    """Runs a file of the extension in a WebUI with these modules, all of one content; returns what it writes."""

    def run(file, *modules, content="InputAccordion = None"):
        for name in modules:
            path = tmp_path / "modules" / f"{name}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"{content}\n", encoding="utf-8")
        code = f"import runpy, sys; sys.path[:0] = {[str(ROOT), str(tmp_path)]}; runpy.run_path({str(ROOT / file)!r})"
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).stderr

    return run


@pytest.mark.parametrize("file", ["install.py", "scripts/masactrl.py"])
def test_sd_next_is_refused_when_it_loads_the_extension(load, file):
    assert "UnsupportedHostError: MasaCtrl: this is SD.Next" in load(file, "scripts_manager", "ui_components")


def test_others_are_not(load):
    """The script goes on to what follows the check, which this bare WebUI has not."""
    assert load("install.py", "scripts", "ui_components") == ""
    assert "cannot import name 'script_callbacks' from 'modules'" in load("scripts/masactrl.py", "scripts")


def test_a_webui_that_is_too_old_is_told_so(load):
    assert "WebUI 1.6.0 or newer; update" in load("install.py", "scripts", "ui_components", content="ToolButton = None")
