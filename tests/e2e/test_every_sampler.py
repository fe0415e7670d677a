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
RENDERS = int(os.environ.get("MASACTRL_E2E_RENDERS", "4"))
#: So many to a request, as images of one batch.
LOT = 20


@pytest.fixture(scope="module")
def renders() -> list[Pixels]:
    """The photographs of the proving ground (bench/quality/photographs.py), which nothing was trained on."""
    sources = ((pair.source, numpy.random.default_rng([90_000, pair.seed])) for pair in random_pairs(RENDERS))
    return [render(random_scene(layout, noise))[0].astype(numpy.int16) for layout, noise in sources]


def round_trips(client: Client) -> list[Pixels]:
    """What the host's autoencoder made of the init images of the last request with ``round_trips``, row by row."""
    with numpy.load(io.BytesIO(base64.b64decode(client.get("/fault/round_trips")["npz"]))) as arrays:
        return list(arrays["pictures"].astype(numpy.int16))


def decibels(got: Pixels, wanted: Pixels) -> float:
    return float(20 * math.log10(255) - 10 * numpy.log10(((got - wanted).astype(float) ** 2).mean()))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_rectified_source_is_the_round_trip(
    client: Client, paints: bool, renders: list[Pixels], sampler: str
) -> None:
    if not paints or sampler not in [known["name"] for known in client.get("/sdapi/v1/samplers")]:
        pytest.skip(f"NOT TESTED HERE: this is for the tiny checkpoint, and hosts with {sampler}.")
    kept, trips, differences, pixels = [], [], [], []
    for first in range(0, len(renders), LOT):
        lot = renders[first : first + LOT]
        base = request(TARGET, steps=6, sampler_name=sampler, batch_size=len(lot), denoising_strength=1.0)
        base["init_images"] = [encoded(picture) for picture in lot]
        result = client.img2img(controlled(fault(base, round_trips=True), source_prompt=""))
        assert len(result.images) == 2 * len(lot)
        for picture, source, trip in zip(lot, result.images[len(lot) :], round_trips(client)[len(lot) :]):
            kept.append(decibels(source, picture))
            trips.append(decibels(trip, picture))
            differences.append(abs(kept[-1] - trips[-1]))
            pixels.append(largest_difference(source, trip))
        targets = [decibels(target, picture) for target, picture in zip(result.images, lot)]
        assert numpy.mean(targets) < numpy.mean(trips) - 3  # they are no round trips
    means = f"{numpy.mean(kept):.1f} | {numpy.mean(trips):.1f}"
    log.info("| %s | %s | %.2f | %.0f |", sampler, means, max(differences), max(pixels))
    assert max(differences) <= 0.1


def test_no_sampler_is_left_out(client: Client, paints: bool) -> None:
    if not paints or "scheduler" not in api_fields(client):
        pytest.skip("NOT TESTED HERE: the list is that of AUTOMATIC1111 since 1.9.")
    assert {known["name"] for known in client.get("/sdapi/v1/samplers")} == set(SAMPLERS)
