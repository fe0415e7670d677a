"""The sections of the page, and their rows. To add a method, add a :class:`Row`; its name is what it is kept under."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from bench.quality.painting import PLAN, controlled, plain
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

SYNTHESIS = Section(
    "synthesis",
    "Consistent synthesis",
    "Source and target are both painted from captions, from the same noise.",
    (NO_CONTROL, mutual(25, 10), mutual(10, 10), mutual(4, 10), mutual(0, 0), UNION),
    (NO_CONTROL, mutual(25, 10), mutual(4, 10), mutual(0, 0), UNION),
)

SECTIONS = (SYNTHESIS,)
STEPS = PLAN.steps
