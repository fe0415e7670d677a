"""Held-out renders as real images: whatever the sampler, a rectified source is the autoencoder's round trip.

As many as ``MASACTRL_E2E_RENDERS`` says. What was found for 100 is in docs/real-images.md; each test logs its line of
the table there (``--log-cli-level=INFO``).
"""

from __future__ import annotations

import base64
import io
import logging
import math
import os
from typing import Any

import numpy
import pytest

from bench.quality.pairs import random_pairs
from bench.world import random_scene, render

from .client import Client, Pixels, api_fields, controlled, encoded, fault, largest_difference, request
from .real_images import TARGET

log = logging.getLogger(__name__)

#: AUTOMATIC1111 1.10.1's.
SAMPLERS = [
    *("DPM++ 2M", "DPM++ SDE", "DPM++ 2M SDE", "DPM++ 2M SDE Heun", "DPM++ 2S a", "DPM++ 3M SDE", "Euler a", "Euler"),
    *("LMS", "Heun", "DPM2", "DPM2 a", "DPM fast", "DPM adaptive", "Restart", "DDIM", "DDIM CFG++", "PLMS", "UniPC"),
    "LCM",
]
STEPS = 4
RENDERS = int(os.environ.get("MASACTRL_E2E_RENDERS", "4"))
#: So many to a request, as images of one batch.
LOT = 20


@pytest.fixture(scope="module")
def renders() -> list[Pixels]:
    """The photographs of the proving ground (bench/quality/photographs.py), which nothing was trained on."""
    sources = ((pair.source, numpy.random.default_rng([90_000, pair.seed])) for pair in random_pairs(RENDERS))
    return [render(random_scene(layout, noise))[0].astype(numpy.int16) for layout, noise in sources]


@pytest.fixture(scope="module")
def round_trips(client: Client, paints: bool, renders: list[Pixels]) -> list[Pixels]:
    """What the host's autoencoder makes of the renders, by the noise that it draws for the rows of sources."""
    trips: list[Pixels] = []
    for lot in lots(renders) if paints else []:
        client.img2img(asked(lot, steps=1, sampler_name="Euler", round_trips=True, start_step=0))
        with numpy.load(io.BytesIO(base64.b64decode(client.get("/fault/round_trips")["npz"]))) as arrays:
            trips += list(arrays["pictures"].astype(numpy.int16)[len(lot) :])
    return trips


def lots(pictures: list[Pixels]) -> list[list[Pixels]]:
    return [pictures[first : first + LOT] for first in range(0, len(pictures), LOT)]


def asked(lot: list[Pixels], *, round_trips: bool = False, start_step: int = 2, **changes: Any) -> dict[str, Any]:
    base = request(TARGET, batch_size=len(lot), init_images=[encoded(picture) for picture in lot], **changes)
    base = fault({**base, "denoising_strength": 1.0}, round_trips=round_trips, encoder_seed=0)
    return controlled(base, source_prompt="", start_step=start_step)


def decibels(got: Pixels, wanted: Pixels) -> float:
    return float(20 * math.log10(255) - 10 * numpy.log10(((got - wanted).astype(float) ** 2).mean()))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_rectified_source_is_the_round_trip(
    client: Client, paints: bool, renders: list[Pixels], round_trips: list[Pixels], sampler: str
) -> None:
    if not paints or sampler not in [known["name"] for known in client.get("/sdapi/v1/samplers")]:
        pytest.skip(f"NOT TESTED HERE: this is for the tiny checkpoint, and hosts with {sampler}.")
    targets: list[Pixels] = []
    sources: list[Pixels] = []
    for lot in lots(renders):
        images = client.img2img(asked(lot, steps=STEPS, sampler_name=sampler)).images
        targets, sources = targets + images[: len(lot)], sources + images[len(lot) :]
    kept, trips, edited = (
        numpy.array([decibels(*pair) for pair in zip(pictures, renders)])
        for pictures in (sources, round_trips, targets)
    )
    worst, grey = abs(kept - trips).max(), max(map(largest_difference, sources, round_trips))
    log.info("| %s | %.1f | %.1f | %.3f | %.0f |", sampler, kept.mean(), trips.mean(), worst, grey)
    assert worst <= 0.1
    assert edited.mean() < trips.mean() - 3  # an edit is none


def test_no_sampler_is_left_out(client: Client, paints: bool) -> None:
    if not paints or "scheduler" not in api_fields(client):
        pytest.skip("NOT TESTED HERE: the list is that of AUTOMATIC1111 since 1.9.")
    assert {known["name"] for known in client.get("/sdapi/v1/samplers")} == set(SAMPLERS)
