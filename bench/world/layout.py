"""What the caption says: species, pose and place."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

SPECIES = ("cat", "bird", "giraffe")
POSES = ("standing", "lying", "jumping")
PLACES = ("left", "right")


@dataclass(frozen=True)
class Layout:
    """The part of a picture that its caption determines."""

    species: str
    pose: str
    place: str

    def __post_init__(self) -> None:
        for value, allowed in ((self.species, SPECIES), (self.pose, POSES), (self.place, PLACES)):
            if value not in allowed:
                raise ValueError(f"unknown word {value!r}; the world knows {', '.join(allowed)}")

    @property
    def caption(self) -> str:
        """The full sentence, e.g. "a cat standing on the left"."""
        return f"a {self.species} {self.pose} on the {self.place}"

    @property
    def partial_captions(self) -> tuple[str, ...]:
        """Shorter sentences that leave something open, so that vague prompts work too."""
        return (f"a {self.species}", f"a {self.species} {self.pose}", f"a {self.species} on the {self.place}")


def all_layouts() -> list[Layout]:
    """Every layout of the world, in a fixed order."""
    return [Layout(*words) for words in product(SPECIES, POSES, PLACES)]


def all_captions() -> list[str]:
    """Every sentence that training may show, the empty one first; a fixed order without repeats."""
    captions = [""]
    for layout in all_layouts():
        captions += [layout.caption, *layout.partial_captions]
    return list(dict.fromkeys(captions))


def random_caption(layout: Layout, rng: np.random.Generator, empty: float = 0.1, partial: float = 0.1) -> str:
    """A training sentence for `layout`: empty or partial with the given probabilities."""
    draw = rng.random()
    if draw < empty:
        return ""
    if draw < empty + partial:
        return layout.partial_captions[rng.integers(len(layout.partial_captions))]
    return layout.caption
