"""Targets whose caption says less than a sketch does, painted with and without the sketch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from diffusers import T2IAdapter
from torch import Tensor

from bench.quality.painting import PLAN, batch, to_pictures
from bench.quality.pairs import Pair
from bench.quality.rows import Pictures
from bench.training.adapter import NAME, sketch
from bench.world import random_identity, render
from bench.world.render import Scene
from lib_masactrl.host.standalone.checkpoint import DiffusionModel
from lib_masactrl.host.standalone.sampling import control_for, sample_latents
from lib_masactrl.host.standalone.t2i_adapter import load_adapter
from lib_masactrl.settings import MasaCtrlSettings

ADAPTER = Path("demo/checkpoint") / f"{NAME}.safetensors"


def vague(
    model: DiffusionModel, pairs: Sequence[Pair], guides: tuple[float, float] = (0, 0), **settings: int
) -> Pictures:
    """Targets of the caption "a cat", sources of their full captions.

    Args:
        guides: the weights of the target's sketch for target and source.
        settings: start step and layer; none for no control.
    """
    count = len(pairs)
    prompts = batch(pairs)
    named = tuple(f"a {pair.target.species}" for pair in pairs)
    features = [weighted(level, guides) for level in _adapter()(sketches(pairs))]
    asked = dataclasses.replace(prompts, prompts=(*named, *prompts.prompts[count:]), features=tuple(features))
    control = None
    if settings:
        control = control_for(
            model, MasaCtrlSettings(enabled=True, source_prompt="its own, per pair", **settings), PLAN.steps
        )
    return to_pictures(model, sample_latents(model, asked, PLAN, control))


def sketches(pairs: Sequence[Pair]) -> Tensor:
    """The outlines of the targets, unjittered, (pairs, 1, 64, 64)."""
    anybody = random_identity(np.random.default_rng(0))
    masks = [render(Scene(anybody, pair.target))[1] for pair in pairs]
    return sketch(torch.from_numpy(np.stack(masks)))


def weighted(level: Tensor, guides: tuple[float, float]) -> Tensor:
    """Features (pairs, c, h, w) for the batch of targets, then sources."""
    return torch.cat([weight * level for weight in guides])


@cache
def _adapter() -> T2IAdapter:
    return load_adapter(ADAPTER)
