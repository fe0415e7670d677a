"""Requests beside a ControlNet extension, their latents, and the fixtures that their tests share."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest

from .client import Client, HttpError, controlled, encoded, request, with_script
from .host import HostPaths, is_forge

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
