"""A line of a table: a named way to paint the targets of given pairs, and its pictures on disk.

A further method is one :class:`Row` in a section of ``bench/quality/sections.py``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from bench.quality.pairs import Lot, lots
from lib_masactrl.host.standalone.checkpoint import DiffusionModel


@dataclass(frozen=True)
class Pictures:
    """What a row painted: sources and targets, each uint8 (pairs, h, w, 3)."""

    sources: np.ndarray
    targets: np.ndarray


class Paint(Protocol):
    """Paints a lot of pairs; has to be a module's function or a `functools.partial` of one, to be sent to a process."""

    def __call__(self, model: DiffusionModel, pairs: Sequence[Any], /) -> Pictures: ...


@dataclass(frozen=True)
class Row:
    """`name` stands in the table and is what the pictures are kept under: another way needs another name."""

    name: str
    paint: Paint = field(compare=False)


@dataclass(frozen=True)
class Store:
    """Pictures of rows in lots of pairs, kept by everything they depend on but the code.

    That is the row's name, the lot, the checkpoint and the number of steps. More pairs are more lots, and a run that
    is cut off goes on with the lot it was at.
    """

    folder: Path
    checkpoint: Path
    steps: int

    def path(self, row: Row, lot: Lot) -> Path:
        """Where the pictures of `row` on `lot` are, or would be."""
        digest = hashlib.sha256(_digest(self.checkpoint))
        digest.update(repr((row.name, self.steps, lot)).encode())
        slug = re.sub(r"[^a-z0-9]+", "-", row.name.lower()).strip("-")
        return self.folder / f"{slug}-{digest.hexdigest()[:12]}.npz"

    def painted(self, row: Row, asked: Sequence[Lot]) -> int:
        """How many of the lots `asked` are there, up to the first that is not."""
        return next((number for number, lot in enumerate(asked) if not self.path(row, lot).exists()), len(asked))

    def load(self, row: Row, pairs: Sequence[Any]) -> Pictures:
        """The pictures of `row` on `pairs`, all of which have to be there."""
        kept = [dict(np.load(self.path(row, lot))) for lot in lots(pairs)]
        return Pictures(*(np.concatenate([each[name] for each in kept]) for name in ("sources", "targets")))

    def save(self, row: Row, lot: Lot, pictures: Pictures) -> None:
        """Keep `pictures`; a run that is cut off leaves no half-written file under the final name."""
        path = self.path(row, lot)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".part")
        with unfinished.open("wb") as file:
            np.savez_compressed(file, sources=pictures.sources, targets=pictures.targets)
        unfinished.replace(path)


@cache
def _digest(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()
