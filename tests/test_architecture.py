"""The dependency direction of design.md, section 3, and a few facts that must stay in step."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from lib_masactrl.version import VERSION

ROOT = Path(__file__).parent.parent
LIBRARY = ROOT / "lib_masactrl"

#: Each pure module with those of ours that it may import; host/, ui.py and __main__.py may import any of them.
ALLOWED = {
    "version": set(),
    "errors": set(),
    "bit_depth": set(),
    "branch_guidance": {"errors"},
    "setting_kinds": {"errors", "branch_guidance"},
    "settings": {"errors", "branch_guidance", "setting_kinds"},
    "infotext_entries": {"branches", "setting_kinds", "settings", "version"},
    "schedule": {"errors"},
    "branches": {"errors"},
    "layers": {"errors"},
    "inversion": {"errors"},
    "trajectory_cache": {"inversion"},
    "attention": {"branches"},
    "prompt_words": {"branches", "errors"},
    "masks": {"attention", "branches", "errors", "layers", "setting_kinds"},
    "control": {"attention", "branches", "errors", "masks", "schedule"},
    "patching": {"control", "layers"},
    "presets": {"schedule"},
}
HOST_PACKAGES = {"modules", "backend", "ldm", "gradio", "diffusers", "transformers", "omegaconf", "ldm_patched"}
PURE = sorted(path for path in LIBRARY.glob("*.py") if path.stem in ALLOWED)


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


@pytest.mark.parametrize("path", PURE, ids=lambda path: path.stem)
def test_pure_modules_import_only_what_lies_below_them(path):
    names = imports(path)
    ours = {name.removeprefix("lib_masactrl.") for name in names if name.startswith("lib_masactrl")}
    assert ours <= ALLOWED[path.stem]
    assert not {name.split(".")[0] for name in names} & HOST_PACKAGES


def test_every_module_has_its_place():
    modules = {path.stem for path in LIBRARY.glob("*.py")}
    assert modules - set(ALLOWED) == {"__init__", "__main__", "ui"} & modules


def test_no_module_of_ours_is_imported_by_name_from_a_host_module_upwards():
    for path in (LIBRARY / "host").rglob("*.py"):
        assert "lib_masactrl.ui" not in imports(path), path


def test_the_standalone_host_needs_none_of_the_webui_s_modules():
    for path in (LIBRARY / "host" / "standalone").glob("*.py"):
        hosts = {name for name in imports(path) if name.startswith("lib_masactrl.host.")}
        assert {name for name in hosts if ".standalone." not in name} <= {"lib_masactrl.host.foreground"}, path
    assert imports(LIBRARY / "host" / "foreground.py") & HOST_PACKAGES == set()


def test_one_module_decides_which_webui_it_is():
    marks = ("forge_objects", "modules_forge", "FakeInitialModel", "find_spec", "__version__")
    deciding = {
        path.name for path in (LIBRARY / "host").glob("*.py") if any(m in path.read_text("utf-8") for m in marks)
    }
    assert deciding == {"capabilities.py"}


def test_the_name_before_messages_is_typed_once():
    typed = [path.name for path in LIBRARY.rglob("*.py") if '"MasaCtrl: ' in path.read_text(encoding="utf-8")]
    assert typed == ["errors.py"]


def test_the_version_is_told_once():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert re.search(r'^version = "(.+)"$', project, re.MULTILINE)[1] == VERSION
