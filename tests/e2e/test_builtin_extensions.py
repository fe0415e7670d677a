"""Beside the extensions that the Forge family ships: each works together with control, or is refused by name."""

from __future__ import annotations

from typing import Any

import numpy
import pytest

from .client import Client, HttpError, controlled, fault, largest_difference, request, same, with_script

TARGET, SOURCE = "a cat, standing", "a cat, sitting"
MOVED = 1e-3
#: 96 px, so that there is more than one pixel at the lowest resolution, whose mean and range FreeU divides by.
BASE = request(TARGET, width=96, height=96, steps=3, sampler_name="Euler")
PLAIN = fault({**BASE, "batch_size": 2}, prompts=[TARGET, SOURCE], seeds_of=[0, 0])
WORKING = [
    *(
        "perturbedattentionguidance",
        "selfattentionguidance",
        "freeu",
        "kohya hrfix",
        "never oom",
        "dynamicthresholding",
    ),
    "latentmodifier",
]
#: Some replace the middle layer, the seventh of 16. The default start layer is past it too.
AFTER_THE_MIDDLE = 7
#: Computes the same picture by other means.
WITHOUT_EFFECT = ["never oom"]
#: By the file that is named.
REFUSED = {"stylealign": "sd_forge_stylealign/scripts/", "hypertile": "nodes_hypertile.py"}


#: How many flags to switch on, where it is not all of them: Never OOM's tiled VAE fails on a picture of one tile.
FLAGS = {"never oom": 1}


def switched_on(client: Client, base: dict[str, Any], name: str) -> dict[str, Any]:
    """``base`` with the flags of the named extension on, its other settings at their defaults."""
    entries = [e for e in client.script_info() if e["name"].startswith(name) and not e["is_img2img"]]
    if not entries:
        pytest.skip(f"this WebUI has no {name}")
    values = [argument["value"] for argument in entries[0]["args"]]
    flags = [index for index, value in enumerate(values) if value is False][: FLAGS.get(name)]
    return with_script(base, entries[0]["name"], [index in flags or value for index, value in enumerate(values)])


@pytest.fixture(scope="module")
def plain(client: Client) -> list[numpy.ndarray]:
    """Both prompts, with every extension off."""
    return client.traced(PLAIN)


@pytest.mark.parametrize("name", WORKING)
def test_works(client: Client, plain: list[numpy.ndarray], name: str) -> None:
    """The source is the plain image that the other extension makes, and the target is controlled from step 1 on."""
    expected = client.traced(switched_on(client, PLAIN, name))
    assert same(expected, plain) == (name in WITHOUT_EFFECT)
    trace = client.traced(switched_on(client, controlled(BASE, start_step=1, start_layer=AFTER_THE_MIDDLE), name))
    assert same([x[1] for x in trace], [x[1] for x in expected])
    assert same([trace[0][0]], [expected[0][0]])
    assert largest_difference(trace[-1][0], expected[-1][0]) > MOVED


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused_by_name(client: Client, plain: list[numpy.ndarray], name: str) -> None:
    """It computes the very attention that is to be controlled."""
    with pytest.raises(HttpError) as refusal:
        client.txt2img(switched_on(client, controlled(BASE), name))
    assert refusal.value.status == 422
    assert "self-attention layer" in refusal.value.message and REFUSED[name] in refusal.value.message
    assert same(client.traced(PLAIN), plain)


def test_a_single_replaced_layer_is_noticed(client: Client) -> None:
    """Self-attention guidance replaces the middle layer only."""
    asked = switched_on(client, controlled(BASE, start_layer=AFTER_THE_MIDDLE - 1), "selfattentionguidance")
    with pytest.raises(HttpError, match=r"self-attention layer 6 of 16 is replaced by .*sag"):
        client.txt2img(asked)


def tiled(client: Client, base: dict[str, Any]) -> dict[str, Any]:
    """``base`` in four tiles of 64x64 pixels, two in one U-Net call."""
    title = "multidiffusion integrated"
    if title not in client.get("/sdapi/v1/scripts")["txt2img"]:
        pytest.skip("this WebUI has no MultiDiffusion of its own")
    return with_script(base, title, [True, "MultiDiffusion", 64, 64, 32, 2])


def test_tiles_are_controlled_each_by_its_own_source(client: Client, plain: list[numpy.ndarray]) -> None:
    expected = client.traced(tiled(client, PLAIN))
    assert largest_difference(expected[-1], plain[-1]) > MOVED
    trace = client.traced(tiled(client, controlled(BASE, start_step=1)))
    assert same([x[1] for x in trace], [x[1] for x in expected])
    assert same([trace[0][0]], [expected[0][0]])
    assert largest_difference(trace[-1][0], expected[-1][0]) > MOVED
    target, source = client.traced(tiled(client, controlled(BASE, source_prompt=TARGET)))[-1]
    assert same([target], [source])


def test_tiles_are_refused_with_masks(client: Client) -> None:
    masked = controlled(BASE, mask="words", source_words="cat")
    with pytest.raises(HttpError, match="samples tiles of 8x8 latents") as refusal:
        client.txt2img(tiled(client, masked))
    assert refusal.value.status == 422
