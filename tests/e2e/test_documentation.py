"""What the documentation prints runs as printed, but for the server's port."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from lib_masactrl.settings import SETTINGS
from lib_masactrl.version import VERSION

from .client import Client, controlled, request
from .host import REPOSITORY

PAGE = (REPOSITORY / "docs" / "api.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```(bash|python)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all examples, because one reads the picture that another wrote."""
    return tmp_path_factory.mktemp("examples")


@pytest.mark.parametrize(("language", "code"), EXAMPLES, ids=range(len(EXAMPLES)))
def test_example(client: Client, folder: Path, language: str, code: str) -> None:
    if "script-info" in code:
        client.script_info()  # skips where the host's own fails
    for package in ("webuiapi", "requests"):
        if f"import {package}" in code and importlib.util.find_spec(package) is None:
            pytest.skip(f"EXAMPLE NOT RUN: pip install {package}")
    port = client.address.rpartition(":")[2]
    program = ["bash", "-e", "-c"] if language == "bash" else [sys.executable, "-c"]
    environment = {**os.environ, "NO_PROXY": "127.0.0.1"}
    done = subprocess.run(
        [*program, code.replace("7860", port)], cwd=folder, env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr


def test_examples_wrote_pictures(folder: Path) -> None:
    """Of the size that was asked for; a target is not its source."""
    pictures = {file.stem: Image.open(file).convert("RGB") for file in folder.glob("*.png")}
    if not pictures:
        pytest.skip("no example has run")
    plot = pictures.pop("plot", None)
    assert plot is None or (plot.width >= 2 * 128 and plot.height >= 3 * 128)
    assert set(pictures) == {"target", "source", "edited"}
    assert {picture.size for picture in pictures.values()} == {(256, 256)}
    assert len({picture.tobytes() for picture in pictures.values()}) == 3


def test_version(client: Client) -> None:
    defaults = {setting.key: setting.default for setting in SETTINGS}
    assert client.get("/masactrl/version") == {"version": VERSION, "settings": defaults}


def test_status_tells_what_runs_and_no_path(client: Client, layers: int, data: Path) -> None:
    client.txt2img(controlled(request()))
    status = client.get("/masactrl/status")
    assert status["host"] in ("AUTOMATIC1111", "Forge")
    assert status["model"]["family"] == "SD 1"
    assert status["model"]["self_attention_layers"] == layers
    assert status["model"]["refusal"] == ""
    assert status["cache"]["limit_mib"] == 512
    assert status["cache"]["on_disk"] is False
    told = str(status)
    assert not any(secret in told for secret in (str(data), "first", ".safetensors", "/", "cat"))


def test_options(client: Client) -> None:
    """The settings page is there, and what is set there is what the status tells.

    ``GET /sdapi/v1/options`` does not tell it: its answer has the options that existed before extensions were loaded.
    """
    client.post("/sdapi/v1/options", {"masactrl_cache_mib": 64})
    try:
        assert client.get("/masactrl/status")["cache"]["limit_mib"] == 64
    finally:
        client.post("/sdapi/v1/options", {"masactrl_cache_mib": 512})
