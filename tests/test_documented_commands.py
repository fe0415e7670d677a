"""Every command that the documentation prints is one that works.

Here as far as it takes no host, no network and no minutes: those of the standalone host are run, with fewer steps; of
the benchmarks, whose runs take long, the arguments are checked. ``tests/e2e/test_documentation.py`` runs docs/api.md.
"""

from __future__ import annotations

import importlib.util
import json
import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image

import run
from lib_masactrl.host import cli
from lib_masactrl.settings import MasaCtrlSettings

ROOT = Path(__file__).parent.parent
PAGES = [
    *(page for page in ROOT.glob("*.md") if page.name != "CHANGELOG.md"),
    *(ROOT / "docs").glob("*.md"),
    ROOT / "demo" / "checkpoint" / "README.md",
]
CHECKPOINT = ROOT / "demo" / "checkpoint"


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8").replace("\\\n", " ")


def commands() -> list[str]:
    """Lines of code blocks and code within sentences that call Python."""
    found = []
    for page in PAGES:
        blocks = re.findall(r"^```(?:bash)?\n(.*?)^```", text_of(page), re.MULTILINE | re.DOTALL)
        found += [line for block in blocks for line in block.splitlines() if re.search(r"\bpython ", line)]
        found += re.findall(r"`([^`\n]*\bpython [^`\n]+)`", text_of(page))
    return sorted({command.partition("  #")[0].strip() for command in found})


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """What the commands name: a checkpoint and a photograph of the user's, and this repository's demo."""
    for name in ("creatures.safetensors", "creatures.yaml"):
        shutil.copy(CHECKPOINT / name, tmp_path / name.replace("creatures", "model"))
    shutil.copytree(CHECKPOINT / "tokenizer", tmp_path / "tokenizer")
    shutil.copytree(ROOT / "demo", tmp_path / "demo")
    Image.effect_noise((72, 64), 60).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", [c for c in commands() if c.startswith("python -m lib_masactrl ")])
def test_the_standalone_host(command, folder):
    status = cli.main([*shlex.split(command)[3:], "--steps", "5", "--device", "cpu"])
    assert status == 0
    assert len(list((folder / "outputs").glob("*.png"))) == 2


@pytest.mark.parametrize("command", [c for c in commands() if c.startswith("python -m bench")])
def test_benchmarks(command, capsys, monkeypatch):
    module, *arguments = shlex.split(command)[2:]
    monkeypatch.setattr(sys, "argv", [module, *arguments, "--help"])  # refuses unknown values, and runs nothing
    with pytest.raises(SystemExit) as left:
        runpy.run_module(module, run_name="__main__")
    assert left.value.code == 0
    told = capsys.readouterr().out
    assert all(f"{flag} " in told for flag in arguments if flag.startswith("--"))


@pytest.mark.parametrize("command", [c for c in commands() if c.startswith("python run.py ")])
def test_run_py(command):
    """Each of its programs is in this repository, or in the requirements that it installs first."""
    requirements, programs = run.COMMANDS[command.split()[2]]
    installed = required(run.REQUIREMENTS / requirements)
    assert all((ROOT / module).is_dir() or module in installed for module, *_ in programs)


def test_what_the_tests_run_is_in_their_requirements():
    assert {"ruff", "mypy", "pytest"} <= required(run.REQUIREMENTS / "test.txt")


def required(requirements):
    """The names of the packages that a requirements file asks for, those of the files it includes too."""
    lines = requirements.read_text(encoding="utf-8").splitlines()
    included = [required(requirements.parent / line[3:].strip()) for line in lines if line.startswith("-r ")]
    return set().union(re.findall(r"^([\w-]+)", "\n".join(lines), re.MULTILINE), *included)


@pytest.mark.parametrize("command", [c for c in commands() if "pytest" in c])
def test_pytest(command):
    assert all((ROOT / path).exists() for path in re.findall(r"\btests/\S+", command))
    for module in re.findall(r"python -m (\S+)", command):
        assert importlib.util.find_spec(module), module


def test_no_command_is_left_out():
    known = ("python -m lib_masactrl ", "python -m bench", "python run.py ")
    assert [c for c in commands() if not c.startswith(known) and "pytest" not in c] == []
    assert len(commands()) > 10


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_variables_are_read_by_the_end_to_end_suite(page):
    code = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "tests" / "e2e").glob("*.py"))
    assert all(name in code for name in re.findall(r"MASACTRL_E2E_\w+", text_of(page)))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_requests_are_json_with_known_settings(page):
    for body in re.findall(r"^POST \S+\n({.*?^})", text_of(page), re.MULTILINE | re.DOTALL):
        (settings,) = json.loads(body)["alwayson_scripts"]["MasaCtrl"]["args"]
        MasaCtrlSettings.from_mapping(settings)
