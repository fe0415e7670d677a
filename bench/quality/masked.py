"""Painting pairs under masks, and how well the automatic masks meet the truth.

``python -m bench.quality.masked --pairs 200`` prints the overlap (intersection over union) of the masks that words give
at the end of sampling with the silhouettes that the captions name, on the grid of the latent.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import torch

from bench.quality.measures import expected_mask
from bench.quality.painting import DUET_PLAN, PLAN, batch, to_pictures
from bench.quality.pairs import DuetPair, Pair, lots, random_pairs, swapped_pairs
from bench.quality.rows import Pictures
from lib_masactrl.branches import Branch
from lib_masactrl.control import MutualSelfAttentionControl
from lib_masactrl.host.standalone.checkpoint import DiffusionModel, load_checkpoint
from lib_masactrl.host.standalone.sampling import SamplingPlan, control_for, sample_latents
from lib_masactrl.masks import ForegroundMasks, resized
from lib_masactrl.settings import MasaCtrlSettings


def by_words(
    model: DiffusionModel, pairs: Sequence[Pair | DuetPair], threshold: float | str, plan: SamplingPlan = PLAN
) -> Pictures:
    """Source and target under control, with masks of the subjects' words."""
    control = _control_by_words(model, pairs, threshold, plan)
    return to_pictures(model, sample_latents(model, batch(pairs), plan, control))


def by_subjects_words(model: DiffusionModel, pairs: Sequence[DuetPair], threshold: float | str) -> Pictures:
    """The same for duets, a batch for each subject: its word would find another pair's companion."""
    shape = (len(pairs), DUET_PLAN.height, DUET_PLAN.width, 3)
    sources, targets = np.empty(shape, np.uint8), np.empty(shape, np.uint8)
    for species in {pair.subject for pair in pairs}:
        rows = [row for row, pair in enumerate(pairs) if pair.subject == species]
        painted = by_words(model, [pairs[row] for row in rows], threshold, DUET_PLAN)
        sources[rows], targets[rows] = painted.sources, painted.targets
    return Pictures(sources, targets)


def by_truth(
    model: DiffusionModel, pairs: Sequence[Pair | DuetPair], method: str = "mutual", plan: SamplingPlan = PLAN
) -> Pictures:
    """Source and target under control, with the silhouettes that the captions name as masks."""
    settings = MasaCtrlSettings(method=method)
    control = control_for(model, settings, plan.steps)
    masked = MutualSelfAttentionControl(control.window, control.attention, ForegroundMasks(true_masks(pairs)))
    return to_pictures(model, sample_latents(model, batch(pairs), plan, masked))


def true_masks(pairs: Sequence[Pair | DuetPair]) -> dict[Branch, torch.Tensor]:
    """The subject's silhouette in every branch of :func:`batch`, (64, 64 or 128) in 0..1."""
    masks = {}
    for group, pair in enumerate(pairs):
        for branch, drawn in ((Branch(group), pair.source), (Branch(group, 0), pair.target)):
            masks[branch] = torch.tensor(expected_mask(drawn, pair.subject, margin=0)).float()
    return masks


def overlaps(
    model: DiffusionModel, pairs: Sequence[Pair | DuetPair], threshold: float | str, plan: SamplingPlan = PLAN
) -> np.ndarray:
    """Overlaps with the true masks, (pairs, 4): found source and target masks, and masks that hold everything."""
    control = _control_by_words(model, pairs, threshold, plan)
    sample_latents(model, batch(pairs), plan, control)
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
    model: DiffusionModel, pairs: Sequence[Pair | DuetPair], threshold: float | str, plan: SamplingPlan
) -> MutualSelfAttentionControl:
    species = ", ".join(sorted({pair.subject for pair in pairs}))
    settings = MasaCtrlSettings(mask="words", source_words=species, mask_threshold=threshold)
    return control_for(model, settings, plan.steps, batch(pairs))


def main() -> None:
    """Print the distribution of the overlaps."""
    parser = argparse.ArgumentParser(prog="python -m bench.quality.masked", description=__doc__)
    parser.add_argument("--checkpoint", choices=("creatures", "duets"), default="creatures")
    parser.add_argument("--pairs", type=int, default=200)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = load_checkpoint(Path("demo/checkpoint") / f"{options.checkpoint}.safetensors", "cpu")
    for threshold in (0.1, 0.5, "auto"):
        if options.checkpoint == "creatures":
            found = [overlaps(model, lot, threshold) for lot in lots(random_pairs(options.pairs))]
        else:
            by_subject = sorted(swapped_pairs(options.pairs), key=lambda pair: pair.subject)
            groups = [tuple(group) for _, group in groupby(by_subject, key=lambda pair: pair.subject)]
            found = [overlaps(model, lot, threshold, DUET_PLAN) for group in groups for lot in lots(group)]
        values = np.concatenate(found)
        for name, column in zip(("source", "target", "source, all foreground", "target, all foreground"), values.T):
            quartiles = ", ".join(f"{value:.2f}" for value in np.quantile(column, (0.05, 0.25, 0.5, 0.75, 0.95)))
            sys.stdout.write(
                f"threshold {threshold}, {name}: mean {column.mean():.2f}; 5, 25, 50, 75, 95%: {quartiles}\n"
            )


if __name__ == "__main__":
    main()
