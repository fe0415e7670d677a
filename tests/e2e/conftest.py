"""One WebUI for all tests of this folder; see ``host.py`` for the variables that say where it is."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .client import Client, HttpError, Pixels, controlled, request
from .control_requests import picture
from .host import HostPaths, is_forge, running


@pytest.fixture(scope="session")
def host_paths() -> HostPaths:
    paths = HostPaths.from_environment()
    if isinstance(paths, str):
        pytest.skip(paths)
    return paths


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The WebUI's data folder."""
    return tmp_path_factory.mktemp("webui")


@pytest.fixture(scope="session")
def client(host_paths: HostPaths, data: Path) -> Iterator[Client]:
    """The WebUI with MasaCtrl installed."""
    with running(host_paths, data) as client:
        yield client


@pytest.fixture(scope="session")
def idle_hooks(client: Client) -> dict[str, int]:
    """Hooks before any request: other extensions' (Hypertile) are no leak of ours."""
    return client.get("/fault/hooks")


@pytest.fixture(autouse=True)
def leaves_no_hook(request: pytest.FixtureRequest) -> Iterator[None]:
    """Law 3, after every single test: no ``forward``, pre-hook or callback is left."""
    if "client" not in request.fixturenames:
        yield
        return
    client: Client = request.getfixturevalue("client")
    before = request.getfixturevalue("idle_hooks")
    yield
    left = client.get("/fault/hooks")
    if "model" in request.fixturenames:  # ControlNet keeps hooks of its own
        left, before = ({name: hooks[name] for name in ("ours", "control_signals")} for hooks in (left, before))
    assert left == before


@pytest.fixture(scope="session")
def layers(client: Client) -> int:
    """How many self-attention layers the checkpoint has, as the infotext reports it."""
    text = client.txt2img(controlled(request())).infotexts[0]
    found = re.search(r"MasaCtrl result: \d+ of \d+ steps; \d+ of (\d+) layers", text)
    assert found, text
    return int(found[1])


@pytest.fixture(scope="session")
def photograph(client: Client) -> Pixels:
    """A picture that the model can paint: of its own world."""
    return client.txt2img(request("a cat sitting on the left", steps=20, seed=5)).images[0]


@pytest.fixture(scope="session")
def paints(host_paths: HostPaths) -> bool:
    """Whether the autoencoder gives pictures back: one of random weights does not."""
    return not is_forge(host_paths.checkout)


@pytest.fixture(scope="session")
def another(client: Client) -> Pixels:
    return client.txt2img(request("a dog lying on the right", steps=20, seed=9)).images[0]


@pytest.fixture(scope="module")
def model(client: Client) -> str:
    """The control model of the tests beside a ControlNet extension; without one, they are skipped."""
    if "controlnet" not in client.get("/sdapi/v1/scripts")["txt2img"]:
        pytest.skip("NO CONTROLNET TESTED: set MASACTRL_E2E_CONTROLNET to the folder of the ControlNet extension.")
    models = [name for name in client.get("/controlnet/model_list")["model_list"] if name.startswith("sketch")]
    if not models:
        pytest.skip("NO CONTROL SIGNAL TESTED: this checkpoint's U-Net takes no adapter (MASACTRL_E2E_CHECKPOINT).")
    client.post("/sdapi/v1/options", {"live_previews_enable": False})  # SDXL's would download a model
    return str(models[0])


@pytest.fixture
def mikubill(client: Client, model: str) -> None:
    """For what Forge's ControlNet does not have, or offers in its UI alone."""
    try:
        client.get("/controlnet/version")
    except HttpError:
        pytest.skip("NOT TESTED HERE: this is not Mikubill's ControlNet.")


@pytest.fixture
def several_pictures(client: Client, host_paths: HostPaths, tmp_path: Path) -> dict[str, Any]:
    """What makes a unit one of two pictures (Multi-Inputs), ``picture(1)`` and ``picture(2)``."""
    pictures = [picture(1), picture(2)]
    if not is_forge(host_paths.checkout):
        return {"input_mode": "merge", "image": [{"image": each} for each in pictures]}
    files = [tmp_path / f"{number}.png" for number in (1, 2)]
    for file, each in zip(files, pictures):
        file.write_bytes(base64.b64decode(each))
    controlnet = host_paths.checkout / "extensions-builtin" / "sd_forge_controlnet" / "lib_controlnet"
    fields = (controlnet / "external_code.py").read_text(encoding="utf-8")
    if "multi_inputs_gallery" in fields:  # reForge
        return {"input_mode": "merge", "image": None, "multi_inputs_gallery": [{"name": str(file)} for file in files]}
    if "batch_input_gallery: " in fields:  # Forge main, from its page alone
        return {"input_mode": "merge", "image": None, "batch_input_gallery": [[str(file), None] for file in files]}
    pytest.skip("NOT TESTED HERE: units of this WebUI take one picture.")
