"""Beside the extensions that ``MASACTRL_E2E_EXTENSIONS`` names: ADetailer, Dynamic Prompts, Regional Prompter."""

from __future__ import annotations

from typing import Any

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
MOVED = 20.0  # grey levels


@pytest.fixture
def beside(client: Client) -> dict[str, str]:
    """The full titles of the extensions' scripts."""
    scripts = client.get("/sdapi/v1/scripts")["txt2img"]
    titles = {name: next((s for s in scripts if s.startswith(name)), "") for name in ("adetailer", "dynamic prompts")}
    titles["regional prompter"] = next((s for s in scripts if s == "regional prompter"), "")
    missing = [name for name, title in titles.items() if not title]
    if missing:
        pytest.skip(f"NOT TESTED BESIDE {', '.join(missing).upper()}: set MASACTRL_E2E_EXTENSIONS to the folders.")
    return titles


def with_values(client: Client, base: dict[str, Any], title: str, changes: dict[str, Any]) -> dict[str, Any]:
    """``base`` with a script whose arguments are at their defaults but for ``changes``, by their labels."""
    entry = next(e for e in client.script_info() if e["name"] == title and not e["is_img2img"])
    values = {position: argument["value"] for position, argument in enumerate(entry["args"])}
    labels = [argument["label"] for argument in entry["args"]]
    values |= {labels.index(label): value for label, value in changes.items()}
    return with_script(base, title, list(values.values()))


def plain(beside: dict[str, str], prompt: str = TARGET, **given: Any) -> dict[str, Any]:
    """A request without variants."""
    return with_script(request(prompt, **given), beside["dynamic prompts"], [False])


def detailed(base: dict[str, Any]) -> dict[str, Any]:
    """``base`` with the middle of every picture painted again by ADetailer."""
    settings = {"ad_model": "mediapipe_face_full", "ad_denoising_strength": 0.6}
    return fault(with_script(base, "adetailer", [True, False, settings]), detect=True)


def own_entries(infotext: str) -> list[str]:
    return [entry for entry in infotext.split(", ") if "MasaCtrl" in entry]


def test_adetailer_repaints_target_and_source(client: Client, beside: dict[str, str]) -> None:
    """Law 2 holds for what it repaints as well; its copies of the request neither end it nor change its infotext."""
    base = plain(beside)
    undetailed = client.txt2img(controlled(base))
    expected = client.txt2img(detailed(fault({**base, "batch_size": 2}, prompts=[TARGET, SOURCE], seeds_of=[0, 0])))
    result = client.txt2img(detailed(controlled(base)))
    assert same(result.images[1:], expected.images[1:])
    assert largest_difference(result.images[0], expected.images[0]) > MOVED
    for repainted, before in zip(result.images, undetailed.images):
        assert largest_difference(repainted, before) > MOVED
    assert list(map(own_entries, result.infotexts)) == list(map(own_entries, undetailed.infotexts))


def test_adetailer_repaints_every_batch(client: Client, beside: dict[str, str]) -> None:
    base = controlled(plain(beside, batch_size=2, n_iter=2))
    undetailed, result = client.txt2img(base), client.txt2img(detailed(base))
    lists = ("all_prompts", "all_negative_prompts", "all_seeds", "all_subseeds")
    assert {name: result.info[name] for name in lists} == {name: undetailed.info[name] for name in lists}
    # The grid comes first.
    assert len(result.images) == len(undetailed.images)
    for repainted, before in zip(result.images[-8:], undetailed.images[-8:]):
        assert largest_difference(repainted, before) > MOVED


def test_adetailer_keeps_what_is_told_of_a_real_image(
    client: Client, beside: dict[str, str], photograph: Pixels
) -> None:
    base = controlled({**plain(beside), "init_images": [encoded(photograph)], "denoising_strength": 1.0})
    expected, result = client.img2img(base), client.img2img(detailed(base))
    told, before = ([e for e in own_entries(r.infotexts[0]) if "PSNR" in e] for r in (result, expected))
    assert told == before and len(told) == 1


def test_what_adetailer_paints_is_not_controlled(client: Client, beside: dict[str, str]) -> None:
    """It hands our arguments to its own requests if its setting for that is off."""
    every_script = {"override_settings": {"ad_only_selected_scripts": False}}
    client.txt2img({**detailed(fault(controlled(plain(beside)), count=True)), **every_script})
    rows = client.get("/fault/rows")
    assert rows[0] == 4  # cond and uncond of target and source
    assert set(rows[rows.index(2) :]) == {2}  # of one picture at a time


@pytest.mark.parametrize("batch_size", [1, 2])
def test_every_variant_of_dynamic_prompts_becomes_a_target(
    client: Client, beside: dict[str, str], batch_size: int
) -> None:
    combinatorial = {"Dynamic Prompts enabled": True, "Combinatorial generation": True}
    base = request("a {red|green|blue} cat", batch_size=batch_size)
    result = client.txt2img(with_values(client, controlled(base), beside["dynamic prompts"], combinatorial))
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
            alone = client.txt2img(controlled(plain(beside, variant, seed=seed)))
            assert same(row, alone.images)


def test_random_prompts_are_drawn_for_targets(client: Client, beside: dict[str, str]) -> None:
    drawn = with_values(
        client,
        controlled(request("a {red|green} cat", n_iter=3)),
        beside["dynamic prompts"],
        {"Dynamic Prompts enabled": True},
    )
    prompts = client.txt2img(drawn).info["all_prompts"]
    assert len(prompts) == 6
    assert set(prompts[::2]) <= {"a red cat", "a green cat"}
    assert prompts[1::2] == [SOURCE] * 3


@pytest.mark.parametrize("mask", [{}, {"mask": "words", "source_words": "cat"}], ids=["unmasked", "words"])
def test_regional_prompts_by_attention(client: Client, beside: dict[str, str], mask: dict[str, Any]) -> None:
    """Law 2, beside an extension that computes every cross-attention layer by itself."""
    base = plain(beside, HALVES[0])
    regions = {"Regional Prompter": True, "Generation Mode": "Attention"}
    both = fault({**base, "batch_size": 2}, prompts=HALVES, seeds_of=[0, 0])
    expected = client.txt2img(with_values(client, both, beside["regional prompter"], regions))
    asked = controlled(base, source_prompt=HALVES[1], **mask)
    result = client.txt2img(with_values(client, asked, beside["regional prompter"], regions))
    assert same(result.images[1:], expected.images[1:])
    assert largest_difference(result.images[0], expected.images[0]) > MOVED
    assert largest_difference(expected.images[1], client.txt2img(both).images[1]) > MOVED


def test_regional_prompts_by_latents_are_refused(client: Client, beside: dict[str, str]) -> None:
    """They make AND of BREAK, after all scripts before it have read the prompts."""
    base = plain(beside, HALVES[0])
    before = client.txt2img(base)
    regions = {"Regional Prompter": True, "Generation Mode": "Latent"}
    asked = with_values(client, controlled(base, source_prompt=HALVES[1]), beside["regional prompter"], regions)
    with pytest.raises(HttpError, match=r"AND in the prompt 'a cat AND standing'.*Regional Prompter") as refusal:
        client.txt2img(asked)
    assert refusal.value.status == 422
    assert same(client.txt2img(base).images, before.images)
