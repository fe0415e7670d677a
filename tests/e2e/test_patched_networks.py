"""Inversion asks the network that sampling asks: patched by other extensions, and without ControlNet's units."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy
import pytest

from .client import Client, Pixels, controlled, fault, largest_difference, same, with_script
from .control_requests import named, unit
from .real_images import KEPT, asked, decibels, edit, said
from .test_builtin_extensions import switched_on

PATCHING = ["freeu", "kohya hrfix", "selfattentionguidance", "perturbedattentionguidance"]
#: Those whose patches are in the network; the others ask it once more, besides.
MOVING = ["freeu", "kohya hrfix"]
STEPS = 3
#: 96 px: FreeU divides by a range over the pixels of the lowest resolution. Kohya HRFix acts at high levels alone.
LARGE: dict[str, Any] = {"width": 96, "height": 96, "steps": STEPS}


@pytest.fixture
def forgetting(client: Client) -> Iterator[None]:
    """Every request inverts, and checks, anew."""
    client.post("/sdapi/v1/options", {"masactrl_cache_mib": 0})
    yield
    client.post("/sdapi/v1/options", {"masactrl_cache_mib": 512})


def calls(client: Client, photograph: Pixels, name: str | None = None) -> list[dict[str, Any]]:
    """The U-Net calls of a checked edit: inversion's, the check's and, of more than one row, sampling's."""
    base = controlled(watched(photograph, **LARGE), check_inversion=True, start_step=1, start_layer=7)
    client.img2img(switched_on(client, base, name) if name else base)
    return client.unet_calls()


def watched(photograph: Pixels, **changes: Any) -> dict[str, Any]:
    return fault(asked(photograph, **changes), count=False, calls=True)


def source_row(call: dict[str, numpy.ndarray], like: dict[str, numpy.ndarray]) -> int:
    """Which row of a call is the source under its own prompt: the one that gets what the single row of ``like`` got."""
    rows = [
        row
        for row in range(len(call["x"]))
        if numpy.allclose(call["x"][row], like["x"][0], atol=1e-4)
        and numpy.allclose(call["context"][row], like["context"][0], atol=1e-5)
    ]
    assert len(rows) == 1, rows
    return rows[0]


@pytest.mark.usefixtures("forgetting")
@pytest.mark.parametrize("name", [None, *PATCHING])
def test_the_sampler_and_the_inversion_ask_one_network(client: Client, photograph: Pixels, name: str | None) -> None:
    """The check starts where sampling starts: the same latents, noise level and prompt."""
    found = calls(client, photograph, name)
    alone = [call for call in found if len(call["x"]) == 1]
    assert len(alone) == 2 * STEPS
    checked, sampled = alone[STEPS], next(call for call in found if len(call["x"]) > 1)
    row = source_row(sampled, checked)
    assert largest_difference(sampled["output"][row], checked["output"][0]) < 1e-4
    if name in MOVING:
        without = [call for call in calls(client, photograph) if len(call["x"]) == 1]
        assert largest_difference(without[STEPS - 1]["output"], alone[STEPS - 1]["output"]) > 1e-3


@pytest.mark.parametrize("name", MOVING)
def test_what_is_kept_knows_the_patches(client: Client, photograph: Pixels, name: str) -> None:
    """An inversion by another network is another one; by the same network, patched anew, it is the same."""
    base, prompt = asked(photograph, **LARGE), f"kept beside {name}"
    patched = switched_on(client, base, name)
    edit(client, base, source_prompt=prompt, start_layer=7)
    first = edit(client, patched, source_prompt=prompt, start_layer=7)
    assert said(first, "inversion") == f"{STEPS} U-Net calls"
    for again in (patched, base):
        assert said(edit(client, again, source_prompt=prompt, start_layer=7), "inversion") == KEPT


@pytest.mark.parametrize("name", MOVING)
def test_a_check_tells_what_a_free_source_keeps(client: Client, photograph: Pixels, name: str) -> None:
    base, prompt = switched_on(client, asked(photograph, **LARGE), name), f"checked beside {name}"
    checked = edit(client, base, source_prompt=prompt, start_layer=7, check_inversion=True)
    free = edit(client, base, source_prompt=prompt, start_layer=7, rectify=False)
    assert abs(float(said(checked, "PSNR unrectified").removesuffix(" dB")) - decibels(free)) <= 0.1


@pytest.mark.usefixtures("forgetting", "model")
def test_a_unit_that_patches_the_network_does_not_act(client: Client, photograph: Pixels) -> None:
    """LLLite, which guides every branch or none."""
    lllite = [unit(named(client, "lllite"))]
    settings = {"control_guides": "both", "start_step": STEPS}
    base = controlled(watched(photograph, steps=STEPS), **settings)
    inverted, sampled = [], []
    for units in ([], lllite, lllite):  # twice, as in `test_inversion_is_never_controlled`
        client.img2img(with_script(base, "ControlNet", units))
        outputs = [call["output"] for call in client.unet_calls()]
        inverted.append([output for output in outputs if len(output) == 1])
        sampled.append([output for output in outputs if len(output) > 1])
    assert same(inverted[0], inverted[2]) and len(inverted[0]) == STEPS
    assert largest_difference(sampled[0][0], sampled[2][0]) > 1e-3
