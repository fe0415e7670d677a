"""A real image is inverted once and edited many times: what is kept, what is not, and what is never trusted."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import safetensors.numpy

from .client import Client, HttpError, Pixels, Result, controlled, encoded, fault, largest_difference, request, same
from .host import HostPaths
from .plots import plot
from .real_images import KEPT, TARGET, asked, edit, inversion_calls, said


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


@pytest.mark.parametrize(
    ("changes", "settings"),
    [
        ({"width": 72}, {}),
        ({"resize_mode": 1}, {}),
        ({"tiling": True}, {}),
        ({"steps": 9}, {}),
        ({"sampler_name": "DDIM"}, {}),
        ({"denoising_strength": 0.6}, {}),
        ({"override_settings": {"CLIP_stop_at_last_layers": 2}}, {}),
        ({"override_settings": {"sd_model_checkpoint": "second.safetensors"}}, {}),
        ({}, {"source_prompt": "another key"}),
        ({}, {"inversion_refinements": 1}),
    ],
    ids=[
        "size",
        "resize-mode",
        "tiling",
        "steps",
        "sampler",
        "strength",
        "clip-skip",
        "checkpoint",
        "prompt",
        "refined",
    ],
)
def test_whatever_a_trajectory_depends_on_makes_another(
    client: Client, photograph: Pixels, changes: dict[str, Any], settings: dict[str, Any]
) -> None:
    base, own = asked(photograph), {"source_prompt": "a key"}
    edit(client, base, **own)
    edit(client, {**base, **changes}, **{**own, **settings})
    assert inversion_calls(client) > 0
    edit(client, {**base, **changes}, **{**own, **settings})
    assert inversion_calls(client) == 0
    edit(client, base, **own)
    assert inversion_calls(client) == 0


def test_another_autoencoder_makes_another_trajectory(
    client: Client, host_paths: HostPaths, paints: bool, photograph: Pixels, data: Path
) -> None:
    if not paints:
        pytest.skip("the Forge family takes autoencoders with its text encoders, as modules of a checkpoint")
    prefix = "first_stage_model."
    tensors = safetensors.numpy.load_file(host_paths.checkpoint)
    vae = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    vae["encoder.conv_out.weight"] = vae["encoder.conv_out.weight"] * 0.8
    folder = data / "models" / "VAE"
    folder.mkdir(parents=True, exist_ok=True)
    safetensors.numpy.save_file(vae, folder / "weak.safetensors")
    client.post("/sdapi/v1/refresh-vae", {})
    base, own = asked(photograph), {"source_prompt": "an autoencoder"}
    other = {**base, "override_settings": {"sd_vae": "weak.safetensors"}}
    first = edit(client, base, **own)
    for calls in (8, 0):
        second = edit(client, other, **own)
        assert inversion_calls(client) == calls
    assert not same(first.images[1:], second.images[1:])
    assert same(edit(client, base, **own).images, first.images) and inversion_calls(client) == 0


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


def stopped(client: Client, base: dict[str, Any], stop: str, phase: str, **settings: Any) -> Result:
    """The answer to an edit that is told to ``stop`` (interrupt, skip) in the middle of a phase of its inversion."""
    answers: list[Result] = []
    worker = threading.Thread(target=lambda: answers.append(edit(client, base, **settings)))
    worker.start()
    client.wait_for(lambda state: state["textinfo"] == f"MasaCtrl: {phase}" and state["sampling_step"] >= 3, 300)
    client.post(f"/sdapi/v1/{stop}", {})
    worker.join(120)
    assert answers, "the request never ended"
    return answers[0]


@pytest.mark.parametrize(("phase", "left"), [("inverting the picture", 160), ("checking the inversion", 80)])
def test_an_interrupted_inversion_leaves_nothing_half_made(
    client: Client, photograph: Pixels, phase: str, left: int
) -> None:
    """Four steps of 20 inversion steps each, and as many evaluations for the check."""
    plain = request(steps=8)
    before = client.txt2img(plain).images
    base = asked(photograph, steps=4)
    settings = {"source_prompt": f"interrupted {phase}", "inversion_steps": 80, "check_inversion": True}
    answer = stopped(client, base, "interrupt", phase, **settings)
    assert said(answer, "inversion") == f"interrupted while {phase}" and "PSNR" not in answer.infotexts[0]
    assert inversion_calls(client) < 160
    assert same(client.txt2img(plain).images, before)
    again = edit(client, base, **settings)
    assert inversion_calls(client) == left and said(again, "inversion") == f"{left} U-Net calls"
    assert said(again, "PSNR unrectified").endswith(" dB")
    assert said(edit(client, base, **settings), "PSNR unrectified") == said(again, "PSNR unrectified")


@pytest.mark.parametrize(("phase", "left"), [("inverting the picture", 160), ("checking the inversion", 80)])
def test_a_skipped_inversion_is_made_by_the_batch_that_follows(
    client: Client, photograph: Pixels, phase: str, left: int
) -> None:
    plain = request(steps=8)
    before = client.txt2img(plain).images
    base = asked(photograph, steps=4, n_iter=2)
    settings = {"source_prompt": f"skipped {phase}", "inversion_steps": 80, "check_inversion": True}
    first, _, second, _ = stopped(client, base, "skip", phase, **settings).infotexts
    assert f"MasaCtrl inversion: interrupted while {phase}" in first and "PSNR" not in first
    assert f"MasaCtrl inversion: {left} U-Net calls" in second and "MasaCtrl PSNR unrectified: " in second
    assert same(client.txt2img(plain).images, before)
    assert said(edit(client, base, **settings), "inversion") == KEPT


def test_what_is_interrupted_while_it_samples_tells_nothing_of_its_picture(client: Client, photograph: Pixels) -> None:
    base = asked(photograph, steps=20, width=128, height=128)
    edit(client, base, source_prompt="interrupted later")
    answers: list[Result] = []
    worker = threading.Thread(target=lambda: answers.append(edit(client, base, source_prompt="interrupted later")))
    worker.start()
    client.wait_for(lambda state: state["job_count"] and state["sampling_steps"] == 20 and state["sampling_step"] >= 3)
    client.post("/sdapi/v1/interrupt", {})
    worker.join(120)
    assert said(answers[0], "inversion") == KEPT and "PSNR" not in answers[0].infotexts[0]


def test_exception_in_inversion_leaves_nothing(client: Client, photograph: Pixels) -> None:
    plain = request(steps=8)
    before = client.txt2img(plain).images
    base = asked(photograph)
    with pytest.raises(HttpError):
        edit(client, fault(base, count=False, raise_at_call=3), source_prompt="broken")
    assert same(client.txt2img(plain).images, before)
    edit(client, base, source_prompt="broken")
    assert inversion_calls(client) == 8
