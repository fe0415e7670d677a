"""Ways to paint pairs with the standalone host."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.quality.pairs import DuetPair, Pair
from bench.quality.rows import Pictures
from lib_masactrl.branches import Branch, branches_in_batch
from lib_masactrl.host.standalone.checkpoint import DiffusionModel
from lib_masactrl.host.standalone.guided_prediction import GuidedPrediction
from lib_masactrl.host.standalone.samplers import scheduler_for
from lib_masactrl.host.standalone.sampling import BranchPrompts, SamplingPlan, control_for, sample_latents
from lib_masactrl.layers import self_attention_layers
from lib_masactrl.settings import MasaCtrlSettings

PLAN = SamplingPlan("DDIM", 50, 7.5, 64, 64)
DUET_PLAN = dataclasses.replace(PLAN, width=128)
IMG2IMG_SEEDS = 1_000_000
TARGETS_SEEDS = 2_000_000


def controlled(
    model: DiffusionModel, pairs: Sequence[Pair | DuetPair], plan: SamplingPlan = PLAN, **settings: Any
) -> Pictures:
    """Source and target side by side under control; `settings` are those of MasaCtrlSettings."""
    asked = MasaCtrlSettings.from_mapping({"enabled": True, "source_prompt": "its own, per pair", **settings})
    return to_pictures(model, sample_latents(model, batch(pairs), plan, control_for(model, asked, plan.steps)))


def plain(model: DiffusionModel, pairs: Sequence[Pair | DuetPair], plan: SamplingPlan = PLAN) -> Pictures:
    """Source and target side by side, each by itself."""
    return to_pictures(model, sample_latents(model, batch(pairs), plan))


def from_own_noise(
    model: DiffusionModel, pairs: Sequence[Pair], start_step: int, start_layer: int, plan: SamplingPlan = PLAN
) -> Pictures:
    """Source and target side by side under control, each from its own noise: control is all that joins them."""
    seeds = [TARGETS_SEEDS + pair.seed for pair in pairs] + [pair.seed for pair in pairs]
    shape = (model.config.embed_dim, plan.height // 8, plan.width // 8)
    noise = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    control = control_for(model, MasaCtrlSettings(start_step=start_step, start_layer=start_layer), plan.steps)
    return to_pictures(model, sample_latents(model, dataclasses.replace(batch(pairs), noise=noise), plan, control))


def without_self_attention(model: DiffusionModel, pairs: Sequence[Pair]) -> Pictures:
    """Like `plain`, but what any self-attention layer adds to its input is left out, in source and target."""
    layers = [layer.module for layer in self_attention_layers(model.unet)]
    hooks = [layer.register_forward_hook(lambda layer, given, result: torch.zeros_like(result)) for layer in layers]
    try:
        return plain(model, pairs)
    finally:
        for hook in hooks:
            hook.remove()


def sdedit(model: DiffusionModel, pairs: Sequence[Pair], strength: float) -> Pictures:
    """Plain img2img from the source's picture."""
    sources = tuple(Branch(group) for group in range(len(pairs)))
    alone = BranchPrompts(sources, tuple(p.source.caption for p in pairs), tuple(p.seed for p in pairs))
    painted = to_bytes(model.decode(sample_latents(model, alone, PLAN)))
    return Pictures(painted, noised_and_painted(model, pairs, painted, strength))


@torch.no_grad()
def noised_and_painted(
    model: DiffusionModel, pairs: Sequence[Pair], pictures: np.ndarray, strength: float
) -> np.ndarray:
    """img2img (SDEdit, Meng et al. 2022) of `pictures` (pairs, 64, 64, 3) to the targets' captions.

    As in a WebUI, the last `strength * steps` of the schedule's steps are taken. The noise is not the one that a
    painted source came from.
    """
    scheduler = scheduler_for(model, PLAN.sampler, PLAN.steps)
    timesteps = scheduler.timesteps[PLAN.steps - int(strength * PLAN.steps) :]
    latents = torch.cat([model.encode(to_unit(picture)) for picture in pictures])
    generators = [torch.Generator().manual_seed(IMG2IMG_SEEDS + pair.seed) for pair in pairs]
    noise = torch.cat([torch.randn(latents[:1].shape, generator=generator) for generator in generators])
    latents = scheduler.add_noise(latents, noise, timesteps[:1].expand(len(pairs)))
    predict = GuidedPrediction(model, [p.target.caption for p in pairs], "", [PLAN.cfg_scale] * len(pairs))
    for timestep in timesteps:
        latents = scheduler.step(predict(latents, timestep), timestep, latents).prev_sample
    return to_bytes(model.decode(latents))


def batch(pairs: Sequence[Pair | DuetPair]) -> BranchPrompts:
    """The batch of `pairs`: their targets, then their sources."""
    captions = [pair.target.caption for pair in pairs] + [pair.source.caption for pair in pairs]
    return BranchPrompts(branches_in_batch(len(pairs), 1), tuple(captions), tuple(pair.seed for pair in pairs))


def to_pictures(model: DiffusionModel, latents: Tensor) -> Pictures:
    """The pictures of latents (targets, then sources)."""
    targets, sources = np.split(to_bytes(model.decode(latents)), 2)
    return Pictures(sources, targets)


def to_bytes(decoded: Tensor) -> np.ndarray:
    """Pictures (n, 3, h, w) in 0..1 to uint8 (n, h, w, 3)."""
    values: np.ndarray = (decoded * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return values


def to_unit(picture: np.ndarray) -> Tensor:
    """A picture uint8 (64, 64, 3) to (1, 3, 64, 64) in 0..1."""
    return torch.tensor(picture).permute(2, 0, 1)[None].float() / 255
