"""Laws 1, 2 and 5 of the design, for every sampler, at every single evaluation of the denoiser."""

from __future__ import annotations

from pathlib import Path

import pytest

from .client import Client, HttpError, controlled, fault, largest_difference, request, same
from .host import HostPaths, running

SAMPLERS = ["DDIM", "Euler", "Euler a", "DPM++ 2M", "DPM++ SDE", "Heun", "UniPC", "LCM"]
EVALUATIONS_PER_STEP = {"DPM++ SDE": 2, "Heun": 2}
TARGET, SOURCE = "a cat, standing", "a cat, sitting"
#: reForge's schedules that end with their last level instead of a zero behind it.
ONE_STEP_LESS = ["Sinusoidal SF", "Invcosinusoidal SF", "React Cosinusoidal DynSF"]
#: How far the target's denoised latent moves at least, the first time it sees the source.
MOVED = 1e-3


@pytest.fixture(params=SAMPLERS)
def sampler(request: pytest.FixtureRequest, client: Client) -> str:
    if request.param not in {entry["name"] for entry in client.get("/sdapi/v1/samplers")}:
        pytest.skip(f"this WebUI has no sampler {request.param}")
    return str(request.param)


def test_source_is_the_plain_image_of_the_source_prompt(client: Client, sampler: str) -> None:
    """Law 2. In the plain batch the seed stands in row 1 as well, because the first image has the seed before it."""
    result = client.txt2img(fault(controlled(request(TARGET, sampler_name=sampler)), trace=True))
    trace = client.trace()
    plain = client.txt2img(fault(request(SOURCE, sampler_name=sampler, seed=10, batch_size=2), trace=True))
    assert same([x[1] for x in trace], [x[1] for x in client.trace()])
    assert same([result.images[1]], [plain.images[1]])


@pytest.mark.parametrize("method", ["mutual", "union"])
def test_target_leaves_the_plain_image_at_the_start_step(client: Client, sampler: str, method: str) -> None:
    """Law 1 before the window, control inside it: bit-identical up to step S = 3, different from there on."""
    asked = controlled(request(TARGET, sampler_name=sampler), start_step=3, start_layer=4, method=method)
    result = client.txt2img(fault(asked, trace=True))
    target = [x[0] for x in client.trace()]
    plain_result = client.txt2img(fault(request(TARGET, sampler_name=sampler, batch_size=2), trace=True))
    plain = [x[0] for x in client.trace()]
    first = 3 * EVALUATIONS_PER_STEP.get(sampler, 1)
    assert same(target[:first], plain[:first])
    assert all(largest_difference(a, b) > MOVED for a, b in zip(target[first:], plain[first:]))
    assert not same(result.images[:1], plain_result.images[:1])


def test_identical_prompts_give_identical_rows(client: Client, sampler: str) -> None:
    """Law 5."""
    asked = controlled(request(TARGET, sampler_name=sampler), source_prompt=TARGET)
    result = client.txt2img(fault(asked, trace=True))
    assert all(same([x[0]], [x[1]]) for x in client.trace())
    assert same(result.images[:1], result.images[1:])


@pytest.mark.parametrize("window", [{"start_step": 8}, {"start_layer": None}, {"start_step": 2, "end_step": 2}])
def test_window_that_covers_nothing(client: Client, layers: int, sampler: str, window: dict[str, int]) -> None:
    """Law 1: the images of the host's own batch of the two prompts."""
    nothing = {key: layers if value is None else value for key, value in window.items()}
    result = client.txt2img(controlled(request(TARGET, sampler_name=sampler), **nothing))
    plain = fault(request(sampler_name=sampler, batch_size=2), prompts=[TARGET, SOURCE], seeds_of=[0, 0])
    assert same(result.images, client.txt2img(plain).images)
    assert "MasaCtrl result: 0 of" in result.infotexts[0]


def test_disabled_is_the_host_without_the_extension(
    client: Client, host_paths: HostPaths, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Law 1: pixel for pixel, sampler for sampler, after control has been on."""
    known = {entry["name"] for entry in client.get("/sdapi/v1/samplers")}
    plain = [request(sampler_name=name, batch_size=2) for name in SAMPLERS if name in known]
    plain.append(request(width=72, height=104, seed=5, cfg_scale=1, sampler_name="Euler a"))
    plain.append(request(n_iter=2, subseed=4, subseed_strength=0.3))
    plain.append(request(enable_hr=True, hr_scale=2, hr_upscaler="Latent", denoising_strength=0.6))
    client.txt2img(controlled(request()))
    installed = [client.txt2img(one) for one in plain]
    switched_off = [client.txt2img(controlled(one, enabled=False)) for one in plain]
    folder: Path = tmp_path_factory.mktemp("without")
    with running(host_paths, folder, extension=None) as without:
        scripts = {name for names in without.get("/sdapi/v1/scripts").values() for name in names}
        assert "masactrl" not in scripts
        for one, first, second in zip(plain, installed, switched_off):
            expected = without.txt2img(one)
            assert same(first.images, expected.images), one
            assert same(second.images, expected.images), one
            assert second.info["infotexts"] == expected.info["infotexts"]


def test_every_scheduler_of_the_host(client: Client) -> None:
    """Law 2, and control inside the window, whatever the noise levels are."""
    try:
        schedulers = [entry["label"] for entry in client.get("/sdapi/v1/schedulers")]
    except HttpError:
        pytest.skip("this WebUI's schedules are part of its samplers")
    for scheduler in schedulers:
        base = request(TARGET, sampler_name="Euler", scheduler=scheduler)
        result = client.txt2img(fault(controlled(base), trace=True))
        trace = client.trace()
        plain = client.txt2img(fault(request(SOURCE, **_schedule(base), seed=10, batch_size=2), trace=True))
        assert same([x[1] for x in trace], [x[1] for x in client.trace()]), scheduler
        assert same([result.images[1]], [plain.images[1]]), scheduler
        steps = 7 if scheduler in ONE_STEP_LESS else 8
        assert len(trace) == steps, scheduler
        assert f"MasaCtrl result: {steps - 2} of {steps} steps" in result.infotexts[0], scheduler


def _schedule(base: dict[str, object]) -> dict[str, object]:
    return {name: base[name] for name in ("sampler_name", "scheduler")}
