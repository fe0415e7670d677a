"""Pictures of two creatures, twice as wide as high: what a word then points at is no longer all of the foreground."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np

from bench.world.identity import random_identity
from bench.world.layout import Layout, all_layouts
from bench.world.render import Scene, random_scene, render


@dataclass(frozen=True)
class Duet:
    """What the caption of a picture of two determines: the creature on the left, and the one on the right."""

    left: Layout
    right: Layout

    @property
    def caption(self) -> str:
        """The full sentence, e.g. "a cat standing on the left and a bird lying on the right"."""
        return self.captions[0]

    @property
    def captions(self) -> tuple[str, str]:
        """The full sentence, in either order."""
        return self._both(lambda creature: creature.caption)

    @property
    def partial_captions(self) -> tuple[str, ...]:
        """Shorter sentences in either order: they leave open poses and places, or places, or poses."""
        words: tuple[Callable[[Layout], str], ...] = (
            lambda creature: f"a {creature.species}",
            lambda creature: f"a {creature.species} {creature.pose}",
            lambda creature: f"a {creature.species} on the {creature.place}",
        )
        return tuple(chain.from_iterable(map(self._both, words)))

    def of(self, species: str) -> Layout:
        """The creature of this species."""
        return self.left if self.left.species == species else self.right

    def _both(self, words: Callable[[Layout], str]) -> tuple[str, str]:
        left, right = words(self.left), words(self.right)
        return f"{left} and {right}", f"{right} and {left}"


def all_duets() -> list[Duet]:
    """Every pair of two species, in a fixed order: two of one species could not be told apart by words."""
    lefts, rights = ([layout for layout in all_layouts() if layout.place == place] for place in ("left", "right"))
    return [Duet(left, right) for left in lefts for right in rights if left.species != right.species]


def all_duet_captions() -> list[str]:
    """Every sentence that training may show, the empty one first; a fixed order without repeats."""
    sentences = chain.from_iterable((*duet.captions, *duet.partial_captions) for duet in all_duets())
    return list(dict.fromkeys(["", *sentences]))


def random_duet_caption(duet: Duet, rng: np.random.Generator, empty: float = 0.1, partial: float = 0.2) -> str:
    """A training sentence for `duet` in random order: empty or partial with the given probabilities."""
    draw = rng.random()
    if draw < empty:
        return ""
    sentences = duet.partial_captions if draw < empty + partial else duet.captions
    return sentences[rng.integers(len(sentences))]


def random_halves(duet: Duet, rng: np.random.Generator) -> tuple[Scene, Scene]:
    """The jittered halves of a picture, left and right: two random identities under one sky."""
    left = random_scene(duet.left, rng)
    right = random_scene(duet.right, rng, random_identity(rng, left.identity))
    return replace(left, half=True), replace(right, half=True)


def render_duet(halves: tuple[Scene, Scene], size: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """The picture, uint8 (size, 2 size, 3), and the foreground mask of both creatures, bool (size, 2 size)."""
    (left, left_mask), (right, right_mask) = (render(half, size) for half in halves)
    return np.concatenate([left, right], axis=1), np.concatenate([left_mask, right_mask], axis=1)
