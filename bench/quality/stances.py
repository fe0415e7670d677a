"""What control brings over of the layout that captions leave open: where exactly a creature stands, and how large."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache

import numpy as np

from bench.quality.figures import correlation, half_width, interval
from bench.quality.measures import stance
from bench.quality.pairs import Pair
from bench.quality.rows import Pictures, Row
from bench.world import Layout, random_scene, render

RENDERS = 80_000
"""Their streams; training drew from [1, ...] and [2, ...]."""

MEASURES = ("left to right", "top to bottom", "size")


def stance_table(pairs: Sequence[Pair], painted: Mapping[Row, Pictures]) -> list[str]:
    """How far each row's targets are from their sources in each measure, and how they correlate; then renders."""
    lines = ["| target | " + " | ".join(f"{name}: pixels apart | correlation" for name in MEASURES) + " |"]
    lines.append("| --- |" + " --- | --- |" * len(MEASURES))
    lines += [_line(row.name, pairs, pictures) for row, pictures in painted.items()]
    return lines + [_line(f"*{name}*", pairs, pictures) for name, pictures in renders(pairs).items()]


def apart(pairs: Sequence[Pair], pictures: Pictures) -> dict[str, tuple[float, float]]:
    """By measure, how many pixels targets are from their sources: mean, and half the width of its interval."""
    sources, targets = stances(pairs, pictures)
    distances = np.abs(sources - targets).T
    return {name: (float(values.mean()), half_width(values)) for name, values in zip(MEASURES, distances)}


def stances(pairs: Sequence[Pair], pictures: Pictures) -> tuple[np.ndarray, np.ndarray]:
    """The stances of sources and targets, each (pairs, 3), less what their captions say; pairs without one left out."""
    sources, targets = (
        np.array([stance(picture, pair.source) - _usual(pair.source) for picture, pair in zip(each, pairs)])
        for each in (pictures.sources, pictures.targets)
    )
    seen = ~np.isnan(sources + targets).any(axis=1)
    return sources[seen], targets[seen]


def renders(pairs: Sequence[Pair]) -> dict[str, Pictures]:
    """True renders that share the identity alone, or the exact layout alone: what the measures must tell apart."""
    first, second = (
        [random_scene(pair.source, np.random.default_rng([RENDERS + of, pair.seed])) for pair in pairs] for of in (0, 1)
    )
    same_coat = [replace(there, identity=here.identity) for here, there in zip(first, second)]
    same_place = [replace(here, identity=there.identity) for here, there in zip(first, second)]
    sources, coats, places = (
        np.stack([render(scene)[0] for scene in scenes]) for scenes in (first, same_coat, same_place)
    )
    return {
        "renders: same identity, another place and size": Pictures(sources, coats),
        "renders: another identity, same place and size": Pictures(sources, places),
    }


def _line(name: str, pairs: Sequence[Pair], pictures: Pictures) -> str:
    cells = [name]
    for source, target in zip(*(each.T for each in stances(pairs, pictures))):
        cells += [interval(np.abs(source - target), 2), correlation(source, target)]
    return f"| {' | '.join(cells)} |"


@cache
def _usual(layout: Layout, count: int = 32) -> np.ndarray:
    """The mean stance of renders of a caption."""
    rng = np.random.default_rng(RENDERS)
    return np.nanmean([stance(render(random_scene(layout, rng))[0], layout) for _ in range(count)], axis=0)
