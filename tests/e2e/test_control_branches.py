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
from pathlib import Path
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
HIRES = {"enable_hr": True, "hr_scale": 2, "hr_upscaler": "Latent", "denoising_strength": 0.7}


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


def named(client: Client, name: str) -> str:
    """The control model of this name, or a skip: not every checkpoint takes every kind."""
    for found in client.get("/controlnet/model_list")["model_list"]:
        if found.startswith(name):
            return str(found)
    pytest.skip(f"NOT TESTED: there is no {name} for this checkpoint.")


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


SAID_BY_UNITS = [
    *({"control_mode": mode} for mode in ("Balanced", "My prompt is more important", "ControlNet is more important")),
    {"guidance_start": 0.25},
    {"guidance_end": 0.25},
    {"weight": 0.5},
    {"module": "canny", "pixel_perfect": True},
]


@pytest.mark.parametrize("said", SAID_BY_UNITS, ids=lambda said: " ".join(map(str, said.values())))
def test_both_is_the_extension_alone(client: Client, model: str, said: dict[str, Any]) -> None:
    """And what a unit says keeps its meaning for the target alone."""
    guided, euler = unit(model, **said), {"sampler_name": "Euler"}
    plain = fault(request(steps=STEPS, batch_size=2, **euler), prompts=[TARGET, SOURCE], seeds_of=[0, 0])
    alone = Sampled(client, plain, guided)
    both = Sampled(client, asked("both", **euler, **NO_CONTROL), guided)
    assert equal(both.latents, alone.latents)
    target, without = (
        Sampled(client, asked(**euler, **NO_CONTROL), guided),
        Sampled(client, asked(**euler, **NO_CONTROL)),
    )
    assert equal(target.row(0), alone.row(0))
    assert equal(target.row(1), without.row(1))
    assert largest_difference(target.row(0)[-1], without.row(0)[-1]) > MOVED
    if "guidance_start" in said:
        assert numpy.array_equal(target.latents[0], without.latents[0])
    if "guidance_end" in said:
        always = Sampled(client, asked(**euler, **NO_CONTROL), unit(model))
        assert numpy.array_equal(target.latents[0], always.latents[0])
        assert largest_difference(target.row(0)[-1], always.row(0)[-1]) > 0


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


@pytest.fixture
def several_pictures(client: Client, host_paths: HostPaths, tmp_path: Path) -> dict[str, Any]:
    """What makes a unit one of two pictures (Multi-Inputs), ``picture(1)`` and ``picture(2)``."""
    pictures = [picture(1), picture(2)]
    if not is_forge(host_paths.checkout):
        return {"input_mode": "merge", "image": [{"image": each} for each in pictures]}
    files = [tmp_path / f"{number}.png" for number in (1, 2)]
    for file, each in zip(files, pictures):
        file.write_bytes(base64.b64decode(each))
    controlnet = host_paths.checkout / "extensions-builtin" / "sd_forge_controlnet" / "lib_controlnet"
    fields = (controlnet / "external_code.py").read_text(encoding="utf-8")
    if "multi_inputs_gallery" in fields:  # reForge
        return {"input_mode": "merge", "image": None, "multi_inputs_gallery": [{"name": str(file)} for file in files]}
    if "batch_input_gallery: " in fields:  # Forge main, from its page alone
        return {"input_mode": "merge", "image": None, "batch_input_gallery": [[str(file), None] for file in files]}
    pytest.skip("NOT TESTED HERE: units of this WebUI take one picture.")


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


@pytest.mark.usefixtures("mikubill")
def test_an_ip_adapter(client: Client, model: str) -> None:
    """It acts in cross-attention and has weights per row all the same; two units are two pictures."""
    torch = pytest.importorskip("torch")
    ip_adapter = named(client, "ip-adapter")

    def looking_at(seed: int, **changes: Any) -> dict[str, Any]:
        file = io.BytesIO()
        torch.save({"image_embeds": torch.randn(1, 8, generator=torch.Generator().manual_seed(seed))}, file)
        embedding = base64.b64encode(file.getvalue()).decode("ascii")
        return {
            "enabled": True,
            "module": "ip-adapter_clip_sd15",
            "model": ip_adapter,
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


def test_an_ip_adapter_of_forge_is_refused(client: Client, host_paths: HostPaths, model: str) -> None:
    if not is_forge(host_paths.checkout):
        pytest.skip("NOT TESTED HERE: this is for the Forge family.")
    with pytest.raises(HttpError) as refusal:
        client.txt2img(with_script(asked(), "ControlNet", [unit(named(client, "ip-adapter"))]))
    assert refusal.value.status == 422
    assert "ControlNet unit 0 (none) is of a kind (IPAdapterPatcher) that has no weight" in refusal.value.message


def test_an_lllite(client: Client, model: str) -> None:
    """It reaches into self-attention, for the whole batch: refused for one branch, and for both let pass."""
    lllite = unit(named(client, "lllite"))
    for guides in ("target", "both 0.5"):
        with pytest.raises(HttpError) as refusal:
            client.txt2img(with_script(asked(guides), "ControlNet", [lllite]))
        assert refusal.value.status == 422
        assert "is of a kind (Control" in refusal.value.message and "cannot guide one branch" in refusal.value.message
    plain = fault(request(steps=STEPS, batch_size=2), prompts=[TARGET, SOURCE], seeds_of=[0, 0])
    both, alone = Sampled(client, asked("both", **NO_CONTROL), lllite), Sampled(client, plain, lllite)
    assert equal(both.latents, alone.latents)
    assert largest_difference(alone.row(1), Sampled(client, plain).row(1)) > MOVED


@pytest.mark.usefixtures("mikubill")
def test_an_lllite_under_control(client: Client, model: str) -> None:
    """The source is that of the extension alone; the target follows it."""
    lllite = unit(named(client, "lllite"))
    both = Sampled(client, asked("both"), lllite)
    uncontrolled = Sampled(client, asked("both", **NO_CONTROL), lllite)
    assert equal(both.row(1), uncontrolled.row(1))
    assert largest_difference(both.row(0), uncontrolled.row(0)) > 1e-3


@pytest.mark.usefixtures("mikubill")
def test_revision_is_refused(client: Client, model: str) -> None:
    """It changes the prompts of the whole batch. (Where its network cannot be downloaded, that is said instead.)"""
    with pytest.raises(HttpError) as refusal:
        client.txt2img(with_script(asked(), "ControlNet", [unit("None", module="revision_clipvision")]))
    assert refusal.value.status == 422
    assert re.search("unit 0 .revision_clipvision.(,| works on the whole batch)", refusal.value.message)


def test_a_t2i_adapter(client: Client, model: str) -> None:
    """Beside a ControlNet; where none fits the checkpoint, the other tests of this file are of one."""
    adapter = named(client, "t2i-adapter")
    both = Sampled(client, asked("target, source", **NO_CONTROL), unit(adapter, 1), unit(adapter, 2))
    assert equal(both.row(0), Sampled(client, asked("target", **NO_CONTROL), unit(adapter, 1)).row(0))
    assert equal(both.row(1), Sampled(client, asked("source", **NO_CONTROL), unit(adapter, 2)).row(1))
    without = Sampled(client, asked(**NO_CONTROL))
    for row in (0, 1):
        assert largest_difference(both.row(row), without.row(row)) > MOVED
    beside = Sampled(client, asked("target, source", **NO_CONTROL), unit(model, 1), unit(adapter, 2))
    assert equal(beside.row(1), both.row(1))


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


#: White where the picture is to be painted anew.
HALF = encoded(numpy.kron([[0, 255]], numpy.ones((64, 32)))[..., None].repeat(3, 2))


@pytest.mark.parametrize("changes", [{}, HIRES], ids=["one pass", "hires fix"])
def test_a_preprocessor_that_makes_its_picture_in_every_pass(
    client: Client, model: str, changes: dict[str, Any]
) -> None:
    """By this one, Forge gives its control model another picture than the unit's, made of that and the mask."""
    inpainting = unit(model, module="inpaint_global_harmonious", mask_image=HALF)
    traces = [client.traced(with_script(asked(**changes), "ControlNet", units)) for units in ([], [inpainting])]
    for without, guided in zip(*traces):
        assert same([guided[1]], [without[1]])
        assert largest_difference(guided[0], without[0]) > MOVED


@pytest.mark.parametrize("options", [("Low res only", "High res only"), ("High res only", "Low res only")])
def test_units_that_sit_out_a_pass_of_hires_fix(client: Client, model: str, options: tuple[str, str]) -> None:
    """One guides the target in its pass, the other the source in the other."""
    units = [unit(model, number, hr_option=option) for number, option in enumerate(options)]
    none, source, both = (
        client.traced(with_script(asked(guides, **HIRES, **NO_CONTROL), "ControlNet", units))
        for guides in ("both 0", "target 0, source", "target, source")
    )
    for without, guided_source, guided in zip(none, source, both):
        in_second_pass = guided.shape != both[0].shape
        assert same([guided[1]], [guided_source[1]])
        assert same([guided_source[0]], [without[0]])
        for row, option in enumerate(options):
            is_guided = option == "Low res only" or in_second_pass
            assert (largest_difference(guided[row], without[row]) > MOVED) == is_guided


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
