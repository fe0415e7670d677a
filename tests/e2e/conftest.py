"""One WebUI for all tests of this folder; see ``host.py`` for the variables that say where it is."""

from __future__ import annotations

import base64
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .client import Client, HttpError, Pixels, controlled, request
from .control_requests import picture
from .host import HostPaths, is_forge, running

#: Gradio 4 itself closes its streams of results and of uploads.
GRADIO_S_OWN = re.compile(
    r"/(queue/data|upload_progress)\?.*ERR_ABORTED$|^AbortError: signal is aborted without reason"
)


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
    if {"model", "beside"} & set(request.fixturenames):  # ControlNet and Regional Prompter keep hooks of their own
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


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="NO BROWSER TESTED: pip install playwright")
    names = ("chromium", "chromium-browser", "google-chrome")
    program = os.environ.get("MASACTRL_E2E_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.skip("NO BROWSER TESTED: install Chromium, or set MASACTRL_E2E_CHROMIUM to it.")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium: Any, client: Client) -> Iterator[Callable[..., Any]]:
    """Open the WebUI's page; ``opened(theme="dark", width=400)``.

    The test fails over an error in the console, a failing request, or a request that the server answers with an error.
    Addresses outside of the server get an empty answer: pages are tested offline.
    """
    complaints: list[str] = []
    pages = []

    def open_page(theme: str = "light", width: int = 1600) -> Any:
        page = chromium.new_page(viewport={"width": width, "height": 1000})
        pages.append(page)
        page.route(lambda url: not url.startswith((client.address, "data:", "blob:")), lambda r: r.fulfill(body=""))
        page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("requestfailed", lambda asked: complaints.append(f"{asked.url} {asked.failure}"))
        page.on("response", lambda got: complaints.append(f"{got.status} {got.url}") if got.status >= 400 else None)
        page.goto(f"{client.address}/?__theme={theme}")
        page.wait_for_selector("#masactrl_txt2img_enabled", state="attached", timeout=120_000)
        page.wait_for_function("window.opts && Object.keys(opts).length > 0", timeout=120_000)
        return page

    yield open_page
    for page in pages:
        page.close()
    assert [said for said in complaints if not GRADIO_S_OWN.search(said)] == []
