"""What the tables are made on: pairs of captions of one species, each with its noise seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.world import Layout, all_layouts

#: How many pairs are painted as one batch and kept as one file.
LOT = 20


@dataclass(frozen=True)
class Pair:
    """A source, the target that is to take its identity, and the seed that both start from."""

    source: Layout
    target: Layout
    seed: int


def random_pairs(count: int, seed: int = 0) -> tuple[Pair, ...]:
    """Pairs that differ in pose, in place or in both; the seeds are 0, 1, ..."""
    layouts = all_layouts()
    possible = [(s, t) for s in layouts for t in layouts if s.species == t.species and s != t]
    chosen = np.random.default_rng(seed).integers(len(possible), size=count)
    return tuple(Pair(*possible[number], noise) for noise, number in enumerate(chosen))


def lots(pairs: Sequence[Pair]) -> list[tuple[Pair, ...]]:
    """`pairs` in lots of at most :data:`LOT`."""
    return [tuple(pairs[first : first + LOT]) for first in range(0, len(pairs), LOT)]
