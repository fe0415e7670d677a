"""What the tables are made on: pairs of captions of one species, each with its noise seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bench.world import Duet, Layout, all_duets, all_layouts

#: How many pairs are painted as one batch and kept as one file.
LOT = 20


@dataclass(frozen=True)
class Pair:
    """A source, the target that is to take its identity, and the seed that both start from."""

    source: Layout
    target: Layout
    seed: int

    @property
    def subject(self) -> str:
        """The word for what is the foreground."""
        return self.source.species


@dataclass(frozen=True)
class DuetPair:
    """The same with two creatures; the one on the source's left is the subject, the other is its companion."""

    source: Duet
    target: Duet
    seed: int

    @property
    def subject(self) -> str:
        """The word for what is the foreground."""
        return self.source.left.species

    @property
    def companion(self) -> str:
        """The species of the other creature, which is background."""
        return self.source.right.species


Lot = tuple[Any, ...]
"""Pairs of one kind."""


def random_pairs(count: int, seed: int = 0) -> tuple[Pair, ...]:
    """Pairs that differ in pose, in place or in both; the seeds are 0, 1, ..."""
    layouts = all_layouts()
    possible = [(s, t) for s in layouts for t in layouts if s.species == t.species and s != t]
    chosen = np.random.default_rng(seed).integers(len(possible), size=count)
    return tuple(Pair(*possible[number], noise) for noise, number in enumerate(chosen))


def repeated_pairs(count: int, seed: int = 0) -> tuple[Pair, ...]:
    """Pairs whose target has its source's caption; the seeds are 0, 1, ..."""
    layouts = all_layouts()
    chosen = np.random.default_rng(seed).integers(len(layouts), size=count)
    return tuple(Pair(layouts[number], layouts[number], noise) for noise, number in enumerate(chosen))


def swapped_pairs(count: int, seed: int = 0) -> tuple[DuetPair, ...]:
    """Pairs whose two creatures change places, each in its pose; the seeds are 0, 1, ..."""
    duets = all_duets()
    chosen = np.random.default_rng(seed).integers(len(duets), size=count)
    return tuple(DuetPair(duets[number], _swapped(duets[number]), noise) for noise, number in enumerate(chosen))


def _swapped(duet: Duet) -> Duet:
    return Duet(replace(duet.right, place="left"), replace(duet.left, place="right"))


def lots(pairs: Sequence[Any]) -> list[Lot]:
    """`pairs` in lots of at most :data:`LOT`."""
    return [tuple(pairs[first : first + LOT]) for first in range(0, len(pairs), LOT)]
