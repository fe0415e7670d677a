"""Wherever it is installed, under whatever name, and after "Apply and restart UI"."""

from __future__ import annotations

import time
from pathlib import Path

from .client import Client, HttpError, controlled, request, same
from .host import HostPaths, running


def test_odd_paths_and_a_reload(host_paths: HostPaths, tmp_path: Path) -> None:
    """White space and letters beyond ASCII in the data folder (``--data-dir``), and a folder renamed by its user."""
    data = tmp_path / "my WebUI, Größe 猫"
    data.mkdir()
    with running(host_paths, data, extension="MasaCtrl (Kopie)") as client:
        before = client.txt2img(controlled(request()))
        assert len(before.images) == 2
        reload_ui(client, data / "server.log")
        assert same(client.txt2img(controlled(request())).images, before.images)
        for axes in client.get("/fault/axes").values():
            assert len(axes) == len(set(axes))
        entries = [entry for entry in client.script_info() if entry["name"] == "masactrl"]
        assert len(entries) == 2
        assert client.get("/masactrl/status")["model"]["self_attention_layers"]
        log = (data / "server.log").read_text(encoding="utf-8", errors="replace")
        assert "Traceback" not in log, log


def reload_ui(client: Client, log: Path) -> None:
    client.post("/fault/reload_ui", {})
    give_up = time.monotonic() + 300
    while time.monotonic() < give_up:
        if log.read_bytes().count(b"Startup time") == 2:
            try:
                client.get("/fault/hooks")
                return
            except (OSError, HttpError):
                pass  # the new app is not complete yet
        time.sleep(0.5)
    raise TimeoutError("the WebUI did not come up again")
