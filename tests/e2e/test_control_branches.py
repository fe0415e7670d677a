"""Beside ControlNet: each unit guides the branches it is asked to guide, and nothing stays behind.

On A1111 it is run as ``test_controlnet.py``, with a checkpoint that takes the extension's T2I-adapters: its U-Net has
widths c, 2c, 4c, 4c. Forge's ControlNet is built in, and the checkpoint of its own tests takes a ControlNet.
"""

from __future__ import annotations

import base64
import io
import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

import numpy
import pytest

from .client import Client, HttpError, controlled, encoded, fault, largest_difference, request, same, with_script
from .host import REPOSITORY, HostPaths, is_forge

TARGET, SOURCE, OTHER = "a cat, standing", "a cat, sitting", "a cat, running"
#: How far a guided latent moves at least.
MOVED = 1e-2
STEPS = 4
#: No step is controlled, so that nothing but the unit can move a row.
NO_CONTROL = {"start_step": STEPS}


@pytest.fixture(scope="module")
def model(client: Client) -> str:
    if "controlnet" not in client.get("/sdapi/v1/scripts")["txt2img"]:
        pytest.skip("NO CONTROLNET TESTED: set MASACTRL_E2E_CONTROLNET to the folder of the ControlNet extension.")
    models = [name for name in client.get("/controlnet/model_list")["model_list"] if name.startswith("sketch")]
    if not models:
        pytest.skip("NO CONTROL SIGNAL TESTED: this checkpoint's U-Net takes no adapter (MASACTRL_E2E_CHECKPOINT).")
    client.post("/sdapi/v1/options", {"live_previews_enable": False})  # SDXL's would download a model
    return str(models[0])


@pytest.fixture(autouse=True)
def leaves_no_hook(client: Client, model: str) -> Iterator[None]:
    yield
    left = client.get("/fault/hooks")
    assert (left["ours"], left["control_signals"]) == (0, 0)


def picture(seed: int) -> str:
    return encoded(numpy.random.default_rng(seed).integers(0, 255, (64, 64, 3)))


def unit(model: str, seed: int = 0, **changes: Any) -> dict[str, Any]:
    return {"enabled": True, "model": model, "image": picture(seed), **changes}


@pytest.fixture
def mikubill(client: Client, model: str) -> None:
    """For what Forge's ControlNet does not have, or offers in its UI alone."""
    try:
        client.get("/controlnet/version")
    except HttpError:
        pytest.skip("NOT TESTED HERE: this is not Mikubill's ControlNet.")


class Sampled:
    """The denoised latents of a request, row by row over all evaluations."""

    def __init__(self, client: Client, base: dict[str, Any], *units: dict[str, Any]) -> None:
        asked = with_script(base, "ControlNet", list(units)) if units else base
        self.latents = numpy.stack(client.traced(asked))

    def row(self, index: int) -> numpy.ndarray:
        return self.latents[:, index]


def asked(guides: str = "target", **changes: Any) -> dict[str, Any]:
    settings = {key: changes.pop(key) for key in ("start_step", "more_targets") if key in changes}
    return controlled(request(TARGET, steps=STEPS, **changes), control_guides=guides, **settings)


def equal(one: numpy.ndarray, other: numpy.ndarray) -> bool:
    return numpy.array_equal(one, other)


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


@pytest.mark.parametrize("mode", ["Balanced", "My prompt is more important", "ControlNet is more important"])
def test_both_is_the_extension_alone(client: Client, model: str, mode: str) -> None:
    guided = unit(model, control_mode=mode)
    plain = fault(request(steps=STEPS, batch_size=2), prompts=[TARGET, SOURCE], seeds_of=[0, 0])
    alone = Sampled(client, plain, guided)
    both = Sampled(client, asked("both", **NO_CONTROL), guided)
    assert equal(both.latents, alone.latents)
    target = Sampled(client, asked("target", **NO_CONTROL), guided)
    assert equal(target.row(0), alone.row(0))
    assert equal(target.row(1), Sampled(client, asked(**NO_CONTROL)).row(1))


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


@pytest.mark.usefixtures("mikubill")
def test_one_picture_per_target(client: Client, model: str) -> None:
    """Multi-Inputs: target k has picture k at the unit's whole weight, and the source none."""
    pictures = {"input_mode": "merge", "image": [{"image": picture(1)}, {"image": picture(2)}]}
    several = Sampled(client, asked("each", more_targets=OTHER), unit(model, **pictures))
    first, second = (Sampled(client, asked(more_targets=OTHER), unit(model, seed)) for seed in (1, 2))
    assert equal(several.row(0), first.row(0))
    assert equal(several.row(1), second.row(1))
    assert equal(several.row(2), Sampled(client, asked(more_targets=OTHER)).row(2))
    assert largest_difference(first.row(0), second.row(0)) > MOVED


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"negative_prompt": "a cat, " * 40},  # as many tokens by either tokenizer of SDXL
        {"cfg_scale": 1},
        {"sampler_name": "Heun"},
        {"batch_size": 2},
        {"enable_hr": True, "hr_scale": 2, "hr_upscaler": "Latent", "denoising_strength": 0.7},
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


@pytest.mark.usefixtures("mikubill")
def test_an_ip_adapter(client: Client) -> None:
    """It acts in cross-attention and has weights per row all the same; two units are two pictures."""
    torch = pytest.importorskip("torch")
    models = [name for name in client.get("/controlnet/model_list")["model_list"] if name.startswith("ip-adapter")]
    if not models:
        pytest.skip("NO IP-ADAPTER TESTED: there is one for SD 1 alone.")

    def looking_at(seed: int, **changes: Any) -> dict[str, Any]:
        file = io.BytesIO()
        torch.save({"image_embeds": torch.randn(1, 8, generator=torch.Generator().manual_seed(seed))}, file)
        embedding = base64.b64encode(file.getvalue()).decode("ascii")
        return {
            "enabled": True,
            "module": "ip-adapter_clip_sd15",
            "model": models[0],
            "ipadapter_input": [embedding],
        } | changes

    without = Sampled(client, asked(**NO_CONTROL), looking_at(1, weight=0))
    target, source = (Sampled(client, asked(guides, **NO_CONTROL), looking_at(1)) for guides in ("target", "source"))
    assert equal(target.row(1), without.row(1))
    assert equal(source.row(0), without.row(0))
    assert largest_difference(target.row(0), without.row(0)) > MOVED
    assert largest_difference(source.row(1), without.row(1)) > MOVED
    both = Sampled(client, asked("target, source", **NO_CONTROL), looking_at(1), looking_at(1))
    assert equal(both.row(0), target.row(0))
    assert equal(both.row(1), source.row(1))


@pytest.mark.usefixtures("mikubill")
def test_a_region_of_the_unit_still_counts(client: Client, model: str) -> None:
    nothing = encoded(numpy.zeros((64, 64, 3)))
    guided = Sampled(client, asked("both"), unit(model, effective_region_mask=nothing))
    assert equal(guided.latents, Sampled(client, asked()).latents)
    guided = Sampled(client, asked("target"), unit(model, effective_region_mask=nothing))
    assert equal(guided.latents, Sampled(client, asked()).latents)


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


@pytest.mark.usefixtures("mikubill")
def test_each_needs_a_picture_for_every_target(client: Client, model: str) -> None:
    pictures = {"input_mode": "merge", "image": [{"image": picture(1)}, {"image": picture(2)}]}
    with pytest.raises(HttpError) as refusal:
        client.txt2img(with_script(asked("each"), "ControlNet", [unit(model, **pictures)]))
    assert refusal.value.status == 422
    assert "2 control pictures for 1 targets" in refusal.value.message


def test_infotext_and_the_field_in_the_accordion(client: Client, model: str) -> None:
    result = client.txt2img(with_script(asked("target 0.5, source"), "ControlNet", [unit(model)]))
    assert 'MasaCtrl controlnet guides: "target 0.5, source"' in result.infotexts[0]
    assert "[MasaCtrl] ControlNet guides" in client.get("/fault/axes")["txt2img"]


def recipes() -> list[str]:
    """The requests printed in the README's section on ControlNet."""
    section = (REPOSITORY / "README.md").read_text(encoding="utf-8").split("### ControlNet\n")[1].split("\n### ")[0]
    return re.findall(r"```\n(POST .*?)```", section, re.DOTALL)


@pytest.mark.usefixtures("mikubill")
@pytest.mark.parametrize("recipe", recipes(), ids=["sketch", "canny"])
def test_the_readme_s_recipes(client: Client, model: str, recipe: str) -> None:
    """As printed, but for what stands in angle brackets, the size and the number of steps."""
    path, body = recipe.removeprefix("POST ").split("\n", 1)
    numbers = itertools.count(1)
    filled = re.sub("<[^>]*model>", model, body)
    filled = re.sub("<[^>]*>", lambda found: picture(next(numbers)), filled)
    small = {**json.loads(filled), "width": 64, "height": 64, "steps": 6, "seed": 1}
    small["alwayson_scripts"]["MasaCtrl"]["args"][0]["start_step"] = 2
    traces = []
    for more in ({}, {"control_guides": "both 0"}, {}):  # once for nothing, as above
        small["alwayson_scripts"]["MasaCtrl"]["args"][0].update({"control_guides": "target", **more})
        client.post(path, fault(small, trace=True, encoder_seed=1))
        traces.append(client.trace())
    for without, guided in zip(*traces[1:]):
        assert same([guided[1]], [without[1]])
        assert largest_difference(guided[0], without[0]) > MOVED


#: Those of the extension's preprocessors that work without downloading anything, but for inpainting and references.
PREPROCESSORS = [
    *("none", "canny", "invert", "threshold", "scribble_xdog", "lineart_standard", "shuffle", "tile_resample"),
    *("blur_gaussian", "t2ia_color_grid"),
]


@pytest.mark.usefixtures("mikubill")
@pytest.mark.parametrize("module", PREPROCESSORS)
def test_a_preprocessor_of_the_user_s(client: Client, model: str, module: str) -> None:
    without = Sampled(client, asked(**NO_CONTROL))
    guided = Sampled(client, asked("target", **NO_CONTROL), unit(model, module=module))
    assert equal(guided.row(1), without.row(1))
    assert largest_difference(guided.row(0), without.row(0)) > MOVED


def test_a_unit_that_controlnet_fails_over_is_refused(client: Client, model: str) -> None:
    """By itself the host reports the error in its console alone, and makes a picture without control."""
    plain = Sampled(client, asked())
    for faulty in (unit("no such model"), {**unit(model), "image": None}):
        off = unit(model, enabled=False)
        with pytest.raises(HttpError) as refusal:
            client.txt2img(with_script(asked("both"), "ControlNet", [off, faulty]))
        assert refusal.value.status == 422
        assert "ControlNet made nothing of unit 1 (" in refusal.value.message
    assert equal(Sampled(client, asked()).latents, plain.latents)


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
