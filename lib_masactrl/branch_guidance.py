"""Which branch a ControlNet unit guides, and how strongly: the words of the setting ``control_guides``."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from lib_masactrl.errors import SettingsError

ALLOWED = (
    "'target', 'source', 'both' or 'each' per ControlNet unit, with a comma between units; a weight from 0 to 2 may "
    "follow each word, and + joins two (target 1 + source 0.3)"
)
_MAXIMUM_WEIGHT = 2.0
_TERM = re.compile(r"(target|source|both|each)(?:\s+(\d+(?:\.\d*)?|\.\d+))?")


@dataclass(frozen=True)
class Guidance:
    """Whom one unit guides: factors on the unit's own weight.

    Attributes:
        target: for every target branch.
        source: for the source branch.
        each: the unit has one control picture per target, in the order of the targets.
    """

    target: float = 0.0
    source: float = 0.0
    each: bool = False

    def weight(self, target: int | None, picture: int = 0, pictures: int = 1) -> float:
        """The factor for one branch from the unit's control picture number ``picture`` of ``pictures``.

        ControlNet runs a unit of several pictures as so many units that share its weight (``get_enabled_units`` of
        the extension: ``unit.weight / len(unit.image)``); a picture of its own gets the whole weight back.

        Args:
            target: the number of the target branch; ``None`` is the source.
        """
        if target is None:
            return self.source
        if not self.each:
            return self.target
        return self.target * pictures if picture == target else 0.0


def parse_guidance(text: str) -> tuple[Guidance, ...]:
    """One :class:`Guidance` per unit, in the order of the units; the last one stands for all further units.

    >>> parse_guidance("target, both 0.5")
    (Guidance(target=1.0, source=0.0, each=False), Guidance(target=0.5, source=0.5, each=False))

    Raises:
        SettingsError: a part of ``text`` is not understood.
    """
    return tuple(_guidance(part) for part in text.split(","))


def with_target_first(text: str) -> str:
    """``text`` with unit 0 guiding the target and nobody else; further units guide whom they did.

    >>> with_target_first("source")
    'target, source'
    >>> with_target_first("both, each 0.5")
    'target, each 0.5'
    """
    first, *others = [part.strip() for part in text.split(",")]
    others = others or [first]
    return "target" if others in ([""], ["target"]) else ", ".join(["target", *others])


def first_targets(pictures: Mapping[int, int], targets: int) -> dict[int, int]:
    """For each unit that says ``each``, the target that its first control picture is for.

    Such a unit has a picture for every target itself, or one alone: then units with one belong together, in order.

    >>> first_targets({0: 1, 1: 2, 4: 1}, targets=2)
    {0: 0, 1: 0, 4: 1}

    Args:
        pictures: how many control pictures each such unit has, by its number.

    Raises:
        SettingsError: they do not come out even.
    """
    first, single = {}, 0
    for number, count in pictures.items():
        if count not in (1, targets):
            raise _uneven(number, count, targets)
        first[number] = single % targets if count < targets else 0
        single += count < targets
    if single % targets:
        raise _uneven(max(pictures), single, targets)
    return first


def _uneven(number: int, pictures: int, targets: int) -> SettingsError:
    return SettingsError(
        f"control_guides says 'each' up to ControlNet unit {number}, but there are {pictures} control "
        f"pictures for {targets} targets; give one per target, in order: in one unit (Multi-Inputs, Batch "
        "Upload), or in as many units with one picture each."
    )


def _guidance(text: str) -> Guidance:
    values: dict[str, float] = {}
    words = []
    for term in text.split("+"):
        found = _TERM.fullmatch(term.strip().lower())
        if not found:
            raise _refusal(text)
        word, weight = found[1], float(found[2] or 1)
        words.append(word)
        for branch in ("target", "source") if word == "both" else ("source",) if word == "source" else ("target",):
            if branch in values or not (math.isfinite(weight) and weight <= _MAXIMUM_WEIGHT):
                raise _refusal(text)
            values[branch] = weight
    return Guidance(**values, each="each" in words)


def _refusal(text: str) -> SettingsError:
    return SettingsError(f"control_guides has {text.strip()[:60]!r}, but it takes {ALLOWED}; correct control_guides.")
