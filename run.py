"""Run the demo, the tests or the checks in an environment of their own: ``python run.py demo|test|check``.

Needs Python 3.10 or later, the Python of the WebUIs, and nothing else. The first run makes ``.venv`` beside this file
and installs into it what ``requirements/`` asks for; later runs reuse it. Further arguments go to the demo or pytest.
"""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

if sys.version_info < (3, 10):  # noqa: UP036  # who starts this with an older Python shall read why it does not work
    HAVE = ".".join(map(str, sys.version_info[:2]))
    sys.exit("Python 3.10 or later is needed, but this is " + HAVE + "; start run.py with a newer one.")

ROOT = Path(__file__).resolve().parent
ENVIRONMENT = ROOT / ".venv"
REQUIREMENTS = ROOT / "requirements"

#: Installed with ``--no-deps``: the package that holds `ldm` pins years-old versions of everything it could import.
WITHOUT_DEPENDENCIES = REQUIREMENTS / "no-deps.txt"

#: For each command the requirements file and the modules to run. The tests include the other checks, of which `check`
#: tells the quick ones first.
COMMANDS = {
    "demo": ("demo.txt", [["demo"]]),
    "test": ("test.txt", [["pytest"]]),
    "check": ("test.txt", [["ruff", "format", "--check", "."], ["ruff", "check", "."], ["mypy"], ["pytest"]]),
}


def main(arguments: list[str]) -> int:
    """Run one command; returns the exit status of the first module that fails, or 0."""
    if not arguments or arguments[0] not in COMMANDS:
        asked_for_help = bool(arguments) and arguments[0] in ("-h", "--help")
        (sys.stdout if asked_for_help else sys.stderr).write(usage())
        return 0 if asked_for_help else 2
    command, *more = arguments
    requirements, modules = COMMANDS[command]
    try:
        prepare(REQUIREMENTS / requirements)
    except subprocess.CalledProcessError as error:
        say(f"This step failed (exit status {error.returncode}): {' '.join(map(str, error.cmd))}")
        say("Its own message is above. Without network access nothing can be installed.")
        return 1
    for module in modules:
        status = run(["-m", *module, *(more if module is modules[-1] else [])])
        if status:
            return status
    return 0


def usage() -> str:
    """What can be asked for."""
    return (
        "usage: python run.py COMMAND [arguments]\n"
        "  demo   make outputs/demo.png: a source, the target without control, the target with mutual self-attention\n"
        "  test   run the tests, format, lint and types among them; arguments go to pytest\n"
    )


def environment_python(environment: Path = ENVIRONMENT, system: str = os.name) -> Path:
    """The Python of a virtual environment."""
    return environment / ("Scripts/python.exe" if system == "nt" else "bin/python")


def prepare(requirements: Path) -> None:
    """Make the environment if there is none that works, and install ``requirements`` if they changed.

    Raises:
        subprocess.CalledProcessError: a program failed; it has said why.
    """
    if not works(environment_python()):
        say(f"Making a virtual environment in {ENVIRONMENT} ...")
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(ENVIRONMENT)], check=True)
    wanted = fingerprint(requirements)
    if installed(ENVIRONMENT).get(requirements.name) == wanted:
        return
    say(f"Installing {requirements.relative_to(ROOT)} (once; it takes some minutes) ...")
    pip = [str(environment_python()), "-m", "pip", "--disable-pip-version-check", "install", "-q"]
    subprocess.run([*pip, "-r", str(requirements)], check=True)
    subprocess.run([*pip, "--no-deps", "-r", str(WITHOUT_DEPENDENCIES)], check=True)
    # Last of all, so that an interrupted installation is done again.
    remember(ENVIRONMENT, requirements.name, wanted)


def works(python: Path) -> bool:
    """Whether ``python`` runs, has pip and is of this Python's version."""
    if not python.exists():
        return False
    check = f"import pip, sys; sys.exit(sys.version_info[:2] != {tuple(sys.version_info[:2])})"
    try:
        return subprocess.run([str(python), "-c", check], capture_output=True).returncode == 0
    except OSError:
        return False


def fingerprint(requirements: Path) -> str:
    """SHA-256 over ``requirements``, every file it includes with ``-r``, and the file without dependencies."""
    digest = hashlib.sha256()
    files = [requirements, WITHOUT_DEPENDENCIES]
    for path in files:  # grows on the way
        text = path.read_text(encoding="utf-8")
        digest.update(text.encode())
        files += [path.parent / line[3:].strip() for line in text.splitlines() if line.startswith("-r ")]
    return digest.hexdigest()


def installed(environment: Path) -> dict[str, str]:
    """What is installed: fingerprint by requirements file."""
    try:
        known = json.loads((environment / "installed.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def remember(environment: Path, requirements: str, wanted: str) -> None:
    """Note in ``environment`` that ``requirements`` are installed in the state ``wanted``."""
    noted = {**installed(environment), requirements: wanted}
    (environment / "installed.json").write_text(json.dumps(noted, indent=1) + "\n", encoding="utf-8")


def run(arguments: list[str]) -> int:
    """Run the environment's Python in the repository; returns the exit status."""
    try:
        return subprocess.run([str(environment_python()), *arguments], cwd=ROOT).returncode
    except KeyboardInterrupt:
        return 130


def say(text: str) -> None:
    """Write a line about progress; standard output belongs to the programs that are run."""
    sys.stderr.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
