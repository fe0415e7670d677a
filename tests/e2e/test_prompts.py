"""Laws 1, 2, 6 and 7 for everything that changes the rows of a U-Net call, its prompts or its size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy
import pytest

from .client import Client, HttpError, controlled, fault, largest_difference, request, same
from .host import HostPaths, is_forge, running

TARGET, SOURCE = "a cat, standing", "a cat, sitting"
LONG = ", ".join(["a small black cat with a red hat"] * 12)
PROMPTS = {
    "both short": (TARGET, SOURCE, "blurry"),
    "long target": (f"{LONG}, standing", SOURCE, "blurry"),
    "long source": (TARGET, f"{LONG}, sitting", "blurry"),
    "both long": (f"{LONG}, standing", f"{LONG}, sitting", "blurry"),
    "long negative": (TARGET, SOURCE, LONG),
    "no negative": (TARGET, SOURCE, ""),
    "edited": ("a [cat:dog:0.5], standing", "a (cat:1.3) BREAK sitting", "blurry"),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "together": {},
    "apart": {"override_settings": {"batch_cond_uncond": False}},
    "padded": {"override_settings": {"pad_cond_uncond": True}},
    "no guidance": {"cfg_scale": 1},
    "NGMS": {"sampler_name": "Euler", "s_min_uncond": 15},
    "NGMS apart": {"sampler_name": "Heun", "s_min_uncond": 15, "override_settings": {"batch_cond_uncond": False}},
}
SIZES = [(64, 96), (72, 104), (104, 72), (88, 200), (136, 136)]
#: By their titles: the host takes any other name for its best one.
OPTIMISATIONS = [
    *("None", "Doggettx", "V1 - original v1", "InvokeAI", "sub-quadratic", "sdp - scaled dot product"),
    "sdp-no-mem - scaled dot product without memory efficient attention",
]
FORGE_OPTIMISATIONS = ["--attention-split", "--attention-quad", "--attention-pytorch"]
MOVED = 1e-3
#: For comparisons to rounding. At 64x64 the deepest feature map is one pixel, where group normalisation over a few
#: values turns rounding into leaps: a guidance scale of 7.0000007 instead of 7 moves a plain image as much.
ROUNDING: dict[str, Any] = {"width": 128, "height": 128, "steps": 4, "sampler_name": "Euler"}


def check(client: Client, base: dict[str, Any], source: str, nothing: int) -> None:
    """Source plain, target controlled from step 2 on, and plain rows for an empty window."""
    trace = client.traced(controlled(base, source_prompt=source))
    plain = fault({**base, "batch_size": 2}, prompts=[base["prompt"], source], seeds_of=[0, 0])
    expected = client.traced(plain)
    assert same([x[1] for x in trace], [x[1] for x in expected])
    assert same([x[0] for x in trace[:2]], [x[0] for x in expected[:2]])
    assert largest_difference(trace[-1][0], expected[-1][0]) > MOVED
    assert same(client.traced(controlled(base, source_prompt=source, start_layer=nothing)), expected)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("prompts", ["both short", "long target", "long source", "long negative"])
def test_rows(client: Client, layers: int, prompts: str, options: str) -> None:
    """Cond and uncond together, apart or skipped; more chunks in one prompt than in the other."""
    target, source, negative = PROMPTS[prompts]
    check(client, request(target, negative_prompt=negative, **OPTIONS[options]), source, layers)


@pytest.mark.parametrize("prompts", ["both short", "long negative"])
def test_low_memory(client: Client, host_paths: HostPaths, layers: int, prompts: str) -> None:
    """Law 6: the Forge family evaluates cond and uncond apart when it finds too little memory for both."""
    if not is_forge(host_paths.checkout):
        pytest.skip("this WebUI has an option for it instead, batch_cond_uncond")
    target, source, negative = PROMPTS[prompts]
    base = fault(request(target, negative_prompt=negative), low_memory=2)
    with pytest.raises(HttpError, match="asked for at U-Net call 12"):  # of 16, where 8 would do
        client.txt2img(fault({**base, "batch_size": 2}, raise_at_call=12))
    check(client, base, source, layers)


@pytest.mark.parametrize("prompts", ["both long", "no negative", "edited"])
def test_prompts(client: Client, layers: int, prompts: str) -> None:
    target, source, negative = PROMPTS[prompts]
    check(client, request(target, negative_prompt=negative), source, layers)


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("method", ["mutual", "union"])
def test_size(client: Client, width: int, height: int, method: str) -> None:
    """Law 7: non-square and odd multiples of 8."""
    base = request(TARGET, width=width, height=height, sampler_name="Euler")
    trace = client.traced(controlled(base, method=method))
    expected = client.traced(fault({**base, "batch_size": 2}, prompts=[TARGET, SOURCE], seeds_of=[0, 0]))
    assert trace[0].shape[2:] == (height // 8, width // 8)
    assert same([x[1] for x in trace], [x[1] for x in expected])
    assert largest_difference(trace[-1][0], expected[-1][0]) > MOVED
    if method == "mutual":  # union sums over twice as many keys, so it rounds differently
        alike = client.txt2img(controlled(base, source_prompt=TARGET))
        assert same(alike.images[:1], alike.images[1:])


def test_token_merging(client: Client, host_paths: HostPaths, layers: int) -> None:
    """The host merges tokens before attention; control sees the merged ones, and the source stays the plain image."""
    merged = request(TARGET, width=128, height=128, override_settings={"token_merging_ratio": 0.5})
    plain = client.traced(request(TARGET, width=128, height=128, batch_size=2))
    assert not same(client.traced({**merged, "batch_size": 2}), plain)
    if is_forge(host_paths.checkout):  # merges queries only, in a patch before the layer
        with pytest.raises(HttpError, match="token merging is on, which on this WebUI"):
            client.txt2img(controlled(merged))
        allowed = client.txt2img(controlled(merged, allow_plain=True))
        assert same(allowed.images, client.txt2img(merged).images)
        assert "MasaCtrl refusal: " in allowed.infotexts[0]
    else:
        check(client, merged, SOURCE, layers)


def test_together_is_apart(client: Client) -> None:
    """Law 6: one call with cond and uncond equals two calls, to the rounding that plain images show."""
    apart = {"override_settings": {"batch_cond_uncond": False}}
    both, two = request(TARGET, **ROUNDING), request(TARGET, **ROUNDING, **apart)
    tolerance = 2 * _spread([client.traced({**one, "batch_size": 2}) for one in (both, two)])
    for method in ("mutual", "union"):
        traces = [client.traced(controlled(one, method=method, start_step=0)) for one in (both, two)]
        assert _spread(traces) <= max(tolerance, 1e-4)


@pytest.fixture
def optimised(
    client: Client, host_paths: HostPaths, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Iterator[tuple[str, Client]]]:
    """The WebUI with each of its attention optimisations in turn: by an option, or in the Forge family by a flag."""
    if is_forge(host_paths.checkout):
        yield _started_with_each(host_paths, tmp_path_factory)
        return
    before = client.get("/sdapi/v1/options")["cross_attention_optimization"]
    yield ((name, _switched(client, name)) for name in OPTIMISATIONS)
    _switched(client, before)


def _switched(client: Client, name: str) -> Client:
    client.post("/sdapi/v1/options", {"cross_attention_optimization": name})
    return client


def _started_with_each(paths: HostPaths, folders: pytest.TempPathFactory) -> Iterator[tuple[str, Client]]:
    for flag in FORGE_OPTIMISATIONS:
        with running(paths, folders.mktemp("optimised"), flags=[flag]) as client:
            yield flag, client


def test_optimisations_agree(optimised: Iterator[tuple[str, Client]]) -> None:
    """Law 6: under control they differ by no more than they do on plain images."""
    base = request(TARGET, **ROUNDING)
    plain, mutual, union, masked = [], [], [], []
    for name, client in optimised:
        plain.append(client.traced(fault({**base, "batch_size": 2}, prompts=[TARGET, SOURCE], seeds_of=[0, 0])))
        mutual.append(client.traced(controlled(base, start_step=0)))
        union.append(client.traced(controlled(base, start_step=0, method="union")))
        masks = {"mask": "words", "source_words": "cat", "mask_threshold": 0.5}
        masked.append(client.traced(controlled(base, start_step=0, **masks)))
        for one in (mutual, masked):
            assert same([x[1] for x in one[-1]], [x[1] for x in plain[-1]]), name
    assert _spread(plain) > 0, "they are all one and the same"
    tolerance = max(1e-4, 2 * _spread(plain))
    assert largest_difference(mutual[0][-1][0], plain[0][-1][0]) > 10 * tolerance
    assert largest_difference(union[0][-1][0], plain[0][-1][0]) > 10 * tolerance
    assert largest_difference(masked[0][-1][0], mutual[0][-1][0]) > 10 * tolerance
    assert _spread(mutual) < tolerance
    assert _spread(union) < tolerance
    assert _spread(masked) < tolerance


@pytest.mark.parametrize("where", ["source", "target", "both"])
def test_lora_acts_on_every_row_as_in_a_plain_batch(client: Client, layers: int, where: str) -> None:
    """The host reads tags from a batch's first prompt only; one in the source prompt must not be lost."""
    tag = "<lora:nudge:0.8>"
    target = TARGET + tag * (where != "source")
    source = SOURCE + tag * (where != "target")
    base = request(target)
    plain = {**base, "batch_size": 2}
    expected = client.traced(fault(plain, prompts=[TARGET + tag, SOURCE], seeds_of=[0, 0]))
    without = client.traced(fault(plain, prompts=[TARGET, SOURCE], seeds_of=[0, 0]))
    assert not same([expected[-1][:1]], [without[-1][:1]])
    assert not same([expected[-1][1:]], [without[-1][1:]])
    assert same(client.traced(controlled(base, source_prompt=source, start_layer=layers)), expected)
    trace = client.traced(controlled(base, source_prompt=source))
    assert same([x[1] for x in trace], [x[1] for x in expected])
    assert largest_difference(trace[-1][0], expected[-1][0]) > MOVED


def test_lora_does_not_stay(client: Client) -> None:
    before = client.traced(request(TARGET, batch_size=2))
    client.txt2img(controlled(request(TARGET), source_prompt=f"{SOURCE} <lora:nudge:1>"))
    assert same(client.traced(request(TARGET, batch_size=2)), before)


def _spread(traces: list[list[numpy.ndarray]]) -> float:
    return max(largest_difference(a, b) for trace in traces for a, b in zip(trace, traces[0]))
