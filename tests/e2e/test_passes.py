"""Laws 2, 3 and 7 where one request samples more than once or with more than one model: hires fix and refiner."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from .client import Client, controlled, fault, request, same

TARGET, SOURCE = "a cat, standing", "a cat, sitting"
HIRES: dict[str, Any] = {
    "enable_hr": True,
    "hr_scale": 2,
    "hr_upscaler": "Latent",
    "hr_second_pass_steps": 6,
    "denoising_strength": 0.6,
}
REFINER: dict[str, Any] = {"refiner_checkpoint": "second", "refiner_switch_at": 0.5}
VARIANTS: dict[str, dict[str, Any]] = {
    "latent": {},
    "pixels": {"hr_upscaler": "Lanczos"},
    "other sampler": {"hr_sampler_name": "Euler a"},
    "Heun": {"sampler_name": "Heun"},
    "resize": {"hr_resize_x": 104, "hr_resize_y": 136},
    "other checkpoint": {"hr_checkpoint_name": "second"},
    "own prompt": {"hr_prompt": "a cat, standing, sharp", "hr_negative_prompt": "soft"},
}


@pytest.fixture
def two_models_in_memory(client: Client) -> Iterator[None]:
    """The refiner's U-Net is another module then, instead of the same one with other weights."""
    client.post("/sdapi/v1/options", {"sd_checkpoints_limit": 2})
    yield
    client.post("/sdapi/v1/options", {"sd_checkpoints_limit": 1})
    # Asked for one of two, AUTOMATIC1111 1.6 empties a model and forgets the other; asked for a third, it does not.
    for name in ("inpainting", "first"):
        client.post("/sdapi/v1/options", {"sd_model_checkpoint": name})


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS.keys())
def test_hires_source_is_the_plain_one_in_both_passes(client: Client, variant: dict[str, Any]) -> None:
    """Law 2 at every evaluation, and control in both passes."""
    base = request(TARGET, **{**HIRES, **variant})
    result = client.txt2img(fault(controlled(base), trace=True))
    trace = client.trace()
    plain = _plain(client, base)
    expected = client.trace()
    assert len({x.shape for x in trace}) == 2
    assert same([x[1] for x in trace], [x[1] for x in expected])
    assert same(result.images[1:], plain[1:])
    differs = [not same([x[0]], [y[0]]) for x, y in zip(trace, expected)]
    first_pass = differs.index(True)
    assert first_pass > 0 and all(differs[first_pass:])


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS.keys())
def test_hires_without_window_is_plain(client: Client, layers: int, variant: dict[str, Any]) -> None:
    """Law 1."""
    base = request(TARGET, **{**HIRES, **variant})
    assert same(client.txt2img(controlled(base, start_layer=layers)).images, _plain(client, base))


def test_second_pass_goes_on_as_the_first_ended(client: Client) -> None:
    """Its layout is finished already, so S does not count there; a window that is over before it covers none of it."""
    base = request(TARGET, **HIRES)
    for over in ({"start_step": 8}, {"start_step": 2, "end_step": 2}):
        assert "MasaCtrl result: 0 of" in client.txt2img(controlled(base, **over)).infotexts[0]
    # DDIM makes one evaluation less than it has steps: a window from the last step on begins in the second pass.
    from_the_last = client.txt2img(fault(controlled(base, start_step=7), trace=True))
    trace = client.trace()
    _plain(client, base)
    differs = [not same([x[0]], [y[0]]) for x, y in zip(trace, client.trace())]
    sizes = [x.shape[-1] for x in trace]
    assert differs == [size == sizes[-1] for size in sizes]
    assert "MasaCtrl result: 0 of" not in from_the_last.infotexts[0]


def test_hires_prompt_of_a_style(client: Client) -> None:
    base = request(TARGET, **HIRES)
    styled = client.txt2img(controlled({**base, "styles": ["night"]}))
    base["negative_prompt"] += ", daylight"
    spelled = client.txt2img(controlled({**base, "prompt": f"{TARGET}, at night"}, source_prompt=f"{SOURCE}, at night"))
    assert same(styled.images, spelled.images)


@pytest.mark.parametrize("sampler", ["DDIM", "Euler a", "Heun"])
def test_refiner_is_controlled(client: Client, sampler: str) -> None:
    """The refiner's weights take over in the same U-Net module."""
    _check_refiner(client, request(TARGET, sampler_name=sampler, **REFINER))


@pytest.mark.usefixtures("two_models_in_memory")
@pytest.mark.parametrize("sampler", ["DDIM", "Euler a"])
def test_refiner_as_another_module_is_controlled(client: Client, sampler: str) -> None:
    """The hooks follow the model in the middle of sampling, and leave the first one clean."""
    _check_refiner(client, request(TARGET, sampler_name=sampler, **REFINER))


@pytest.mark.usefixtures("two_models_in_memory")
def test_exception_in_the_refiner(client: Client) -> None:
    """Law 3 with a model change inside sampling: both models are left clean (the fixture of this folder looks)."""
    before = client.txt2img(request(TARGET))
    with pytest.raises(Exception, match="asked for at U-Net call"):
        client.txt2img(fault(controlled(request(TARGET, **HIRES, **REFINER)), raise_at_call=10))
    assert same(client.txt2img(request(TARGET)).images, before.images)


def _check_refiner(client: Client, base: dict[str, Any]) -> None:
    before = client.txt2img(request(TARGET))
    result = client.txt2img(fault(controlled(base, start_step=2), trace=True))
    trace = client.trace()
    plain = _plain(client, base)
    expected = client.trace()
    alone = client.traced({**base, "refiner_checkpoint": None, "batch_size": 2})
    assert not same([expected[-1][:1]], [alone[-1][:1]]), "the refiner changes nothing, so nothing is tested"
    assert same([x[1] for x in trace], [x[1] for x in expected])
    assert same(result.images[1:], plain[1:])
    late = client.traced(controlled(base, start_step=6))
    differs = [not same([x[0]], [y[0]]) for x, y in zip(late, expected)]
    assert differs[-1] and not any(differs[:6]), "control of the refiner's own steps"
    assert same(client.txt2img(request(TARGET)).images, before.images)


def _plain(client: Client, base: dict[str, Any]) -> list[Any]:
    prompts = [base.get("hr_prompt") or TARGET, SOURCE]
    if prompts[0] == TARGET:
        return client.txt2img(fault({**base, "batch_size": 2}, prompts=prompts, seeds_of=[0, 0], trace=True)).images
    wanted = {"prompts": [TARGET, SOURCE], "hr_prompts": prompts, "seeds_of": [0, 0], "trace": True}
    return client.txt2img(fault({**base, "batch_size": 2}, **wanted)).images
