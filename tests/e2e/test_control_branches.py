"""Beside ControlNet: each unit guides the branches it is asked to guide, and nothing stays behind.

On A1111 it is run as ``test_controlnet.py``, with a checkpoint that takes the extension's T2I-adapters: its U-Net has
widths c, 2c, 4c, 4c. Forge's ControlNet is built in, and the checkpoint of its own tests takes a ControlNet.
"""

from __future__ import annotations

from typing import Any

import numpy
import pytest

from .client import Client, HttpError, encoded, fault, largest_difference, request, same, with_script
from .control_requests import (
    HIRES,
    MOVED,
    NO_CONTROL,
    OTHER,
    STEPS,
    Sampled,
    asked,
    equal,
    unit,
)
from .host import HostPaths, is_forge

pytestmark = pytest.mark.usefixtures("model")


def test_target_alone_by_default(client: Client, model: str) -> None:
    """The source is that of a run without ControlNet, bit by bit; the target is another."""
    without = Sampled(client, asked())
    settings = {key: value for key, value in asked().items() if key != "control_guides"}
    guided = Sampled(client, settings, unit(model))
    assert equal(guided.row(1), without.row(1))
    assert largest_difference(guided.row(0), without.row(0)) > MOVED


def test_source_alone(client: Client, model: str) -> None:
    """The reverse; where control is on, the target follows the source to its new layout."""
    without = Sampled(client, asked(**NO_CONTROL))
    guided = Sampled(client, asked("source", **NO_CONTROL), unit(model))
    assert equal(guided.row(0), without.row(0))
    assert largest_difference(guided.row(1), without.row(1)) > MOVED
    under_control = Sampled(client, asked("source"), unit(model))
    assert equal(under_control.row(1), guided.row(1))
    assert largest_difference(under_control.row(0), Sampled(client, asked()).row(0)) > MOVED


@pytest.mark.parametrize("guides", ["target 0", "source 0", "both 0", "target 0 + source 0"])
def test_weight_zero_is_off(client: Client, model: str, guides: str) -> None:
    assert equal(Sampled(client, asked(guides), unit(model)).latents, Sampled(client, asked()).latents)


def test_weights_are_factors_on_the_units_own(client: Client, model: str) -> None:
    factor = Sampled(client, asked("target 0.5 + source 0.25"), unit(model))
    half = Sampled(client, asked("target + source 0.5"), unit(model, weight=0.5))
    assert equal(factor.latents, half.latents)
    assert largest_difference(factor.row(0), Sampled(client, asked(), unit(model)).row(0)) > MOVED


def test_a_second_unit_guides_the_source(client: Client, model: str) -> None:
    both = Sampled(client, asked("target, source", **NO_CONTROL), unit(model, 1), unit(model, 2))
    assert equal(both.row(0), Sampled(client, asked("target", **NO_CONTROL), unit(model, 1)).row(0))
    assert equal(both.row(1), Sampled(client, asked("source", **NO_CONTROL), unit(model, 2)).row(1))


def test_units_are_counted_as_the_extension_numbers_them(client: Client, model: str) -> None:
    """A unit that is switched off keeps its place."""
    off = unit(model, 1, enabled=False)
    guided = Sampled(client, asked("source, target"), off, unit(model))
    assert equal(guided.latents, Sampled(client, asked("target"), unit(model)).latents)


def test_a_unit_per_target(client: Client, model: str) -> None:
    """Target k is guided by the k-th of the units that say "each", and the source by the one between them."""
    more = {"more_targets": OTHER, **NO_CONTROL}
    several = Sampled(client, asked("each, source, each 0.5", **more), *(unit(model, seed) for seed in (1, 2, 3)))
    for row, seed, guides in ((0, 1, "target"), (1, 3, "target 0.5"), (2, 2, "source")):
        assert equal(several.row(row), Sampled(client, asked(guides, **more), unit(model, seed)).row(row))


def test_one_picture_per_target(client: Client, model: str, several_pictures: dict[str, Any]) -> None:
    """Multi-Inputs: target k has picture k at the unit's whole weight, and the source none; in a second pass too."""
    for changes in ({}, {"batch_size": 2}, HIRES):
        base = fault(asked("each", more_targets=OTHER, **changes), units_of_the_page=True)
        one = asked(more_targets=OTHER, **changes)
        several = client.traced(with_script(base, "ControlNet", [unit(model, **several_pictures)]))
        first, second = (client.traced(with_script(one, "ControlNet", [unit(model, seed)])) for seed in (1, 2))
        without = client.traced(one)
        for latents, *of_one, plain in zip(several, first, second, without):
            targets = len(latents) // 3 * 2
            for row in range(targets):
                assert same([latents[row]], [of_one[row % 2][row]])
            assert same([latents[targets:]], [plain[targets:]])
            assert largest_difference(of_one[0][0], of_one[1][0]) > MOVED


def test_several_pictures_guide_the_target_alone(client: Client, model: str, several_pictures: dict[str, Any]) -> None:
    base = fault(asked("target"), units_of_the_page=True)
    guided, without = Sampled(client, base, unit(model, **several_pictures)), Sampled(client, asked())
    assert equal(guided.row(1), without.row(1))
    assert largest_difference(guided.row(0), without.row(0)) > MOVED


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"negative_prompt": "a cat, " * 40},  # as many tokens by either tokenizer of SDXL
        {"cfg_scale": 1},
        {"sampler_name": "Heun"},
        {"batch_size": 2},
        HIRES,
        {"refiner_checkpoint": "second", "refiner_switch_at": 0.5},
    ],
    ids=lambda changes: next(iter(changes), "cond and uncond apart"),
)
def test_wherever_rows_come_from(client: Client, host_paths: HostPaths, model: str, changes: dict[str, Any]) -> None:
    """Cond and uncond together or apart, several groups, a second pass."""
    base = asked("target", **changes)
    if not changes:
        apart = {"override_settings": {"batch_cond_uncond": False}}
        base = fault(base, low_memory=2) if is_forge(host_paths.checkout) else {**base, **apart}
    calls = [client.traced(with_script(base, "ControlNet", units)) for units in ([], [unit(model)])]
    for without, guided in zip(*calls):
        groups = len(without) // 2
        assert same([guided[groups:]], [without[groups:]])
        assert all(largest_difference(guided[row], without[row]) > MOVED for row in range(groups))


def test_an_error_inside_sampling_leaves_nothing(client: Client, model: str) -> None:
    before = Sampled(client, asked("source"), unit(model))
    failing = fault(asked("source"), raise_at_call=2)
    with pytest.raises(HttpError):
        client.txt2img(with_script(failing, "ControlNet", [unit(model)]))
    left = client.get("/fault/hooks")
    assert (left["ours"], left["control_signals"]) == (0, 0)
    plain = request(steps=STEPS, batch_size=2)
    alone = Sampled(client, plain, unit(model))
    assert largest_difference(alone.row(0), Sampled(client, plain).row(0)) > MOVED
    assert equal(Sampled(client, asked("source"), unit(model)).latents, before.latents)


def test_inversion_is_never_controlled(client: Client, model: str) -> None:
    """The U-Net gives the same in every call of inversion, whomever a unit guides in those of sampling."""
    image = encoded(numpy.kron(numpy.random.default_rng(4).integers(0, 255, (8, 8, 3)), numpy.ones((8, 8, 1))))
    client.post("/sdapi/v1/options", {"masactrl_cache_mib": 0})  # each request inverts
    try:
        inversions, samplings = [], []
        # Once for nothing: loading and preprocessing draw from the generator that the host encodes the init image with.
        for guides in ("both", "both", "both 0"):
            base = fault(
                {**asked(guides), "init_images": [image], "denoising_strength": 0.8}, calls=True, encoder_seed=1
            )
            client.img2img(with_script(base, "ControlNet", [unit(model)]))
            calls = [call["output"] for call in client.unet_calls()]
            inversions.append([output for output in calls if len(output) == 1])
            samplings.append([output for output in calls if len(output) > 1])
        assert len(inversions[1]) >= 2
        assert same(inversions[1], inversions[2])
        assert largest_difference(samplings[1][0], samplings[2][0]) > 1e-3
    finally:
        client.post("/sdapi/v1/options", {"masactrl_cache_mib": 512})


def test_a_real_image_as_its_own_control_picture(client: Client, model: str) -> None:
    """img2img: a unit without a picture takes the init image, through its preprocessor."""
    image = encoded(numpy.kron(numpy.random.default_rng(3).integers(0, 255, (8, 8, 3)), numpy.ones((8, 8, 1))))
    own = {**unit(model), "module": "canny", "image": None, "pixel_perfect": True}
    traces = []
    # Once for nothing: loading and preprocessing draw from the generator that the host encodes the init image with.
    for guides in ("target", "both 0", "target"):
        base = {**asked(guides), "init_images": [image], "denoising_strength": 0.8}
        client.img2img(with_script(fault(base, trace=True, encoder_seed=1), "ControlNet", [own]))
        traces.append(client.trace())
    for without, guided in zip(*traces[1:]):
        assert same([guided[1]], [without[1]])
        assert largest_difference(guided[0], without[0]) > MOVED


def test_each_needs_a_picture_for_every_target(client: Client, model: str, several_pictures: dict[str, Any]) -> None:
    base = fault(asked("each", more_targets=f"{OTHER}\na cat, lying"), units_of_the_page=True)
    for units, count in (([unit(model, **several_pictures)], 2), ([unit(model), unit(model)], 2), ([unit(model)], 1)):
        with pytest.raises(HttpError) as refusal:
            client.txt2img(with_script(base, "ControlNet", units))
        assert refusal.value.status == 422
        assert f"{count} control pictures for 3 targets" in refusal.value.message


def test_infotext_and_the_field_in_the_accordion(client: Client, model: str) -> None:
    result = client.txt2img(with_script(asked("target 0.5, source"), "ControlNet", [unit(model)]))
    assert 'MasaCtrl controlnet guides: "target 0.5, source"' in result.infotexts[0]
    assert "[MasaCtrl] ControlNet guides" in client.get("/fault/axes")["txt2img"]


REFUSED = [
    ("nobody", {}, "control_guides has 'nobody'"),
    ("target + target", {}, "control_guides has 'target + target'"),
    ("target 3", {}, "control_guides has 'target 3'"),
]


@pytest.mark.parametrize(("guides", "changes", "message"), REFUSED, ids=[case[0] for case in REFUSED])
def test_what_is_refused(client: Client, model: str, guides: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(HttpError) as refusal:
        client.txt2img(with_script(asked(guides), "ControlNet", [unit(model, **changes)]))
    assert refusal.value.status == 422
    assert message in refusal.value.message
