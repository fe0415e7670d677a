"""Painting pairs under masks, and how well the automatic masks meet the truth.

``python -m bench.quality.masked --pairs 200`` prints the overlap (intersection over union) of the masks that words give
at the end of sampling with the silhouettes that the captions name, on the grid of the latent.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from bench.quality.measures import expected_mask
from bench.quality.painting import PLAN, batch, to_pictures
from bench.quality.pairs import Pair, lots, random_pairs
from bench.quality.rows import Pictures
from lib_masactrl.branches import Branch
from lib_masactrl.control import MutualSelfAttentionControl
from lib_masactrl.host.standalone.checkpoint import DiffusionModel, load_checkpoint
from lib_masactrl.host.standalone.sampling import control_for, sample_latents
from lib_masactrl.masks import ForegroundMasks, resized
from lib_masactrl.settings import MasaCtrlSettings


def by_words(model: DiffusionModel, pairs: Sequence[Pair], threshold: float | str) -> Pictures:
    """Source and target under control, with masks of the species' words."""
    control = _control_by_words(model, pairs, threshold)
    return to_pictures(model, sample_latents(model, batch(pairs), PLAN, control))


def by_truth(model: DiffusionModel, pairs: Sequence[Pair], method: str = "mutual") -> Pictures:
    """Source and target under control, with the silhouettes that the captions name as masks."""
    settings = MasaCtrlSettings(method=method)
    control = control_for(model, settings, PLAN.steps)
    masked = MutualSelfAttentionControl(control.window, control.attention, ForegroundMasks(true_masks(pairs)))
    return to_pictures(model, sample_latents(model, batch(pairs), PLAN, masked))


def true_masks(pairs: Sequence[Pair]) -> dict[Branch, torch.Tensor]:
    """The silhouette of every branch of :func:`batch`, (64, 64) in 0..1."""
    sources = {Branch(group): pair.source for group, pair in enumerate(pairs)}
    targets = {Branch(group, 0): pair.target for group, pair in enumerate(pairs)}
    return {b: torch.tensor(expected_mask(la, margin=0)).float() for b, la in (sources | targets).items()}


def overlaps(model: DiffusionModel, pairs: Sequence[Pair], threshold: float | str) -> np.ndarray:
    """Overlaps with the true masks, (pairs, 4): found source and target masks, and masks that hold everything."""
    control = _control_by_words(model, pairs, threshold)
    sample_latents(model, batch(pairs), PLAN, control)
    assert control.masks is not None
    rows = []
    for group in range(len(pairs)):
        row = []
        for branch in (Branch(group), Branch(group, 0)):
            found = control.masks.of_result(branch)
            if found is None:
                raise RuntimeError(f"no map was captured for {branch}")
            truth = resized(true_masks(pairs)[branch], (found.shape[0], found.shape[1])) >= 0.5
            row.append((float((found & truth).sum() / (found | truth).sum()), float(truth.float().mean())))
        rows.append([row[0][0], row[1][0], row[0][1], row[1][1]])
    return np.array(rows)


def _control_by_words(
    model: DiffusionModel, pairs: Sequence[Pair], threshold: float | str
) -> MutualSelfAttentionControl:
    species = ", ".join(sorted({pair.source.species for pair in pairs}))
    settings = MasaCtrlSettings(mask="words", source_words=species, mask_threshold=threshold)
    return control_for(model, settings, PLAN.steps, batch(pairs))


def main() -> None:
    """Print the distribution of the overlaps."""
    parser = argparse.ArgumentParser(prog="python -m bench.quality.masked", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=Path("demo/checkpoint/creatures.safetensors"))
    parser.add_argument("--pairs", type=int, default=200)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, pairs = load_checkpoint(options.checkpoint, "cpu"), random_pairs(options.pairs)
    for threshold in (0.1, 0.5, "auto"):
        values = np.concatenate([overlaps(model, lot, threshold) for lot in lots(pairs)])
        for name, column in zip(("source", "target", "source, all foreground", "target, all foreground"), values.T):
            quartiles = ", ".join(f"{value:.2f}" for value in np.quantile(column, (0.05, 0.25, 0.5, 0.75, 0.95)))
            sys.stdout.write(
                f"threshold {threshold}, {name}: mean {column.mean():.2f}; 5, 25, 50, 75, 95%: {quartiles}\n"
            )


if __name__ == "__main__":
    main()
