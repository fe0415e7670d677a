"""What the measures say about true renders: the scale on which the tables are to be read."""

from __future__ import annotations

import numpy as np

from bench.quality.figures import interval
from bench.quality.measures import (
    background_distance,
    covering_mask,
    expected_mask,
    identity_distance,
    overlap,
    silhouette,
)
from bench.quality.pairs import random_pairs
from bench.world import random_identity, random_scene, render


def calibration(count: int = 200) -> list[str]:
    """A table in Markdown: each measure on pairs of true renders, of one identity and of two."""
    same, different = (_on_renders(count, same=same) for same in (True, False))
    lines = [
        "| measure | what it is | true renders: same identity | different identities |",
        "| --- | --- | --- | --- |",
    ]
    texts = {
        "identity": "sliced Wasserstein distance of the foregrounds' colours in CIE Lab, within the silhouettes that "
        "the captions name",
        "background": "mean Lab distance where neither caption puts a creature",
        "silhouette IoU": "overlap of what is neither sky nor ground with the silhouette that a caption names",
        "silhouette IoU, wrong layout": "the same, with the silhouette of the pair's other caption",
    }
    for name, text in texts.items():
        digits = 2 if "IoU" in name else 1
        lines.append(f"| {name} | {text} | {interval(same[name], digits)} | {interval(different[name], digits)} |")
    return lines


def _on_renders(count: int, same: bool) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    measured = []
    for pair in random_pairs(count, seed=1):
        layouts, first = (pair.source, pair.target), random_identity(rng)
        identities = (first, first if same else random_identity(rng))
        source, target = (render(random_scene(la, rng, who))[0] for la, who in zip(layouts, identities))
        inner, outer = [expected_mask(la) for la in layouts], [covering_mask(la) for la in layouts]
        measured.append(
            {
                "identity": identity_distance(source, inner[0], target, inner[1]),
                "background": background_distance(source, outer[0], target, outer[1]),
                "silhouette IoU": overlap(silhouette(target, layouts), pair.target),
                "silhouette IoU, wrong layout": overlap(silhouette(source, layouts), pair.target),
            }
        )
    return {name: np.array([each[name] for each in measured]) for name in measured[0]}
