"""Law 3: an interrupt, a skip or an exception inside sampling leaves nothing behind."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from .client import Client, HttpError, controlled, encoded, fault, request, same

#: Long enough to be interrupted, whatever else the machine does.
LONG = request(steps=150, width=128, height=128)


@pytest.fixture(autouse=True)
def next_plain_image_is_the_same(client: Client) -> Iterator[None]:
    """The plain image after the failure is bit-identical to the one before, at both tabs."""
    plain = request(sampler_name="Euler a", batch_size=2)
    before = client.txt2img(plain)
    again = {**plain, "init_images": [encoded(before.images[0])], "denoising_strength": 0.6}
    image = client.img2img(again)
    yield
    assert same(client.txt2img(plain).images, before.images)
    assert same(client.img2img(again).images, image.images)


@pytest.mark.parametrize("way", ["interrupt", "skip"])
@pytest.mark.parametrize("sampler", ["DDIM", "DPM++ SDE"])
def test_stopped_in_the_window(client: Client, way: str, sampler: str) -> None:
    """The request is served with what there is, and says how many steps were controlled."""
    long = controlled({**LONG, "sampler_name": sampler}, start_step=1)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(client.txt2img, long)
        client.wait_for(lambda state: state["sampling_steps"] == 150 and state["sampling_step"] >= 3)
        client.post(f"/sdapi/v1/{way}", {})
        result = running.result()
    assert len(result.images) == 2
    assert " of 150 steps" not in result.infotexts[0]
    assert "MasaCtrl result: " in result.infotexts[0]


def test_interrupted_before_the_window(client: Client) -> None:
    """Nothing was controlled yet; that is no failure of control."""
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(client.txt2img, controlled(LONG, start_step=149))
        client.wait_for(lambda state: state["sampling_steps"] == 150 and state["sampling_step"] >= 2)
        client.post("/sdapi/v1/interrupt", {})
        assert "MasaCtrl result: 0 of" in running.result().infotexts[0]


@pytest.mark.parametrize("call", [1, 3, 7])
@pytest.mark.parametrize("method", ["mutual", "union"])
def test_exception_inside_sampling(client: Client, call: int, method: str) -> None:
    """Before, in and at the end of the window."""
    with pytest.raises(HttpError, match="asked for at U-Net call"):
        client.txt2img(fault(controlled(request(), method=method), raise_at_call=call))


def test_exception_in_the_second_pass(client: Client) -> None:
    hires = request(enable_hr=True, hr_scale=2, hr_upscaler="Latent", denoising_strength=0.6)
    with pytest.raises(HttpError, match="asked for at U-Net call"):
        client.txt2img(fault(controlled(hires), raise_at_call=10))


def test_exception_in_the_second_batch(client: Client) -> None:
    with pytest.raises(HttpError, match="asked for at U-Net call"):
        client.txt2img(fault(controlled(request(n_iter=2), show_source=False), raise_at_call=12))


def test_exception_in_img2img(client: Client) -> None:
    image = encoded(client.txt2img(request()).images[0])
    asked = controlled(request(init_images=[image], denoising_strength=0.6), start_step=1)
    with pytest.raises(HttpError, match="asked for at U-Net call"):
        client.img2img(fault(asked, raise_at_call=3))


def test_controlled_image_after_an_exception_is_the_same(client: Client) -> None:
    before = client.txt2img(controlled(request()))
    with pytest.raises(HttpError):
        client.txt2img(fault(controlled(request()), raise_at_call=4))
    assert same(client.txt2img(controlled(request())).images, before.images)
