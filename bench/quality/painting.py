"""Ways to paint pairs with the standalone host."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.quality.pairs import Pair
from bench.quality.rows import Pictures
from lib_masactrl.branches import branches_in_batch
from lib_masactrl.host.standalone.checkpoint import DiffusionModel
from lib_masactrl.host.standalone.sampling import BranchPrompts, SamplingPlan, control_for, sample_latents
from lib_masactrl.settings import MasaCtrlSettings

PLAN = SamplingPlan("DDIM", 50, 7.5, 64, 64)
PAIRS_AT_ONCE = 20


def controlled(model: DiffusionModel, pairs: Sequence[Pair], **settings: Any) -> Pictures:
    """Source and target side by side under control; `settings` are those of MasaCtrlSettings."""
    asked = MasaCtrlSettings.from_mapping({"enabled": True, "source_prompt": "its own, per pair", **settings})
    parts = []
    for some in in_parts(pairs):
        parts.append(
            to_pictures(model, sample_latents(model, batch(some), PLAN, control_for(model, asked, PLAN.steps)))
        )
    return joined(parts)


def plain(model: DiffusionModel, pairs: Sequence[Pair]) -> Pictures:
    """Source and target side by side, each by itself."""
    return joined([to_pictures(model, sample_latents(model, batch(some), PLAN)) for some in in_parts(pairs)])


def batch(pairs: Sequence[Pair]) -> BranchPrompts:
    """The batch of `pairs`: their targets, then their sources."""
    captions = [pair.target.caption for pair in pairs] + [pair.source.caption for pair in pairs]
    return BranchPrompts(branches_in_batch(len(pairs), 1), tuple(captions), tuple(pair.seed for pair in pairs))


def in_parts(pairs: Sequence[Pair]) -> Iterator[Sequence[Pair]]:
    """As many pairs as one batch should hold, one lot after the other."""
    for first in range(0, len(pairs), PAIRS_AT_ONCE):
        yield pairs[first : first + PAIRS_AT_ONCE]


def to_pictures(model: DiffusionModel, latents: Tensor) -> Pictures:
    """The pictures of latents (targets, then sources)."""
    decoded = (model.decode(latents) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    targets, sources = np.split(decoded, 2)
    return Pictures(sources, targets)


def joined(parts: Sequence[Pictures]) -> Pictures:
    """Parts one after the other."""
    return Pictures(np.concatenate([p.sources for p in parts]), np.concatenate([p.targets for p in parts]))
