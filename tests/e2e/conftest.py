"""One WebUI for all tests of this folder; see ``host.py`` for the variables that say where it is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from .client import Client, Pixels, controlled, request
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
    assert client.get("/fault/hooks") == before


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
