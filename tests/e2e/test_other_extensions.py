"""Beside the extensions that ``MASACTRL_E2E_EXTENSIONS`` names; each test is skipped where its own is not there."""

from __future__ import annotations

from typing import Any

import numpy
import pytest

from .client import (
    Client,
    HttpError,
    Pixels,
    controlled,
    encoded,
    fault,
    largest_difference,
    request,
    same,
    with_script,
)

TARGET, SOURCE = "a cat, standing", "a cat, sitting"
#: Regional Prompter's, one part per half of the picture.
HALVES = ["a cat BREAK standing", "a cat BREAK sitting"]
WORDS = {"mask": "words", "source_words": "cat"}
MOVED = 20.0  # grey levels


class Beside:
    """The other extensions of this WebUI."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._scripts = [str(name) for name in client.get("/sdapi/v1/scripts")["img2img"]]

    def title(self, name: str) -> str:
        """The full title of an extension's script, which may end in a version."""
        found = [script for script in self._scripts if script.startswith(name)]
        if not found:
            pytest.skip(f"NOT TESTED BESIDE {name.upper()}: set MASACTRL_E2E_EXTENSIONS to the folders.")
        return found[0]

    def plain(self, prompt: str = TARGET, **given: Any) -> dict[str, Any]:
        """A request without variants: Dynamic Prompts is on by default."""
        base = request(prompt, **given)
        for script in self._scripts:
            if script.startswith("dynamic prompts"):
                base = with_script(base, script, [False])
        return base

    def switched(self, base: dict[str, Any], name: str, changes: dict[str, Any]) -> dict[str, Any]:
        """``base`` with a script whose arguments are at their defaults but for ``changes``, by their labels."""
        title = self.title(name)
        entry = next(e for e in self._client.script_info() if e["name"] == title and e["is_img2img"])
        values = {position: argument["value"] for position, argument in enumerate(entry["args"])}
        labels = [argument["label"] for argument in entry["args"]]
        values |= {labels.index(label): value for label, value in changes.items()}
        return with_script(base, title, list(values.values()))

    def detailed(self, base: dict[str, Any]) -> dict[str, Any]:
        """``base`` with the middle of every picture painted again by ADetailer."""
        settings = {"ad_model": "mediapipe_face_full", "ad_denoising_strength": 0.6}
        return fault(with_script(base, self.title("adetailer"), [True, False, settings]), detect=True)


@pytest.fixture
def beside(client: Client) -> Beside:
    return Beside(client)


def both(base: dict[str, Any], prompts: list[str]) -> dict[str, Any]:
    """The plain batch of target and source."""
    return fault({**base, "batch_size": 2}, prompts=prompts, seeds_of=[0, 0])


def own_entries(infotext: str) -> list[str]:
    return [entry for entry in infotext.split(", ") if "MasaCtrl" in entry]


def test_adetailer_repaints_target_and_source(client: Client, beside: Beside) -> None:
    """Law 2 holds for what it repaints as well; its copies of the request neither end it nor change its infotext."""
    base = beside.plain()
    undetailed = client.txt2img(controlled(base))
    expected = client.txt2img(beside.detailed(both(base, [TARGET, SOURCE])))
    result = client.txt2img(beside.detailed(controlled(base)))
    assert same(result.images[1:], expected.images[1:])
    assert largest_difference(result.images[0], expected.images[0]) > MOVED
    for repainted, before in zip(result.images, undetailed.images):
        assert largest_difference(repainted, before) > MOVED
    assert list(map(own_entries, result.infotexts)) == list(map(own_entries, undetailed.infotexts))


def test_adetailer_repaints_every_batch(client: Client, beside: Beside) -> None:
    base = controlled(beside.plain(batch_size=2, n_iter=2))
    undetailed, result = client.txt2img(base), client.txt2img(beside.detailed(base))
    lists = ("all_prompts", "all_negative_prompts", "all_seeds", "all_subseeds")
    assert {name: result.info[name] for name in lists} == {name: undetailed.info[name] for name in lists}
    # The grid comes first.
    assert len(result.images) == len(undetailed.images)
    for repainted, before in zip(result.images[-8:], undetailed.images[-8:]):
        assert largest_difference(repainted, before) > MOVED


def test_adetailer_keeps_what_is_told_of_a_real_image(client: Client, beside: Beside, photograph: Pixels) -> None:
    base = controlled({**beside.plain(), "init_images": [encoded(photograph)], "denoising_strength": 1.0})
    expected, result = client.img2img(base), client.img2img(beside.detailed(base))
    told, before = ([e for e in own_entries(r.infotexts[0]) if "PSNR" in e] for r in (result, expected))
    assert told == before and len(told) == 1


def test_what_adetailer_paints_is_not_controlled(client: Client, beside: Beside) -> None:
    """It hands our arguments to its own requests if its setting for that is off."""
    every_script = {"override_settings": {"ad_only_selected_scripts": False}}
    client.txt2img({**beside.detailed(fault(controlled(beside.plain()), count=True)), **every_script})
    rows = client.get("/fault/rows")
    assert rows[0] == 4  # cond and uncond of target and source
    assert set(rows[rows.index(2) :]) == {2}  # of one picture at a time


@pytest.mark.parametrize("batch_size", [1, 2])
def test_every_variant_of_dynamic_prompts_becomes_a_target(client: Client, beside: Beside, batch_size: int) -> None:
    combinatorial = {"Dynamic Prompts enabled": True, "Combinatorial generation": True}
    base = request("a {red|green|blue} cat", batch_size=batch_size)
    result = client.txt2img(beside.switched(controlled(base), "dynamic prompts", combinatorial))
    variants = ["a red cat", "a green cat", "a blue cat"]
    prompts, seeds = result.info["all_prompts"], result.info["all_seeds"]
    assert [prompt for prompt in prompts if prompt != SOURCE] == variants
    assert prompts.count(SOURCE) == 3
    images = result.images[-6:]
    for number, variant in enumerate(variants):
        seed = seeds[prompts.index(variant)]
        assert seed == base["seed"] + number
        if batch_size == 1:
            row = [images[prompts.index(variant)], images[prompts.index(variant) + 1]]
            alone = client.txt2img(controlled(beside.plain(variant, seed=seed)))
            assert same(row, alone.images)


def test_random_prompts_are_drawn_for_targets(client: Client, beside: Beside) -> None:
    drawn = beside.switched(
        controlled(request("a {red|green} cat", n_iter=3)),
        "dynamic prompts",
        {"Dynamic Prompts enabled": True},
    )
    prompts = client.txt2img(drawn).info["all_prompts"]
    assert len(prompts) == 6
    assert set(prompts[::2]) <= {"a red cat", "a green cat"}
    assert prompts[1::2] == [SOURCE] * 3


@pytest.mark.parametrize("mask", [{}, WORDS], ids=["unmasked", "words"])
def test_regional_prompts_by_attention(client: Client, beside: Beside, mask: dict[str, Any]) -> None:
    """Law 2, beside an extension that computes every cross-attention layer by itself."""
    base = beside.plain(HALVES[0])
    regions = {"Regional Prompter": True, "Generation Mode": "Attention"}
    plain = both(base, HALVES)
    expected = client.txt2img(beside.switched(plain, "regional prompter", regions))
    asked = controlled(base, source_prompt=HALVES[1], **mask)
    result = client.txt2img(beside.switched(asked, "regional prompter", regions))
    assert same(result.images[1:], expected.images[1:])
    assert largest_difference(result.images[0], expected.images[0]) > MOVED
    assert largest_difference(expected.images[1], client.txt2img(plain).images[1]) > MOVED


def test_regional_prompts_by_latents_are_refused(client: Client, beside: Beside) -> None:
    """They make AND of BREAK, after all scripts before it have read the prompts."""
    base = beside.plain(HALVES[0])
    before = client.txt2img(base)
    regions = {"Regional Prompter": True, "Generation Mode": "Latent"}
    asked = beside.switched(controlled(base, source_prompt=HALVES[1]), "regional prompter", regions)
    with pytest.raises(HttpError, match=r"AND in the prompt 'a cat AND standing'.*Regional Prompter") as refusal:
        client.txt2img(asked)
    assert refusal.value.status == 422
    assert same(client.txt2img(base).images, before.images)


TILES = {"Enable Tiled Diffusion": True, "Latent tile width": 16, "Latent tile height": 16, "Latent tile overlap": 8}
#: More than one tile of 16x16 latents.
LARGE = {"width": 192, "height": 192, "steps": 6}


@pytest.mark.parametrize("sampler", ["DDIM", "Euler"])
@pytest.mark.parametrize("method", ["MultiDiffusion", "Mixture of Diffusers"])
@pytest.mark.parametrize("together", [1, 4])
def test_tiles_are_controlled_each_by_its_own_source(
    client: Client, beside: Beside, sampler: str, method: str, together: int
) -> None:
    tiles = {**TILES, "Method": method, "Latent tile batch size": together}
    base = beside.plain(sampler_name=sampler, **LARGE)
    plain = both(base, [TARGET, SOURCE])
    expected = client.txt2img(beside.switched(plain, "tiled diffusion", tiles))
    result = client.txt2img(beside.switched(controlled(base), "tiled diffusion", tiles))
    assert same(result.images[1:], expected.images[1:])
    assert largest_difference(result.images[0], expected.images[0]) > MOVED
    identical = controlled(base, source_prompt=TARGET)
    assert same(*([image] for image in client.txt2img(beside.switched(identical, "tiled diffusion", tiles)).images))
    assert largest_difference(expected.images[1], client.txt2img(plain).images[1]) > MOVED


def test_tiles_are_refused_with_masks_and_real_images(client: Client, beside: Beside, photograph: Pixels) -> None:
    masked = beside.switched(controlled(beside.plain(**LARGE), **WORDS), "tiled diffusion", TILES)
    large = numpy.kron(photograph, numpy.ones((3, 3, 1)))
    real = {**beside.plain(**LARGE), "init_images": [encoded(large)], "denoising_strength": 1.0}
    for generate, asked in (
        (client.txt2img, masked),
        (client.img2img, beside.switched(controlled(real), "tiled diffusion", TILES)),
    ):
        with pytest.raises(HttpError, match="samples tiles of 16x16 latents") as refusal:
            generate(asked)
        assert refusal.value.status == 422


def test_demofusion_is_refused(client: Client, beside: Beside) -> None:
    """It makes a picture of every phase."""
    phases = {"Enable DemoFusion(Dont open with tilediffusion)": True}
    phases |= {"Latent window size": 16, "Latent window overlap": 8}
    with pytest.raises(HttpError, match=r"DemoFusion.* made 4 pictures of a batch of 2"):
        client.txt2img(beside.switched(controlled(beside.plain(**LARGE)), "demofusion", phases))


@pytest.mark.parametrize("mask", [{}, WORDS], ids=["unmasked", "words"])
def test_negative_weights_of_negpip(client: Client, beside: Beside, mask: dict[str, Any]) -> None:
    title = beside.title("negpip")
    prompts = [f"{prompt}, (stripes:-1.5)" for prompt in (TARGET, SOURCE)]
    base = beside.plain(prompts[0])
    expected = client.txt2img(with_script(both(base, prompts), title, [True]))
    asked = controlled(base, source_prompt=prompts[1], **mask)
    result = client.txt2img(with_script(asked, title, [True]))
    assert same(result.images[1:], expected.images[1:])
    assert largest_difference(result.images[0], expected.images[0]) > MOVED
    ignored = client.txt2img(with_script(both(base, prompts), title, [False]))
    assert not same(ignored.images, expected.images)


@pytest.mark.parametrize("shown", [True, False])
def test_ultimate_sd_upscale_edits_each_tile(client: Client, beside: Beside, photograph: Pixels, shown: bool) -> None:
    """It takes the first picture of every request, which is the target."""
    picture = numpy.kron(photograph, numpy.ones((2, 2, 1)))
    size = {"width": 128, "height": 128, "denoising_strength": 0.8}
    base = fault(beside.plain(init_images=[encoded(picture)], **size), encoder_seed=0)
    base = controlled(base, show_source=shown)
    tiles = ["", 64, 64, 0, 0, 0, 0, 0, 0, False, 0, False, 0, 0, 0, 128, 128, 1]
    upscaled = client.img2img({**base, "script_name": beside.title("ultimate sd upscale"), "script_args": tiles})
    edited = picture
    inpainting = {"mask_blur": 0, "inpainting_fill": 1, "inpaint_full_res": True, "inpaint_full_res_padding": 0}
    for top, left in ((0, 0), (0, 64), (64, 0), (64, 64)):
        mask = numpy.zeros((128, 128, 3))
        mask[top : top + 65, left : left + 65] = 255  # drawn by pillow, which includes the far corner
        tile = {"init_images": [encoded(edited)], "mask": encoded(mask), **inpainting, "width": 64, "height": 64}
        edited = client.img2img({**base, **tile}).images[0]
    assert same(upscaled.images, [edited])


def test_regions_of_forge_couple(client: Client, beside: Beside, photograph: Pixels) -> None:
    """Every row of a batch has those of the first prompt, so the plain batch of two prompts is one picture twice."""
    prompts, coupled = ["a cat\nstanding", "a cat\nsitting"], {"Enable": True}
    base = beside.plain(prompts[0], width=96, height=96, steps=3, sampler_name="Euler")
    target, source = client.traced(beside.switched(both(base, prompts), "forge couple", coupled))[-1]
    assert same([target], [source])
    with pytest.raises(HttpError, match="Forge Couple paints every picture") as refusal:
        client.txt2img(beside.switched(controlled(base, source_prompt=prompts[1]), "forge couple", coupled))
    assert refusal.value.status == 422
    real = controlled({**base, "init_images": [encoded(photograph)], "denoising_strength": 1.0}, start_step=1)
    edited = client.img2img(beside.switched(real, "forge couple", coupled))
    assert "MasaCtrl result: 2 of 3 steps" in edited.infotexts[0]
    assert not same(edited.images[:1], client.img2img(real).images[:1])
