"""100 requests in a row, on both tabs, enabled, disabled and failing: nothing grows and nothing leaks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from .client import Client, HttpError, controlled, encoded, fault, request, same

REQUESTS, WARM_UP = 100, 30
#: Resident memory wavers by a few MiB between identical requests (allocator); a leaked image or latent adds up to more.
MARGIN_MIB = 16
#: The host keeps a few objects per request (timers, task list), at most this many on average, without MasaCtrl too.
OBJECTS_PER_REQUEST = 60


def test_hundred_requests(client: Client) -> None:
    plain = request(steps=4, batch_size=2, sampler_name="Euler a")
    first = client.txt2img(plain)
    picture = encoded(first.images[0])
    image = {**plain, "init_images": [picture], "denoising_strength": 0.6}
    first_image = client.img2img(image)
    kinds = _kinds(client, plain, image)
    hooks = client.get("/fault/hooks")
    warm: dict[str, float] = {}
    for index in range(REQUESTS):
        kinds[index % len(kinds)](index)
        if index + 1 == WARM_UP:
            warm = client.get("/fault/memory")
    after = client.get("/fault/memory")
    assert client.get("/fault/hooks") == hooks
    assert after["rss_mib"] - warm["rss_mib"] < MARGIN_MIB, (warm, after)
    assert after["objects"] - warm["objects"] < OBJECTS_PER_REQUEST * (REQUESTS - WARM_UP), (warm, after)
    assert same(client.txt2img(plain).images, first.images)
    assert same(client.img2img(image).images, first_image.images)


def _kinds(client: Client, plain: dict[str, Any], image: dict[str, Any]) -> list[Callable[[int], object]]:
    def fails(send: Callable[[dict[str, Any]], object], asked: dict[str, Any]) -> None:
        with pytest.raises(HttpError):
            send(asked)

    one, one_image = {**plain, "batch_size": 1}, {**image, "batch_size": 1}
    return [
        lambda index: client.txt2img(controlled({**one, "seed": index})),
        lambda index: client.txt2img(plain),
        lambda index: fails(client.txt2img, fault(controlled(one), raise_at_call=3)),
        lambda index: client.img2img(controlled({**one_image, "seed": index}, start_step=1)),
        lambda index: client.img2img(image),
        lambda index: fails(client.txt2img, controlled(one, start_step="late")),
        lambda index: client.txt2img(controlled({**plain, "seed": index}, method="union", show_source=False)),
        lambda index: fails(client.img2img, fault(controlled(one_image, start_step=1), raise_at_call=2)),
        lambda index: client.txt2img(controlled(plain, enabled=False)),
        lambda index: fails(client.txt2img, fault(plain, raise_at_call=2)),
    ]
