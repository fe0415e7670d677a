"""A real image as the source, in img2img: how it is inverted, and how its trajectory is followed."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator

import numpy
import pytest

from .client import Client, HttpError, Pixels, decoded, fault, largest_difference, same
from .real_images import KEPT, asked, decibels, edit, inversion_calls, said

SAMPLERS = ["DDIM", "Euler", "DPM++ 2M", "DPM++ SDE", "Heun", "UniPC"]
OTHERS = ["Euler a", "LMS", "DPM2", "DPM++ 3M SDE", "DPM fast", "DPM adaptive", "Restart", "LCM", "PLMS"]
SIZES = [(512, 512), (512, 768), (320, 448)]


@pytest.mark.parametrize("sampler", [*SAMPLERS, *OTHERS])
def test_the_source_is_the_picture_and_the_second_edit_inverts_nothing(
    client: Client, paints: bool, photograph: Pixels, sampler: str
) -> None:
    if sampler not in [known["name"] for known in client.get("/sdapi/v1/samplers")]:
        pytest.skip(f"this WebUI has no {sampler}")
    base = asked(photograph, sampler_name=sampler, steps=9)
    first = edit(client, base, source_prompt=f"a cat, {sampler}")
    calls = inversion_calls(client)
    assert said(first, "inversion") == f"{calls} U-Net calls" and calls >= 7
    second = edit(client, {**base, "prompt": "a cat lying on the left"}, source_prompt=f"a cat, {sampler}")
    assert said(second, "inversion") == KEPT and inversion_calls(client) == 0
    assert same(first.images[1:], second.images[1:])
    assert decibels(first) == decibels(second)
    if paints:
        assert decibels(first) > 30
        assert abs(first.images[1] - photograph).mean() < 3
        assert abs(first.images[0] - photograph).mean() > 10
    assert not same(first.images[:1], second.images[:1])
    assert re.fullmatch(
        r"([1-9]\d*) of \d+ steps; 12 of 16 layers", re.search(r"result: ([^,]*)", first.infotexts[0])[1]
    )


@pytest.mark.parametrize(("rectify", "equal"), [(True, 2), (False, 0)])
def test_a_rectified_source_sees_no_noise_that_the_sampler_draws(
    client: Client, photograph: Pixels, rectify: bool, equal: int
) -> None:
    """At every evaluation, what the U-Net gets as source, cond and uncond, is the trajectory's."""
    seeds = []
    for seed in (1, 2):
        base = fault(asked(photograph, sampler_name="Euler a", seed=seed), count=False, calls=True)
        edit(client, base, source_prompt="noise", rectify=rectify)
        seeds.append([call["x"] for call in client.unet_calls() if len(call["x"]) == 4])
    assert len(seeds[0]) == 8 and same(seeds[0][:1], seeds[1][:1])
    for one, other in zip(seeds[0][1:], seeds[1][1:]):
        assert sum(map(numpy.array_equal, one, other)) == equal


@pytest.fixture
def quick_attention(client: Client) -> Iterator[None]:
    """The CPU's default optimisation takes minutes for the large sizes."""
    name = "cross_attention_optimization"
    before = client.get("/sdapi/v1/options").get(name)
    if before is not None:  # the Forge family takes it from the command line
        client.post("/sdapi/v1/options", {name: "sdp-no-mem - scaled dot product without memory efficient attention"})
    yield
    if before is not None:
        client.post("/sdapi/v1/options", {name: before})


@pytest.mark.usefixtures("quick_attention")
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_every_size(client: Client, photograph: Pixels, sampler: str, width: int, height: int) -> None:
    """In as few steps as UniPC takes. Each has its own prompt: samplers of the same levels would share inversions."""
    base = asked(photograph, sampler_name=sampler, width=width, height=height, steps=4)
    own = {"source_prompt": f"a cat, {sampler}", "start_step": 1}
    first = edit(client, base, **own)
    assert [image.shape for image in first.images] == [(height, width, 3)] * 2
    assert inversion_calls(client) in (2, 3, 4)
    second = edit(client, {**base, "prompt": "a cat lying on the left"}, **own)
    assert inversion_calls(client) == 0
    assert same(first.images[1:], second.images[1:]) and not same(first.images[:1], second.images[:1])


def test_the_picture_comes_back_when_nothing_is_changed(client: Client, photograph: Pixels, paints: bool) -> None:
    """Law 8: inversion, then sampling freely under the same prompt, is the picture again; every row is."""
    if not paints:
        pytest.skip("NOT TESTED HERE: an autoencoder of random weights gives no picture back.")
    base = {**asked(photograph, steps=20, cfg_scale=1), "prompt": "a cat sitting on the left"}
    free = edit(client, base, source_prompt="a cat sitting on the left", rectify=False)
    assert decibels(free) > 30
    assert largest_difference(*free.images) <= 1  # law 5
    guided = edit(client, {**base, "cfg_scale": 7}, source_prompt="a cat sitting on the left", rectify=False)
    assert decibels(guided) > 30  # the source has guidance 1 of its own
    other = edit(client, asked(photograph, steps=20), source_prompt="a cat sitting on the left")
    assert largest_difference(other.images[0], photograph) > 50


def test_strength_says_how_far_up_the_picture_is_inverted(client: Client, photograph: Pixels) -> None:
    distances = []
    for strength, calls in ((0.25, 3), (0.5, 6), (1.0, 10)):
        result = edit(client, asked(photograph, denoising_strength=strength, steps=10), start_step=0)
        assert inversion_calls(client) == calls
        distances.append(abs(result.images[0] - photograph).mean())
    assert distances[0] < min(distances[1:])


@pytest.mark.parametrize(("settings", "calls"), [({"inversion_steps": 20}, 24), ({"inversion_refinements": 2}, 24)])
def test_a_more_exact_inversion(client: Client, photograph: Pixels, settings: dict[str, int], calls: int) -> None:
    """Of 8 steps: 20 asked for are three to each of the sampler's; two refinements are three evaluations each."""
    edit(client, asked(photograph), source_prompt="exact", **settings)
    assert inversion_calls(client) == calls


def test_an_inversion_is_checked_once(client: Client, photograph: Pixels) -> None:
    """Eight steps take eight evaluations more, and none in later edits, whether or not the inversion was kept."""
    base, prompt = asked(photograph), "checked"
    plain = edit(client, base, source_prompt=prompt)
    assert inversion_calls(client) == 8 and "unrectified" not in plain.infotexts[0]
    later = edit(client, base, source_prompt=prompt, check_inversion=True)
    assert inversion_calls(client) == 8 and said(later, "inversion") == "8 U-Net calls"
    assert same(later.images, plain.images)
    first = edit(client, base, source_prompt=f"{prompt} at once", check_inversion=True, inversion_refinements=1)
    assert inversion_calls(client) == 24 and said(first, "inversion") == "24 U-Net calls"
    second = edit(client, {**base, "prompt": "a dog"}, source_prompt=prompt, check_inversion=True)
    assert said(second, "inversion") == KEPT and inversion_calls(client) == 0
    assert said(second, "PSNR unrectified") == said(later, "PSNR unrectified")
    edit(client, base, source_prompt=prompt, check_inversion=False)
    assert inversion_calls(client) == 0


@pytest.mark.parametrize("sampler", ["Euler", "DDIM"])
def test_a_check_tells_what_a_free_source_keeps(client: Client, paints: bool, photograph: Pixels, sampler: str) -> None:
    """Both take DDIM's steps from the same noise; the free source by the host's sampler."""
    base, prompt = asked(photograph, steps=5, sampler_name=sampler), "a dog lying on the left"
    checked = edit(client, base, source_prompt=prompt, check_inversion=True)
    free = edit(client, base, source_prompt=prompt, rectify=False)
    assert inversion_calls(client) == 0
    unrectified = float(said(checked, "PSNR unrectified").removesuffix(" dB"))
    assert abs(unrectified - decibels(free)) <= 0.1
    assert decibels(checked) > unrectified + 0.3 or not paints


def test_a_check_without_a_picture_is_not_made(client: Client, photograph: Pixels) -> None:
    """TAESD encodes the picture beside the checkpoint's own encoder, where nothing sees it."""
    base = fault(asked(photograph, override_settings={"sd_vae_encode_method": "TAESD"}), taesd=True)
    result = edit(client, base, source_prompt="by TAESD", check_inversion=True)
    assert said(result, "inversion") == "8 U-Net calls" and inversion_calls(client) == 8
    assert said(result, "PSNR") == "unknown" and "unrectified" not in result.infotexts[0]
    again = edit(client, base, source_prompt="by TAESD", check_inversion=True)
    assert said(again, "inversion") == KEPT and same(again.images, result.images)


def test_churn_goes_above_the_start(client: Client, photograph: Pixels) -> None:
    result = edit(client, asked(photograph, s_churn=4, s_tmax=1000), source_prompt="churn")
    assert decibels(result) > 30


def test_every_scheduler_of_the_host(client: Client, paints: bool, photograph: Pixels) -> None:
    try:
        schedulers = [entry["label"] for entry in client.get("/sdapi/v1/schedulers")]
    except HttpError:
        pytest.skip("this WebUI's schedules are part of its samplers")
    for scheduler in schedulers:
        result = edit(client, asked(photograph, scheduler=scheduler), source_prompt=scheduler)
        calls = inversion_calls(client)
        assert calls >= 5 and said(result, "inversion") == f"{calls} U-Net calls", scheduler
        assert decibels(result) > 30 or not paints, scheduler


def test_the_host_shows_how_an_inversion_goes(client: Client, photograph: Pixels) -> None:
    """In its progress bar and live preview; the sampling that follows has its own steps again."""
    options = {"live_previews_enable": True, "show_progress_every_n_steps": 1, "show_progress_type": "Approx cheap"}
    known = client.get("/sdapi/v1/options")
    client.post("/sdapi/v1/options", options)
    base = asked(photograph, steps=40, width=128, height=128)
    try:
        worker = threading.Thread(target=edit, args=(client, base), kwargs={"inversion_steps": 120})
        worker.start()
        client.wait_for(
            lambda state: state["textinfo"] == "MasaCtrl: inverting the picture" and state["sampling_step"] > 1
        )
        answer = client.get("/sdapi/v1/progress")
        assert answer["state"]["sampling_steps"] == 120 and 0 < answer["progress"] < 1
        shown = decoded(answer["current_image"])
        assert shown.std() > 10
        client.wait_for(
            lambda state: state["job_count"] and state["sampling_steps"] == 40 and state["textinfo"] is None
        )
        worker.join(120)
    finally:
        client.post("/sdapi/v1/options", {name: known[name] for name in options})
