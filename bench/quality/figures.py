"""The figures of a row: one number per pair and measure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from bench.quality.classifier import LayoutClassifier, layout_targets
from bench.quality.measures import (
    background_distance,
    covering_mask,
    expected_mask,
    identity_distance,
    overlap,
    psnr,
    silhouette,
)
from bench.quality.pairs import Pair
from bench.quality.rows import Pictures
from bench.training.vae import to_tensor
from bench.world import all_layouts


@dataclass(frozen=True)
class Figures:
    """Arrays (pairs,): identity and background in Lab units, layout right or not, silhouettes' overlaps in 0..1,
    PSNR in dB outside the edit."""

    identity: np.ndarray
    background: np.ndarray
    right: np.ndarray
    shape_of_target: np.ndarray
    shape_of_source: np.ndarray
    kept_outside: np.ndarray


def figures(pairs: Sequence[Pair], pictures: Pictures, classifier: LayoutClassifier) -> Figures:
    """Measure every pair, within the places that its captions name."""
    numbers = np.array([all_layouts().index(pair.target) for pair in pairs])
    with torch.no_grad():
        answers = torch.stack([part.argmax(dim=1) for part in classifier(to_tensor(pictures.targets))], dim=1)
    measured = [_of_pair(*each) for each in zip(pairs, pictures.sources, pictures.targets)]
    identity, background, of_target, of_source, outside = (np.array(column) for column in zip(*measured))
    right = (answers == layout_targets(numbers)).all(dim=1).numpy()
    return Figures(identity, background, right, of_target, of_source, outside)


def _of_pair(pair: Pair, source: np.ndarray, target: np.ndarray) -> tuple[float, ...]:
    layouts = (pair.source, pair.target)
    source_inner, target_inner = (expected_mask(layout) for layout in layouts)
    source_outer, target_outer = (covering_mask(layout) for layout in layouts)
    shape = silhouette(target, layouts)
    return (
        identity_distance(source, source_inner, target, target_inner),
        background_distance(source, source_outer, target, target_outer),
        overlap(shape, pair.target),
        overlap(shape, pair.source),
        psnr(source, target, ~(source_outer | target_outer)),
    )


def interval(values: np.ndarray, digits: int = 1) -> str:
    """Mean and the half-width of its 95% confidence interval."""
    return f"{values.mean():.{digits}f} ± {half_width(values):.{digits}f}"


def correlation(first: np.ndarray, second: np.ndarray) -> str:
    """Correlation of two arrays (n,) with its 95% interval by Fisher's transformation."""
    r, z = float(np.corrcoef(first, second)[0, 1]), 1.96 / np.sqrt(len(first) - 3)
    return f"{r:.2f} ({np.tanh(np.arctanh(r) - z):.2f} to {np.tanh(np.arctanh(r) + z):.2f})"


def half_width(values: np.ndarray) -> float:
    """Half the width of the mean's 95% confidence interval."""
    return float(1.96 * values.std(ddof=1) / np.sqrt(len(values)))


def share(right: np.ndarray) -> str:
    """Share in percent with its 95% Wilson interval: at 100% the other formula would claim certainty."""
    n, p, z = len(right), float(right.mean()), 1.96
    middle, half = (
        (p + z**2 / (2 * n)) / (1 + z**2 / n),
        z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + (z / 2 / n) ** 2),
    )
    return f"{100 * p:.1f}% ({100 * max(0.0, middle - half):.1f} to {min(100.0, 100 * (middle + half)):.1f})"
