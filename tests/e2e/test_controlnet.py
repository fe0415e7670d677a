"""Beside the ControlNet extension: what cannot be combined is refused by name, and nothing of ours is left.

To be run alone, ``MASACTRL_E2E_CONTROLNET`` set: the other files count every hook, and ControlNet leaves its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy
import pytest

from .client import Client, HttpError, controlled, encoded, request, same, with_script


@pytest.fixture(autouse=True)
def controlnet(client: Client) -> None:
    if "controlnet" not in client.get("/sdapi/v1/scripts")["txt2img"]:
        pytest.skip("NO CONTROLNET TESTED: set MASACTRL_E2E_CONTROLNET to the folder of the ControlNet extension.")


@pytest.fixture(autouse=True)
def leaves_no_hook(client: Client) -> Iterator[None]:
    yield
    assert client.get("/fault/hooks")["ours"] == 0


def unit(module: str, **changes: Any) -> dict[str, Any]:
    hint = numpy.random.default_rng(0).integers(0, 255, (64, 64, 3))
    return {"enabled": True, "module": module, "model": "None", "image": encoded(hint), **changes}


@pytest.mark.parametrize("module", ["reference_only", "reference_adain", "reference_adain+attn"])
def test_reference_units_are_refused_by_name(client: Client, module: str) -> None:
    """Elsewhere the two crash into each other's self-attention (ashen-sensored/sd_webui_masactrl, issue 6)."""
    plain, alone = client.txt2img(request()), client.txt2img(controlled(request()))
    with pytest.raises(HttpError) as refusal:
        client.txt2img(with_script(controlled(request()), "ControlNet", [unit(module)]))
    assert refusal.value.status == 422
    assert f"ControlNet unit '{module}'" in refusal.value.message
    assert same(client.txt2img(request()).images, plain.images)
    assert same(client.txt2img(controlled(request())).images, alone.images)


def test_a_reference_unit_without_masactrl_and_back(client: Client) -> None:
    alone = client.txt2img(controlled(request()))
    client.txt2img(with_script(request(), "ControlNet", [unit("reference_only")]))
    assert same(client.txt2img(controlled(request())).images, alone.images)


def test_a_disabled_reference_unit_changes_nothing(client: Client) -> None:
    alone = client.txt2img(controlled(request()))
    asked = with_script(controlled(request()), "ControlNet", [unit("reference_only", enabled=False)])
    assert same(client.txt2img(asked).images, alone.images)
