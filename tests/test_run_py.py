"""``run.py`` as far as it can be tried without installing anything."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import run

ROOT = Path(__file__).parent.parent


@pytest.fixture
def sandbox(tmp_path, monkeypatch):
    """``run`` on an environment and requirements of its own, with every program replaced; returns the program calls."""
    requirements = tmp_path / "requirements"
    requirements.mkdir()
    (requirements / "demo.txt").write_text("one==1\n", encoding="utf-8")
    (requirements / "test.txt").write_text("-r demo.txt\ntwo==2\n", encoding="utf-8")
    (requirements / "no-deps.txt").write_text("three==3\n", encoding="utf-8")
    environment = tmp_path / "environment"
    calls, failing = [], []

    def program(command, **_):
        calls.append([str(part) for part in command])
        if "venv" in calls[-1]:
            python = run.environment_python(environment)
            python.parent.mkdir(parents=True)
            python.write_text("", encoding="utf-8")
        if any(name in calls[-1] for name in failing):
            raise subprocess.CalledProcessError(1, command)
        return subprocess.CompletedProcess(command, 0)

    for name, value in (("ROOT", tmp_path), ("ENVIRONMENT", environment), ("REQUIREMENTS", requirements)):
        monkeypatch.setattr(run, name, value)
    monkeypatch.setattr(run, "WITHOUT_DEPENDENCIES", requirements / "no-deps.txt")
    monkeypatch.setattr(
        run, "environment_python", lambda e=environment, s=os.name, real=run.environment_python: real(e, s)
    )
    monkeypatch.setattr(run.subprocess, "run", program)
    return requirements, calls, failing


def installs(calls):
    return [call for call in calls if "install" in call]


def test_the_first_run_makes_an_environment_and_later_runs_reuse_it(sandbox):
    requirements, calls, _ = sandbox
    assert run.main(["demo"]) == 0
    assert "venv" in calls[0] and calls[-1][1:] == ["-m", "demo"]
    assert [call[-1] for call in installs(calls)] == [str(requirements / "demo.txt"), str(requirements / "no-deps.txt")]
    assert "--no-deps" not in installs(calls)[0] and "--no-deps" in installs(calls)[1]
    calls.clear()
    assert run.main(["demo", "--steps", "5"]) == 0
    assert not installs(calls) and not any("venv" in call for call in calls)
    assert calls[-1][1:] == ["-m", "demo", "--steps", "5"]


@pytest.mark.parametrize("changed", ["demo.txt", "test.txt", "no-deps.txt"])
def test_changed_requirements_are_installed_again(sandbox, changed):
    requirements, calls, _ = sandbox
    run.main(["test"])
    calls.clear()
    (requirements / changed).write_text("another==1\n", encoding="utf-8")
    run.main(["test"])
    assert len(installs(calls)) == 2


def test_an_installation_that_failed_is_done_again(sandbox, capsys):
    _, calls, failing = sandbox
    failing.append("--no-deps")
    assert run.main(["demo"]) == 1
    assert "step failed" in capsys.readouterr().err
    failing.clear()
    calls.clear()
    assert run.main(["demo"]) == 0 and len(installs(calls)) == 2


def test_a_note_that_cannot_be_read_counts_as_nothing_installed(tmp_path):
    for content in ("", "[1]", "{"):
        (tmp_path / "installed.json").write_text(content, encoding="utf-8")
        assert run.installed(tmp_path) == {}
    run.remember(tmp_path, "a.txt", "1")
    run.remember(tmp_path, "b.txt", "2")
    assert run.installed(tmp_path) == {"a.txt": "1", "b.txt": "2"}


def test_check_stops_at_the_first_program_that_fails(sandbox, monkeypatch):
    asked = []
    monkeypatch.setattr(run, "run", lambda arguments: asked.append(arguments[1]) or int("mypy" in arguments) * 3)
    assert run.main(["check"]) == 3
    assert asked == ["ruff", "ruff", "mypy"]


def test_further_arguments_and_the_status_are_those_of_the_last_program(sandbox, monkeypatch):
    asked = []
    monkeypatch.setattr(run, "run", lambda arguments: asked.append(arguments) or 3 * ("pytest" in arguments))
    assert run.main(["check", "-k", "masks"]) == 3
    assert asked[-1] == ["-m", "pytest", "-k", "masks"]
    assert not any("-k" in arguments for arguments in asked[:-1])


def test_an_environment_of_another_python_is_made_anew(tmp_path):
    assert run.works(Path(sys.executable))
    assert not run.works(tmp_path / "python")
    broken = tmp_path / "broken"
    broken.write_text("no program", encoding="utf-8")
    assert not run.works(broken)


def test_both_layouts_of_an_environment(tmp_path):
    assert run.environment_python(tmp_path, "nt") == tmp_path / "Scripts" / "python.exe"
    assert run.environment_python(tmp_path, "posix") == tmp_path / "bin" / "python"


@pytest.mark.parametrize(("arguments", "status"), [([], 2), (["paint"], 2), (["--help"], 0)])
def test_anything_else_shows_what_can_be_asked_for(arguments, status, capsys):
    assert run.main(arguments) == status
    told = capsys.readouterr()
    assert "usage:" in (told.err if status else told.out)


def test_an_old_python_reads_the_file_and_gets_one_clear_line():
    """Python 3.7 to 3.9 must be able to parse it all and to run it down to the check."""
    text = (ROOT / "run.py").read_text(encoding="utf-8")
    tree = ast.parse(text, feature_version=(3, 7))
    check = next(node for node in tree.body if isinstance(node, ast.If))
    before = tree.body[: tree.body.index(check)]
    assert all(isinstance(node, ast.Expr | ast.Import | ast.ImportFrom) for node in before)
    old = text.replace("sys.version_info", "(3, 9, 2)")
    done = subprocess.run([sys.executable, "-c", old], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "Python 3.10 or later is needed, but this is 3.9; start run.py with a newer one.\n"


def test_only_the_standard_library_is_imported():
    tree = ast.parse((ROOT / "run.py").read_text(encoding="utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert names <= set(sys.stdlib_module_names)


def test_every_requirement_is_pinned():
    for path in (ROOT / "requirements").glob("*.txt"):
        for line in path.read_text(encoding="utf-8").splitlines():
            assert not line or line.startswith(("#", "-r ")) or "==" in line, f"{path.name}: {line}"
