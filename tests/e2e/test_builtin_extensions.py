"""Beside the extensions that the Forge family ships: each works together with control, or is refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from .client import Client, HttpError, controlled, fault, largest_difference, request, same, with_script

TARGET, SOURCE = "a cat, standing", "a cat, sitting"
MOVED = 1e-3
#: 128 px, as some of these look at features of several pixels; DDIM's sigma is a time step in some of these hosts.
BASE = request(TARGET, width=128, height=128, steps=6, sampler_name="Euler")
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


def switched_on(client: Client, base: dict[str, Any], name: str) -> dict[str, Any]:
    """``base`` with every flag of the named extension on, its other settings at their defaults."""
    entries = [e for e in client.script_info() if e["name"].startswith(name) and not e["is_img2img"]]
    if not entries:
        pytest.skip(f"this WebUI has no {name}")
    values = [argument["value"] for argument in entries[0]["args"]]
    return with_script(base, entries[0]["name"], [True if value is False else value for value in values])


@pytest.mark.parametrize("name", WORKING)
def test_works(client: Client, name: str) -> None:
    """The source is the plain image that the other extension makes, and the target is controlled."""
    base = switched_on(client, BASE, name)
    batch = {"prompts": [TARGET, SOURCE], "seeds_of": [0, 0]}
    before = client.traced(fault({**BASE, "batch_size": 2}, **batch))
    plain = client.traced(fault({**base, "batch_size": 2}, **batch))
    assert same(plain, before) == (name in WITHOUT_EFFECT)
    trace = client.traced(controlled(base, start_layer=AFTER_THE_MIDDLE))
    assert same([x[1] for x in trace], [x[1] for x in plain])
    assert same([x[0] for x in trace[:2]], [x[0] for x in plain[:2]])
    assert largest_difference(trace[-1][0], plain[-1][0]) > MOVED
    assert same(client.traced(fault({**BASE, "batch_size": 2}, **batch)), before)


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused_by_name(client: Client, name: str) -> None:
    """It computes the very attention that is to be controlled."""
    asked = switched_on(client, BASE, name)
    before = client.traced(controlled(BASE))
    with pytest.raises(HttpError) as refusal:
        client.txt2img(controlled(asked))
    assert refusal.value.status == 422
    assert "self-attention layer" in refusal.value.message and REFUSED[name] in refusal.value.message
    assert same(client.traced(controlled(BASE)), before)


def test_a_single_replaced_layer_is_noticed(client: Client) -> None:
    """Self-attention guidance replaces the middle layer only."""
    asked = switched_on(client, BASE, "selfattentionguidance")
    with pytest.raises(HttpError, match="self-attention layer 6 of 16 is replaced by sd_forge_sag"):
        client.txt2img(controlled(asked, start_layer=AFTER_THE_MIDDLE - 1))
