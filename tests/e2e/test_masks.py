"""Masks on the real host: its tokenizer and prompt parser, laws 1, 2 and 11, painted masks, what is shown."""

from __future__ import annotations

from typing import Any

import numpy
import pytest

from .client import Client, HttpError, Pixels, api_fields, controlled, encoded, fault, largest_difference, request, same

TARGET, SOURCE = "a cat, standing", "a cat, sitting"
MOVED = 1e-3
LONG = ", ".join(["a very small bird in the air"] * 14)

#: Prompt, words, and for each text that the model reads the words whose tokens have to be found.
CASES: list[tuple[str, str, list[list[str]]]] = [
    ("a cat", "cat", [["cat"]]),
    ("cat", "cat", [["cat"]]),
    ("a CAT, sitting", "cat", [["cat"]]),
    ("a cat, sitting", "Cat", [["cat"]]),
    ("a cat and a cat", "cat", [["cat", "cat"]]),
    ("a cat, a bird", "cat, bird", [["cat", "bird"]]),
    ("a cat, a bird", "bird,cat,", [["bird", "cat"]]),
    ("a red hat on a cat", "red hat", [["red", "hat"]]),
    ("a red hat on a red cat", "red", [["red", "red"]]),
    ("a (cat:1.3) sitting", "cat", [["cat"]]),
    ("a ((cat)) sitting", "cat", [["cat"]]),
    ("a [cat] sitting", "cat", [["cat"]]),
    ("a (red cat:0.8), sitting", "red cat", [["red", "cat"]]),
    ("a red (cat:1.2)", "red cat", [["red", "cat"]]),
    (r"a \(cat\) sitting", "cat", [["cat"]]),
    ("a [cat:bird:0.5] sitting", "cat", [["cat"], []]),
    ("a [cat:bird:0.5] sitting", "cat, bird", [["cat"], ["bird"]]),
    ("a [red :0.5]cat", "cat", [["cat"], ["cat"]]),
    ("a [red ::0.5]cat", "red cat", [["red", "cat"], []]),
    ("a [cat|bird]", "bird", [[], ["bird"]] * 4),
    ("a cat BREAK a bird", "cat", [["cat"]]),
    ("a cat BREAK a bird", "bird", [["bird"]]),
    ("a bird BREAK BREAK a cat", "cat", [["cat"]]),
    (f"{LONG}, a cat", "cat", [["cat"]]),
    (f"a cat, {LONG}", "cat", [["cat"]]),
    (f"{LONG}, a cat, {LONG}, a cat", "cat", [["cat", "cat"]]),
    ("a cat <lora:nudge:0.5>", "cat", [["cat"]]),
    ("<lora:nudge:0.5> a cat", "cat", [["cat"]]),
    ("a cat, embedded standing", "embedded", [["embedded"]]),
    ("embedded", "embedded", [["embedded"]]),
    ("a embedded embedded cat", "cat", [["cat"]]),
    ("a embedded cat", "embedded cat", [["embedded", "cat"]]),
    ("(embedded:1.4), a cat", "embedded", [["embedded"]]),
    ("a cat's hat", "cat", [["cat"]]),
    ("a cat-bird", "bird", [["bird"]]),
    ("a  cat ,  sitting", "cat", [["cat"]]),
    ("a\ncat", "cat", [["cat"]]),
    ("a cat:1.2", "cat", [["cat"]]),
    ("a catalogue of a cat", "cat", [["cat"]]),
    ("une café, a cat", "café", [["caf\u00c3\u00a9"]]),  # the vocabulary's own letters for the two bytes of é
    ("a giraffe", "giraffe", [["giraffe"]]),
]


@pytest.mark.usefixtures("layers")  # asks for an image, and only then does Forge load the checkpoint
@pytest.mark.parametrize(("prompt", "words", "expected"), CASES, ids=range(len(CASES)))
def test_words_are_found_as_the_host_reads_prompts(
    client: Client, prompt: str, words: str, expected: list[list[str]]
) -> None:
    """What stands at the positions found in the host's own token chunks is the words."""
    got = client.post("/fault/words", {"prompt": prompt, "words": words})
    assert got["positions"] and [len(texts) for texts in got["spelt"]] == [len(p) for p in got["positions"]]
    said = [sorted("".join(pieces).replace("</w>", " ").split()) for pieces in got["spelt"]]
    assert said == [sorted(of_text) for of_text in expected]


def masked(base: dict[str, Any], **settings: Any) -> dict[str, Any]:
    return controlled(base, **{"mask": "words", "source_words": "cat", **settings})


@pytest.mark.parametrize("method", ["mutual", "union"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"sampler_name": "Heun"},
        {"override_settings": {"batch_cond_uncond": False}},
        {"negative_prompt": LONG},
        {"width": 72, "height": 104, "sampler_name": "Euler"},
        {"width": 128, "height": 128},
    ],
    ids=["DDIM", "Heun", "apart", "long negative", "odd size", "128"],
)
def test_the_source_keeps_its_bits(client: Client, layers: int, options: dict[str, Any], method: str) -> None:
    """Laws 1, 2 and 7; the masked target is neither the plain nor the unmasked one."""
    base = request(TARGET, **options)
    plain = client.traced(fault({**base, "batch_size": 2}, prompts=[TARGET, SOURCE], seeds_of=[0, 0]))
    unmasked = client.traced(controlled(base, method=method))
    trace = client.traced(masked(base, method=method, mask_threshold=0.5))
    assert same([x[1] for x in trace], [x[1] for x in plain])
    assert largest_difference(trace[-1][0], plain[-1][0]) > MOVED
    assert largest_difference(trace[-1][0], unmasked[-1][0]) > MOVED
    assert same(client.traced(masked(base, method=method, start_layer=layers)), plain)


def test_several_targets_and_groups(client: Client) -> None:
    base = request(TARGET, batch_size=2)
    result = client.txt2img(masked(base, more_targets="a bird, standing", target_words="cat, bird"))
    assert len(result.images) == 6
    assert "MasaCtrl foreground" in result.infotexts[0]
    prompts, seeds = [TARGET, "a bird, standing"] * 2 + [SOURCE] * 2, [0, 0, 1, 1, 0, 1]
    plain = client.txt2img(fault({**base, "batch_size": 6}, prompts=prompts, seeds_of=seeds))
    assert same(result.images[4:], plain.images[4:])
    unmasked = client.txt2img(controlled(base, more_targets="a bird, standing")).images
    assert not any(same([one], [other]) for one, other in zip(result.images[:4], unmasked))


def test_hires_fix(client: Client) -> None:
    hires = {"enable_hr": True, "hr_scale": 2, "hr_upscaler": "Latent", "denoising_strength": 0.6}
    base = request(TARGET, **hires)
    # From the last step on, which acts in the second pass alone (test_passes.py).
    result = client.txt2img(masked(base, start_step=7, mask_threshold=0.5))
    unmasked = client.txt2img(controlled(base, start_step=7)).images
    assert result.images[0].shape == (128, 128, 3)
    assert same(result.images[1:], unmasked[1:]) and not same(result.images[:1], unmasked[:1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"source_words": "cats"},
            "source_words is 'cats', which is not in the prompt 'a cat, sitting'; did you mean 'cat'?",
        ),
        ({"target_words": "dog"}, "target_words is 'dog'"),
        ({"source_words": "sitting"}, "target_words is nothing (so 'sitting' was looked for)"),
        ({"source_words": ""}, "source_words and target_words are empty"),
        ({"mask": "painted"}, "no mask was painted"),
        ({"mask": "drawn"}, "mask is 'drawn', but it takes one of 'none', 'words', 'painted'"),
        ({"mask_threshold": 2}, "mask_threshold is 2, but it takes a number from 0 to 1, or 'auto'"),
    ],
)
def test_refusals(client: Client, settings: dict[str, Any], message: str) -> None:
    """Law 11: one sentence with the name of what is wrong."""
    with pytest.raises(HttpError) as refusal:
        client.txt2img(masked(request(TARGET), **settings))
    assert refusal.value.status == 422
    assert message in refusal.value.message


def test_token_merging_is_refused(client: Client) -> None:
    with pytest.raises(HttpError) as refusal:
        client.txt2img(masked(request(TARGET, override_settings={"token_merging_ratio": 0.5})))
    assert refusal.value.status == 422 and "token merging" in refusal.value.message


def test_masks_are_shown_when_asked(client: Client) -> None:
    hidden = client.txt2img(masked(request(TARGET)))
    shown = client.txt2img(masked(request(TARGET), show_masks=True))
    assert len(hidden.images) == 2 and len(shown.images) == 4
    assert same(shown.images[:2], hidden.images)
    for picture, mask in zip(shown.images[:2], shown.images[2:]):
        dimmed = (mask.mean(axis=-1) + 1) < picture.mean(axis=-1)
        assert 0 < dimmed.mean() < 1
        assert (
            largest_difference(
                mask[~dimmed & (picture.mean(axis=-1) > 8)], picture[~dimmed & (picture.mean(axis=-1) > 8)]
            )
            <= 1
        )


def test_infotext_round_trip(client: Client) -> None:
    if "infotext" not in api_fields(client):
        pytest.skip("this WebUI's API takes no infotext")
    settings = {"target_words": "cat, standing", "mask_threshold": "auto", "average_masks": True}
    result = client.txt2img(masked(request(TARGET), **settings))
    text = result.infotexts[0]
    assert "MasaCtrl mask: words" in text and "MasaCtrl mask threshold: auto" in text
    assert same(client.txt2img({"infotext": text}).images, result.images)


@pytest.fixture(scope="module")
def picture(client: Client) -> Pixels:
    return client.txt2img(request(SOURCE, seed=3)).images[0]


@pytest.mark.parametrize("source", ["prompt", "image"])
@pytest.mark.parametrize("target_words", ["", "cat"])
def test_a_painted_mask(client: Client, picture: Pixels, source: str, target_words: str) -> None:
    """The foreground of the source is what was painted; its share is reported."""
    left = numpy.zeros((64, 64, 3), numpy.uint8)
    left[:, :32] = 255
    inpaint = {"mask": encoded(left), "mask_blur": 0, "inpainting_fill": 1, "inpaint_full_res": False}
    base = request(TARGET, init_images=[encoded(picture)], denoising_strength=0.7, steps=10, **inpaint)
    settings = {"mask": "painted", "source_words": "", "target_words": target_words, "source": source, "start_step": 1}
    result = client.img2img(fault(masked(base, **settings), encoder_seed=0))
    assert "source 50%" in result.infotexts[0]
    assert ("target 1 50%" in result.infotexts[0]) == (not target_words)
    unmasked = client.img2img(fault(controlled(base, source=source, start_step=1), encoder_seed=0))
    assert same(result.images[1:], unmasked.images[1:])
    assert not same(result.images[:1], unmasked.images[:1])


@pytest.mark.parametrize("tab", ["txt2img", "img2img"])
def test_matched_words_are_shown_while_typing(client: Client, tab: str) -> None:
    """The accordion's own event, called as the browser calls it: fields in their order, HTML back."""
    config = client.get("/config")
    ids = {c["props"].get("elem_id"): c["id"] for c in config["components"]}
    shown = ids[f"masactrl_{tab}_matched_words"]
    typed = ids[f"masactrl_{tab}_source_words"]
    number, event = next(
        (n, d)
        for n, d in enumerate(config["dependencies"])
        if d["outputs"] == [shown] and any(t in (typed, [typed, "change"]) for t in d["targets"])
    )
    names = [f"masactrl_{tab}_{key}" for key in ("mask", "source_words", "target_words", "source_prompt")]
    assert event["inputs"] == [ids[name] for name in [*names, f"{tab}_prompt"]]

    def answer(*data: str) -> str:
        return str(client.post("/run/predict", {"fn_index": number, "data": data, "session_hash": "t"})["data"][0])

    assert answer("none", "cat", "", "a cat", "a cat") == ""
    assert answer("words", "", "", "a cat", "a cat") == ""
    matched = answer("words", "cat", "", "a red cat", "the [cat:bird:0.5]")
    source, target = "a red <mark>cat</mark>", "the <mark>cat</mark><br>the bird"
    assert matched == f"<p><span>Source:</span> {source}</p><p><span>Target:</span> {target}</p>"
    assert "<b>" not in answer("words", "cat", "", "a <b> cat", "")
