"""Groups, several targets, seeds and the lists that the host returns beside the images."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from .client import Client, Result, controlled, fault, request, same

TARGET, SECOND, SOURCE = "a cat, standing", "a dog, running", "a cat, sitting"
SEEDS: list[dict[str, Any]] = [
    {},
    {"subseed": 77, "subseed_strength": 0.4},
    {"sampler_name": "Euler a", "override_settings": {"eta_noise_seed_delta": 31337}},
    {"seed_resize_from_w": 48, "seed_resize_from_h": 80},
]


def plain_rows(client: Client, base: dict[str, Any], prompts: list[str], seeds_of: list[int], batch: int) -> Result:
    """The host's own batches of these prompts, made without MasaCtrl."""
    return client.txt2img(fault({**base, "batch_size": batch}, prompts=prompts, seeds_of=seeds_of))


@pytest.mark.parametrize("seeds", SEEDS, ids=["seeds", "variation", "ENSD", "resized"])
def test_batch_size_two(client: Client, seeds: dict[str, Any]) -> None:
    """Law 2 with two groups: their sources are the plain images of their seeds; both targets are controlled."""
    base = request(TARGET, batch_size=2, **seeds)
    result = client.txt2img(controlled(base))
    plain = plain_rows(client, base, [TARGET, TARGET, SOURCE, SOURCE], [0, 1, 0, 1], 4)
    assert len(result.images) == 4
    assert same(result.images[2:], plain.images[2:])
    assert not same(result.images[:1], plain.images[:1])
    assert not same(result.images[1:2], plain.images[1:2])
    assert result.info["all_seeds"] == plain.info["all_seeds"]
    assert result.info["all_subseeds"] == plain.info["all_subseeds"]
    assert result.info["all_prompts"] == [TARGET, TARGET, SOURCE, SOURCE]


@pytest.mark.parametrize("seeds", SEEDS, ids=["seeds", "variation", "ENSD", "resized"])
def test_groups_are_independent(client: Client, seeds: dict[str, Any]) -> None:
    """Law 5 per group: with one prompt everywhere each target is its own source, and no other's."""
    result = client.txt2img(controlled(request(TARGET, batch_size=2, **seeds), source_prompt=TARGET))
    assert same(result.images[:2], result.images[2:])
    assert not same(result.images[:1], result.images[1:2])


@pytest.mark.parametrize("batch_size", [1, 2])
def test_batch_count_two(client: Client, batch_size: int) -> None:
    base = request(TARGET, batch_size=batch_size, n_iter=2)
    result = client.txt2img(controlled(base))
    order = [0, 1] if batch_size == 1 else [0, 1, 2, 3]
    prompts = ([TARGET] * batch_size + [SOURCE] * batch_size) * 2
    halves = [order[:batch_size], order[batch_size:]]
    plain = plain_rows(client, base, prompts, [i for half in halves for i in half * 2], 2 * batch_size)
    assert result.info["all_seeds"] == plain.info["all_seeds"]
    assert result.info["all_prompts"] == prompts
    for index, (mine, host) in enumerate(zip(result.images, plain.images)):
        assert same([mine], [host]) == (prompts[index] == SOURCE), index


@pytest.mark.parametrize("batch_size", [1, 2])
def test_more_targets_share_one_source(client: Client, batch_size: int) -> None:
    """k + 1 rows for k targets."""
    base = request(TARGET, batch_size=batch_size)
    asked = controlled(base, more_targets=f"{SECOND}\n\n  {SOURCE} \n")
    result = client.txt2img(fault(asked, trace=True))
    prompts = [TARGET, SECOND, SOURCE] * batch_size + [SOURCE] * batch_size
    seeds_of = [group for group in range(batch_size) for _ in range(3)] + list(range(batch_size))
    assert {x.shape[0] for x in client.trace()} == {4 * batch_size}
    plain = plain_rows(client, base, prompts, seeds_of, 4 * batch_size)
    assert result.info["all_prompts"] == prompts
    assert same(result.images[3 * batch_size :], plain.images[3 * batch_size :])
    for group in range(batch_size):
        first, second, as_source = result.images[3 * group : 3 * group + 3]
        assert not same([first], [plain.images[3 * group]])
        assert not same([second], [plain.images[3 * group + 1]])
        assert same([as_source], [result.images[3 * batch_size + group]])


def test_targets_do_not_see_each_other(client: Client) -> None:
    """A target is the same picture whichever other target stands beside it."""
    one = client.txt2img(controlled(request(TARGET), more_targets=SECOND))
    other = client.txt2img(controlled(request(TARGET), more_targets="a red bird"))
    assert same(one.images[:1], other.images[:1])
    assert not same(one.images[1:2], other.images[1:2])


@pytest.mark.parametrize(("batch_size", "n_iter", "more"), [(1, 1, ""), (2, 2, ""), (2, 1, SECOND)])
def test_hidden_source_is_dropped_everywhere(
    client: Client, data: Path, batch_size: int, n_iter: int, more: str
) -> None:
    """``show_source`` off: images, files, infotexts and all lists of the answer hold the targets only, in step."""
    base = request(TARGET, batch_size=batch_size, n_iter=n_iter, save_images=True, seed=100 + batch_size)
    base["override_settings"] = {"return_grid": False, "grid_save": False}
    asked = {"more_targets": more}
    shown = client.txt2img(controlled({**base, "save_images": False}, **asked))
    before = _saved(data)
    hidden = client.txt2img(controlled(base, show_source=False, **asked))
    kept = [i for i, prompt in enumerate(shown.info["all_prompts"]) if prompt != SOURCE]
    assert same(hidden.images, [shown.images[i] for i in kept])
    for name in ("all_prompts", "all_seeds", "all_subseeds", "all_negative_prompts"):
        assert hidden.info[name] == [shown.info[name][i] for i in kept], name
    assert len(hidden.infotexts) == len(hidden.images)
    for text, prompt, seed in zip(hidden.infotexts, hidden.info["all_prompts"], hidden.info["all_seeds"]):
        assert text.startswith(prompt) and f"Seed: {seed}," in text
    assert len(_saved(data) - before) == len(kept)


def test_saved_files_are_the_results(client: Client, data: Path) -> None:
    """Source shown: one file per image, each with the prompt of its branch."""
    before = _saved(data)
    client.txt2img(controlled(request(TARGET, save_images=True, seed=321)))
    texts = {re.search(rb"parameters\x00([^\n]*)", file.read_bytes()) for file in _saved(data) - before}
    assert {text[1].decode() for text in texts if text} == {TARGET, SOURCE}


@pytest.mark.parametrize(("sources", "masks"), [(True, False), (False, False), (False, True)])
def test_the_settings_page_says_what_is_saved(client: Client, data: Path, sources: bool, masks: bool) -> None:
    """Whatever is saved, the results are the same: two targets, two sources, a mask for each."""
    base = request(TARGET, save_images=True, batch_size=2, n_iter=2, seed=400 + 2 * sources + masks)
    base["override_settings"] = {"return_grid": False, "grid_save": False}
    asked = controlled(base, mask="words", source_words="cat", show_masks=True)
    before = _saved(data)
    client.post("/sdapi/v1/options", {"masactrl_save_sources": sources, "masactrl_save_masks": masks})
    try:
        result = client.txt2img(asked)
    finally:
        client.post("/sdapi/v1/options", {"masactrl_save_sources": True, "masactrl_save_masks": False})
    assert len(result.images) == len(result.infotexts) == 16
    files = _saved(data) - before
    overlays = {file for file in files if "masactrl-mask" in file.name}
    texts = [re.search(rb"parameters\x00([^\n]*)", file.read_bytes()) for file in files - overlays]
    assert sorted(text[1].decode() for text in texts if text) == [SOURCE] * 4 * sources + [TARGET] * 4
    assert len(overlays) == 8 * masks
    before |= files
    client.txt2img({**asked, "save_images": False})
    assert _saved(data) == before


def test_request_keeps_its_own_batch_size(client: Client) -> None:
    """What the host reports to the caller as the request's parameters is what the caller asked for."""
    answer = client.post("/sdapi/v1/txt2img", controlled(request(batch_size=2)))
    assert answer["parameters"]["batch_size"] == 2


@pytest.mark.parametrize("negative", ["", "blurry, dark"])
def test_style_is_applied_to_every_branch(client: Client, negative: str) -> None:
    styled = request(TARGET, styles=["night"], negative_prompt=negative)
    result = client.txt2img(controlled(styled))
    spelled = request(f"{TARGET}, at night", negative_prompt=", ".join(filter(None, [negative, "daylight"])))
    expected = client.txt2img(controlled(spelled, source_prompt=f"{SOURCE}, at night"))
    assert result.info["all_prompts"] == [f"{TARGET}, at night", f"{SOURCE}, at night"]
    assert same(result.images, expected.images)


def _saved(data: Path) -> set[Path]:
    return {*(data / "outputs").rglob("*.png"), *(data / "output").rglob("*.png")}
