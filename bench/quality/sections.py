"""The sections of the page, and their rows. To add a method, add a :class:`Row`; its name is what it is kept under."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from bench.quality.painting import PLAN, controlled, plain, sdedit
from bench.quality.pairs import Pair, random_pairs
from bench.quality.rows import Row

NO_CONTROL = Row("no control", plain)


@dataclass(frozen=True)
class Section:
    """One table with its contact sheet.

    Attributes:
        name: what it is called on the command line; the sheet is `proving-ground-{name}.png`.
        rows: the first one is what the others are compared with.
        shown: the rows on the contact sheet; empty for no sheet.
        pairs: the pairs that all rows paint, from their number.
    """

    name: str
    title: str
    text: str
    rows: tuple[Row, ...]
    shown: tuple[Row, ...] = ()
    pairs: Callable[[int], tuple[Pair, ...]] = random_pairs


def mutual(start_step: int, start_layer: int) -> Row:
    """Mutual self-attention from step S and layer L on."""
    window = {"start_step": start_step, "start_layer": start_layer}
    return Row(f"mutual, S={start_step}, L={start_layer}", partial(controlled, method="mutual", **window))


UNION = Row("union, S=4, L=10", partial(controlled, method="union", start_step=4, start_layer=10))


def img2img(strength: float) -> Row:
    """SDEdit: the source's picture with noise added, painted on under the target's caption."""
    return Row(f"SDEdit, strength {strength}", partial(sdedit, strength=strength))


SDEDIT = (img2img(0.4), img2img(0.6), img2img(0.8))

SYNTHESIS = Section(
    "synthesis",
    "Consistent synthesis",
    "Source and target are both painted from captions, from the same noise.",
    (NO_CONTROL, *SDEDIT, mutual(25, 10), mutual(10, 10), mutual(4, 10), mutual(0, 0), UNION),
    (NO_CONTROL, *SDEDIT, mutual(25, 10), mutual(4, 10), mutual(0, 0), UNION),
)

GRID_STEPS, GRID_LAYERS = (0, 4, 10, 25), (0, 5, 10, 13)
PAST_THE_END = mutual(PLAN.steps, 0)
GRID = Section(
    "grid",
    "Start step and start layer",
    "The first 60 of these pairs on a grid of S and L.",
    (NO_CONTROL, PAST_THE_END, *(mutual(step, layer) for step in GRID_STEPS for layer in GRID_LAYERS)),
    pairs=lambda count: random_pairs(min(count, 60)),
)

SECTIONS = (SYNTHESIS, GRID)
STEPS = PLAN.steps
