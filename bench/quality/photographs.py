"""Ways to edit a real image: a held-out render of the world stands for the photograph."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch

from bench.quality.painting import PLAN, batch, noised_and_painted, to_bytes, to_unit
from bench.quality.pairs import Pair
from bench.quality.rows import Pictures
from bench.world import random_scene, render
from lib_masactrl.branches import Branch
from lib_masactrl.host.standalone.checkpoint import DiffusionModel
from lib_masactrl.host.standalone.real_image import InversionPlan, InvertedImage, invert_image
from lib_masactrl.host.standalone.sampling import BranchPrompts, SamplingPlan, control_for, sample_latents
from lib_masactrl.settings import MasaCtrlSettings

HELD_OUT = 90_000
"""Training drew from the streams [1, ...] and [2, ...] (bench/world/dataset.py)."""


@cache
def photograph(pair: Pair) -> np.ndarray:
    """A render of the pair's source that nothing was trained on, uint8 (64, 64, 3)."""
    return render(random_scene(pair.source, np.random.default_rng([HELD_OUT, pair.seed])))[0]


def photographs(pairs: Sequence[Pair]) -> np.ndarray:
    """The photographs of all pairs, uint8 (pairs, 64, 64, 3)."""
    return np.stack([photograph(pair) for pair in pairs])


def inverted(model: DiffusionModel, pairs: Sequence[Pair], plan: InversionPlan) -> InvertedImage:
    """The photographs, inverted together."""
    return invert_image(model, torch.cat([model.encode(to_unit(photograph(pair))) for pair in pairs]), plan)


def edited(model: DiffusionModel, pairs: Sequence[Pair], rectify: bool, start_step: int) -> Pictures:
    """The product's edit: targets from the inverted noise, under control from `start_step` and layer 10 on."""
    of_targets = batch(pairs)
    prompts = tuple("" if b.is_source else text for b, text in zip(of_targets.branches, of_targets.prompts))
    control = control_for(model, MasaCtrlSettings(start_step=start_step, start_layer=10), PLAN.steps)
    latents = sample_latents(
        model,
        BranchPrompts(of_targets.branches, prompts, of_targets.seeds),
        PLAN,
        control,
        image=inverted(model, pairs, InversionPlan(PLAN.sampler, PLAN.steps, rectify=rectify)),
    )
    return Pictures(photographs(pairs), to_bytes(model.decode(latents[: len(pairs)])))


def img2img(model: DiffusionModel, pairs: Sequence[Pair], strength: float) -> Pictures:
    """SDEdit of the photographs."""
    return Pictures(photographs(pairs), noised_and_painted(model, pairs, photographs(pairs), strength))


def unedited(model: DiffusionModel, pairs: Sequence[Pair]) -> Pictures:
    """The photographs through the autoencoder and back."""
    latents = torch.cat([model.encode(to_unit(photograph(pair))) for pair in pairs])
    return Pictures(photographs(pairs), to_bytes(model.decode(latents)))


def reconstructed(model: DiffusionModel, pairs: Sequence[Pair], sampler: str, steps: int, rectify: bool) -> Pictures:
    """The source branch alone: the photographs inverted, and sampled back at guidance 1."""
    sources = tuple(Branch(group) for group in range(len(pairs)))
    alone = BranchPrompts(sources, ("",) * len(pairs), tuple(pair.seed for pair in pairs))
    plan = SamplingPlan(sampler, steps, PLAN.cfg_scale, PLAN.width, PLAN.height)
    image = inverted(model, pairs, InversionPlan(sampler, steps, rectify=rectify))
    return Pictures(photographs(pairs), to_bytes(model.decode(sample_latents(model, alone, plan, image=image))))
