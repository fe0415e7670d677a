"""Stable Diffusion 2 (v prediction, OpenCLIP) and SDXL (two text encoders, pooled vectors) on a real WebUI.

Asked for by ``MASACTRL_E2E_FAMILIES="sd2 sdxl"``; on the Forge family it is SDXL alone. The weights are random, so
traces are compared and pictures are not looked at.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest

from . import family_checkpoints
from .client import Client, HttpError, Result, controlled, encoded, fault, largest_difference, request, same
from .host import HostPaths, is_forge, running
from .wide_checkpoint import sdxl_checkpoint

TARGET, SOURCE = "a cat, standing", "a cat, sitting"
SAMPLERS = ["DDIM", "Euler", "DPM++ 2M", "Euler a"]
LAYERS = {"sd2": 16, "sdxl": 70}
DEFAULT_LAYER = {"sd2": 10, "sdxl": 44}
PICTURE = numpy.add.outer(numpy.arange(64) * 2, numpy.arange(64))[..., None].repeat(3, 2) % 256


@pytest.fixture(scope="module", params=family_checkpoints.FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    if request.param not in os.environ.get("MASACTRL_E2E_FAMILIES", "").split():
        pytest.skip(f"NOT TESTED: put {request.param} into MASACTRL_E2E_FAMILIES.")
    return str(request.param)


@pytest.fixture(scope="module")
def client(host_paths: HostPaths, family: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    if is_forge(host_paths.checkout):
        if family != "sdxl":
            pytest.skip("NOT TESTED: the Forge family takes no narrow checkpoint")
        checkpoint = sdxl_checkpoint()
    else:
        checkpoint = tmp_path_factory.mktemp(family) / f"{family}.safetensors"
        maker: list[str | Path] = [host_paths.python, family_checkpoints.__file__, host_paths.checkout]
        subprocess.run([*maker, family, checkpoint], check=True, cwd=checkpoint.parent)
    try:
        with running(replace(host_paths, checkpoint=checkpoint), tmp_path_factory.mktemp("webui")) as client:
            client.post("/sdapi/v1/options", {"live_previews_enable": False})  # SDXL's would download a model
            yield client
    finally:
        if not is_forge(host_paths.checkout):
            checkpoint.unlink()


@pytest.fixture(scope="module")
def idle_hooks(client: Client) -> dict[str, int]:
    hooks: dict[str, int] = client.get("/fault/hooks")
    return hooks


def test_layers_and_the_default_start_layer(client: Client, family: str) -> None:
    result = client.txt2img(controlled(request(sampler_name="Euler"), start_layer=None, start_step=0))
    layers = LAYERS[family]
    assert f"8 of 8 steps; {layers - DEFAULT_LAYER[family]} of {layers} layers" in result.infotexts[0]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_source_is_plain_and_target_leaves_at_the_start_step(client: Client, sampler: str) -> None:
    """Laws 1 and 2."""
    asked = controlled(request(TARGET, sampler_name=sampler), start_step=3)
    result = client.txt2img(fault(asked, trace=True))
    trace = client.trace()
    plain_source = client.txt2img(fault(request(SOURCE, sampler_name=sampler, seed=10, batch_size=2), trace=True))
    assert same([x[1] for x in trace], [x[1] for x in client.trace()])
    assert same([result.images[1]], [plain_source.images[1]])
    plain = client.traced(request(TARGET, sampler_name=sampler, batch_size=2))
    assert same([x[0] for x in trace[:3]], [x[0] for x in plain[:3]])
    assert all(largest_difference(a[0], b[0]) > 1e-3 for a, b in zip(trace[3:], plain[3:]))


def test_identical_prompts_give_identical_rows(client: Client) -> None:
    """Law 5."""
    trace = client.traced(controlled(request(TARGET), source_prompt=TARGET))
    assert all(same([x[0]], [x[1]]) for x in trace)


def test_window_that_covers_nothing(client: Client, family: str) -> None:
    """Law 1: the host's own batch of the two prompts, each row with its own pooled vector."""
    result = client.txt2img(controlled(request(TARGET), start_layer=LAYERS[family]))
    plain = fault(request(batch_size=2), prompts=[TARGET, SOURCE], seeds_of=[0, 0])
    assert same(result.images, client.txt2img(plain).images)


@pytest.mark.parametrize("prompt", [TARGET + ", very long" * 40, "", "a [cat:dog:4], (standing:1.3)"])
def test_prompts_of_other_lengths(client: Client, prompt: str) -> None:
    _check(client, request(prompt, sampler_name="Euler"), passes=1)


def test_hires_fix(client: Client) -> None:
    base = request(TARGET, enable_hr=True, hr_scale=2, hr_upscaler="Latent", denoising_strength=0.6)
    _check(client, base, passes=2)


def _check(client: Client, base: dict[str, Any], passes: int) -> None:
    """Law 2 at every evaluation of so many passes, and a target that is controlled from step 2 on."""
    trace = client.traced(controlled(base))
    plain = client.traced(fault({**base, "batch_size": 2}, prompts=[base["prompt"], SOURCE], seeds_of=[0, 0]))
    assert len({x.shape for x in trace}) == passes
    assert same([x[1] for x in trace], [x[1] for x in plain])
    assert same([x[0] for x in trace[:2]], [x[0] for x in plain[:2]])
    assert all(largest_difference(a[0], b[0]) > 1e-3 for a, b in zip(trace[2:], plain[2:]))


def test_masks_by_words(client: Client) -> None:
    """Law 2, a target that its masks change, and a word found through this family's own tokenizer."""
    found = client.post("/fault/words", {"prompt": "a red (cat:1.3) BREAK a cat", "words": "cat"})
    assert found == {"positions": [[3, 79]], "spelt": [["cat</w>", "cat</w>"]]}
    settings = {"mask": "words", "source_words": "cat", "mask_threshold": "auto", "start_step": 2}
    base = request(TARGET, sampler_name="Euler")
    plain = client.traced(fault({**base, "batch_size": 2}, prompts=[TARGET, SOURCE], seeds_of=[0, 0]))
    unmasked, masked = client.traced(controlled(base)), client.traced(controlled(base, **settings))
    assert same([x[1] for x in masked], [x[1] for x in plain])
    assert largest_difference(masked[-1][0], unmasked[-1][0]) > 1e-3


def test_and_prompts_are_refused(client: Client) -> None:
    with pytest.raises(HttpError, match="AND"):
        client.txt2img(controlled(request("a cat AND a dog")))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_real_image_is_kept_and_inverted_once(client: Client, sampler: str) -> None:
    """The second edit makes no U-Net call for inversion and has the same source, but another target."""
    first, calls = _edit(client, TARGET, sampler)
    assert calls and _said(first, "inversion") == f"{calls} U-Net calls"
    first_trace = client.trace()
    second, calls = _edit(client, "a cat, lying", sampler)
    assert calls == 0 and same(first.images[1:], second.images[1:])
    assert not same(first_trace[-1:], client.trace()[-1:])


@pytest.mark.parametrize(
    ("sampler", "options"), [("DDIM", {}), ("Euler", {}), ("Euler", {"enable_quantization": True})]
)
def test_inversion_asks_the_network_as_the_sampler_does(client: Client, sampler: str, options: dict[str, bool]) -> None:
    """Law 8: sampling back by inversion's model is what the host's sampler does with a free source.

    The first call of both is the same to rounding, and so are the conditioning and the timesteps of all calls. Random
    weights enlarge what rounding leaves from step to step, and a coarse inversion through them need not be exact.
    """
    base = request(TARGET, init_images=[encoded(PICTURE)], denoising_strength=1.0, sampler_name=sampler)
    asked = fault({**base, "override_settings": options}, calls=True, encoder_seed=0)
    client.img2img(controlled(asked, source_prompt="free", rectify=False, check_inversion=True))
    calls = client.unet_calls()
    sampled = [call for call in calls if len(call["x"]) == 4]  # target and source, each with and without its prompt
    back = [call for call in calls if len(call["x"]) == 1][-len(sampled) :]
    assert len(sampled) >= 6 and len(calls) == 3 * len(sampled)
    for name in sampled[0]:
        steps = 1 if name in ("x", "output") else len(sampled)
        allowed = 0 if name in ("context", "y") else 1e-4 if name == "output" else 1e-5
        assert max(_apart(mine[name], theirs[name]) for mine, theirs in zip(back[:steps], sampled)) <= allowed, name


def test_a_rectified_source_is_the_encoded_picture_in_every_sampler(client: Client) -> None:
    """Law 8. The decoder's weights are random too, so the pictures are compared with each other."""
    first, *others = [_edit(client, TARGET, sampler)[0].images[1] for sampler in SAMPLERS]
    assert all(largest_difference(first, other) <= 1 for other in others)


def _edit(client: Client, prompt: str, sampler: str) -> tuple[Result, int]:
    """The result, and how many U-Net calls inversion took."""
    base = request(prompt, init_images=[encoded(PICTURE)], denoising_strength=1.0, sampler_name=sampler)
    asked = fault(base, count=True, trace=True, encoder_seed=0)
    client.get("/fault/rows")  # forget what was counted before
    result = client.img2img(controlled(asked, source_prompt=sampler))
    return result, sum(rows == 1 for rows in client.get("/fault/rows"))


def _apart(alone: numpy.ndarray, together: numpy.ndarray) -> float:
    """The largest difference of a call's only row to the source's of target and source, over the largest value."""
    return float(abs(alone[0] - together[1]).max() / abs(alone).max().clip(1))


def _said(result: Result, entry: str) -> str:
    found = re.search(rf"MasaCtrl {entry}: ([^,\n]*)", result.infotexts[0])
    assert found, result.infotexts[0]
    return found[1]
