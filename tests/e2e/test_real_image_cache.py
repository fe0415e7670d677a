"""A real image is inverted once and edited many times: what is kept, what is not, and what is never trusted."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from .client import Client, HttpError, Pixels, Result, controlled, encoded, fault, largest_difference, request, same
from .real_images import KEPT, TARGET, asked, edit, inversion_calls, said
from .test_xyz import plot


def test_groups_targets_and_batches_share_one_inversion(client: Client, photograph: Pixels) -> None:
    base = asked(photograph, batch_size=2, n_iter=2)
    result = edit(client, base, source_prompt="groups", more_targets="a dog sitting on the left")
    assert len(result.images) == 12
    assert inversion_calls(client) == 8
    sources = [result.images[index] for index in (4, 5, 10, 11)]
    assert all(same([sources[0]], [source]) for source in sources)
    hidden = edit(client, base, source_prompt="groups", more_targets="a dog sitting on the left", show_source=False)
    assert same(hidden.images[:4], result.images[:4])


def test_every_group_has_its_own_picture(client: Client, photograph: Pixels, another: Pixels) -> None:
    base = {**asked(photograph, batch_size=2), "init_images": [encoded(photograph), encoded(another)]}
    result = edit(client, base, source_prompt="two")
    first, second = result.images[-2:]
    assert abs(first - photograph).mean() < 3 and abs(second - another).mean() < 3
    alone = edit(client, asked(another), source_prompt="two")
    assert said(alone, "inversion") == KEPT
    assert largest_difference(alone.images[-1], second) <= 1


def test_a_lora_belongs_to_the_trajectory(client: Client, photograph: Pixels) -> None:
    plain = edit(client, asked(photograph), source_prompt="lora")
    base = {**asked(photograph), "prompt": f"{TARGET} <lora:nudge:1>"}
    nudged = edit(client, base, source_prompt="lora")
    assert inversion_calls(client) == 8
    assert not same(plain.images[:1], nudged.images[:1])
    edit(client, base, source_prompt="lora")
    assert inversion_calls(client) == 0


def test_a_sweep_inverts_once(client: Client, photograph: Pixels) -> None:
    base = asked(photograph)
    client.get("/fault/rows")
    cells = plot(client, controlled(base, source_prompt="sweep"), "img2img", X=("Start step", "1, 3, 8"))
    assert inversion_calls(client) == 8
    direct = [edit(client, base, source_prompt="sweep", start_step=step).images[0] for step in (1, 3, 8)]
    assert same(cells, direct) and not same(cells[:1], cells[1:2])


def test_the_disk_is_used_if_asked_for_and_not_trusted(client: Client, photograph: Pixels, data: Path) -> None:
    base, prompt = asked(photograph), "kept on disk"
    folder = data / "cache" / "masactrl"
    try:
        client.post("/sdapi/v1/options", {"masactrl_cache_on_disk": True})
        first = edit(client, base, source_prompt=prompt)
        (file,) = folder.glob("*.safetensors")
        _forget_memory(client, base)
        assert same(edit(client, base, source_prompt=prompt).images, first.images)
        assert inversion_calls(client) == 0
        _forget_memory(client, base)
        file.write_bytes(file.read_bytes()[:-100])
        edit(client, base, source_prompt=prompt)
        assert inversion_calls(client) == 8
        assert "is damaged" in (data / "server.log").read_text(encoding="utf-8", errors="replace")
    finally:
        client.post("/sdapi/v1/options", {"masactrl_cache_on_disk": False, "masactrl_cache_mib": 512})


def _forget_memory(client: Client, base: dict[str, Any]) -> None:
    """A limit of 0 keeps nothing in memory; what is on disk stays until the next file is written."""
    client.post("/sdapi/v1/options", {"masactrl_cache_mib": 0})
    edit(client, base, source_prompt="forgetting")
    client.post("/sdapi/v1/options", {"masactrl_cache_mib": 512})


def test_interrupted_inversion_leaves_nothing(client: Client, photograph: Pixels) -> None:
    plain = request(steps=8)
    before = client.txt2img(plain).images
    base = asked(photograph, steps=100, width=128, height=128)
    answers: list[Result] = []
    worker = threading.Thread(target=lambda: answers.append(edit(client, base, source_prompt="interrupted")))
    worker.start()
    client.wait_for(lambda state: state["sampling_steps"] == 100 and state["sampling_step"] >= 3)
    client.post("/sdapi/v1/interrupt", {})
    worker.join(60)
    assert answers and "MasaCtrl inversion" not in answers[0].infotexts[0]
    assert same(client.txt2img(plain).images, before)
    edit(client, base, source_prompt="interrupted")
    assert inversion_calls(client) == 100


def test_exception_in_inversion_leaves_nothing(client: Client, photograph: Pixels) -> None:
    plain = request(steps=8)
    before = client.txt2img(plain).images
    base = asked(photograph)
    with pytest.raises(HttpError):
        edit(client, fault(base, count=False, raise_at_call=3), source_prompt="broken")
    assert same(client.txt2img(plain).images, before)
    edit(client, base, source_prompt="broken")
    assert inversion_calls(client) == 8
