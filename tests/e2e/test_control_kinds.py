"""Beside ControlNet: every kind of unit and what units say keep their meaning, or are refused.

To be run as ``test_control_branches.py``.
"""

from __future__ import annotations

import base64
import io
import itertools
import json
import re
from typing import Any

import numpy
import pytest

from .client import Client, HttpError, controlled, encoded, fault, largest_difference, request, same, with_script
from .control_requests import (
    HIRES,
    MOVED,
    NO_CONTROL,
    SOURCE,
    STEPS,
    TARGET,
    Sampled,
    asked,
    equal,
    named,
    picture,
    preprocessor,
    unit,
)
from .host import REPOSITORY, HostPaths, is_forge

pytestmark = pytest.mark.usefixtures("model")

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


WORDS = {"mask": "words", "source_words": "cat", "mask_threshold": "auto"}


@pytest.mark.parametrize(
    "settings", [WORDS, {"method": "union"}, {"method": "union", **WORDS}], ids=["masks", "union", "union and masks"]
)
def test_an_lllite_beside_other_tokens_is_refused(client: Client, model: str, settings: dict[str, Any]) -> None:
    """It adds to every token of a layer by its place."""
    base = controlled(request(TARGET, steps=STEPS), control_guides="both", **settings)
    before = Sampled(client, asked(), unit(model))
    with pytest.raises(HttpError) as refusal:
        client.txt2img(with_script(base, "ControlNet", [unit(named(client, "lllite"))]))
    assert refusal.value.status == 422
    assert re.search(r"unit 0 \(none\) is an LLLite|self-attention .* replaced by \S*lllite", refusal.value.message), (
        refusal.value.message
    )
    assert equal(Sampled(client, asked(), unit(model)).latents, before.latents)


def test_masks_beside_a_unit(client: Client, model: str) -> None:
    """The source is that of a run without the unit, and the target is guided, under masks and without."""
    masked, unmasked = (
        controlled(request(TARGET, steps=STEPS), control_guides="target", **settings) for settings in (WORDS, {})
    )
    guided, without = Sampled(client, masked, unit(model)), Sampled(client, masked)
    assert equal(guided.row(1), without.row(1))
    assert largest_difference(guided.row(0), without.row(0)) > MOVED
    assert largest_difference(guided.row(0), Sampled(client, unmasked, unit(model)).row(0)) > 1e-3


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


def recipes() -> list[str]:
    """The requests printed in the page on ControlNet."""
    section = (REPOSITORY / "docs" / "controlnet.md").read_text(encoding="utf-8")
    return re.findall(r"```\n(POST .*?)```", section, re.DOTALL)


@pytest.mark.parametrize("recipe", recipes(), ids=["sketch", "canny"])
def test_the_documented_recipes(client: Client, model: str, recipe: str) -> None:
    """As printed, but for what stands in angle brackets, the size, the number of steps and Forge's names."""
    path, body = recipe.removeprefix("POST ").split("\n", 1)
    numbers = itertools.count(1)
    filled = re.sub("<[^>]*model>", model, body)
    filled = re.sub("<[^>]*>", lambda found: picture(next(numbers)), filled)
    small = {**json.loads(filled), "width": 64, "height": 64, "steps": 6, "seed": 1}
    small["alwayson_scripts"]["MasaCtrl"]["args"][0]["start_step"] = 2
    (asked_unit,) = small["alwayson_scripts"]["ControlNet"]["args"]
    asked_unit["module"] = preprocessor(client, asked_unit["module"])
    traces = []
    for more in ({}, {"control_guides": "both 0"}, {}):  # once for nothing, as above
        small["alwayson_scripts"]["MasaCtrl"]["args"][0].update({"control_guides": "target", **more})
        client.post(path, fault(small, trace=True, encoder_seed=1))
        traces.append(client.trace())
    for without, guided in zip(*traces[1:]):
        assert same([guided[1]], [without[1]])
        assert largest_difference(guided[0], without[0]) > MOVED


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
