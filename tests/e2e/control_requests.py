"""Requests beside a ControlNet extension, and their latents."""

from __future__ import annotations

from typing import Any

import numpy
import pytest

from .client import Client, controlled, encoded, request, with_script

TARGET, SOURCE, OTHER = "a cat, standing", "a cat, sitting", "a cat, running"
#: How far a guided latent moves at least.
MOVED = 1e-2
STEPS = 4
#: No step is controlled, so that nothing but the unit can move a row.
NO_CONTROL = {"start_step": STEPS}
HIRES = {"enable_hr": True, "hr_scale": 2, "hr_upscaler": "Latent", "denoising_strength": 0.7}


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


def preprocessor(client: Client, name: str) -> str:
    """The preprocessor as the extension calls it: Forge's have longer names ("invert (from white bg & black line)")."""
    offered = client.get("/controlnet/module_list")["module_list"]
    return name if name in offered else next((other for other in offered if other.lower().startswith(name)), name)


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
