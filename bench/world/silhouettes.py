"""The creatures' shapes, as polygons.

Units are 1/64 of the picture; the origin is on the ground under the creature's centre, x to the right and y up.
Every creature faces right, so that left and right are told apart by more than the place.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

Point = tuple[float, float]
Polygon = tuple[Point, ...]


@dataclass(frozen=True)
class Silhouette:
    """The body's polygons (their union is the foreground) and the centre of the eye."""

    parts: tuple[Polygon, ...]
    eye: Point


def _ellipse(x: float, y: float, rx: float, ry: float, angle: float = 0.0) -> Polygon:
    turn = math.radians(angle)
    points = []
    for step in range(28):
        phase = 2 * math.pi * step / 28
        dx, dy = rx * math.cos(phase), ry * math.sin(phase)
        points.append((x + dx * math.cos(turn) - dy * math.sin(turn), y + dx * math.sin(turn) + dy * math.cos(turn)))
    return tuple(points)


def _limb(x0: float, y0: float, x1: float, y1: float, width: float) -> Polygon:
    """A thick line with square ends."""
    length = math.hypot(x1 - x0, y1 - y0)
    nx, ny = -(y1 - y0) / length * width / 2, (x1 - x0) / length * width / 2
    return (x0 + nx, y0 + ny), (x1 + nx, y1 + ny), (x1 - nx, y1 - ny), (x0 - nx, y0 - ny)


def _cat_head(x: float, y: float) -> tuple[Polygon, ...]:
    left_ear = ((x - 8, y + 2), (x - 8, y + 13), (x, y + 6))
    right_ear = ((x + 8, y + 2), (x + 8, y + 13), (x, y + 6))
    return _ellipse(x, y, 8.5, 8), left_ear, right_ear


def _cat_standing() -> Silhouette:
    legs = (_limb(-10, 14, -10, 0, 6), _limb(9, 14, 9, 0, 6))
    return Silhouette((_ellipse(-1, 18, 15, 9), *legs, _limb(-13, 18, -19, 36, 5), *_cat_head(11, 29)), (13, 30))


def _cat_lying() -> Silhouette:
    return Silhouette((_ellipse(-4, 8, 17, 8.5), _limb(-18, 3, 18, 3, 6), *_cat_head(12, 13)), (14, 14))


def _cat_jumping() -> Silhouette:
    legs = (_limb(8, 30, 19, 22, 6), _limb(-8, 20, -17, 8, 6), _limb(-4, 20, -8, 6, 6))
    return Silhouette((_ellipse(0, 25, 16, 9, 38), *legs, _limb(-11, 18, -21, 24, 5), *_cat_head(11, 40)), (13, 41))


def _bird_standing() -> Silhouette:
    legs = (_limb(-4, 12, -4, 0, 4), _limb(5, 12, 5, 0, 4))
    tail = ((-8, 14), (-21, 12), (-9, 26))
    beak = ((8, 41), (20, 36), (8, 32))
    return Silhouette((_ellipse(0, 22, 12, 14, -15), *legs, tail, _ellipse(4, 37, 8, 8), beak), (6, 39))


def _bird_lying() -> Silhouette:
    tail = ((-10, 4), (-22, 20), (-6, 16))
    beak = ((13, 21), (24, 15), (13, 11))
    return Silhouette((_ellipse(-1, 9, 16, 9.5), tail, _ellipse(10, 16, 8, 8), beak), (12, 18))


def _bird_jumping() -> Silhouette:
    wings = (((-2, 30), (-22, 48), (-20, 28), (-4, 18)), ((2, 30), (22, 48), (20, 28), (4, 18)))
    beak = ((4, 43), (16, 38), (5, 34))
    return Silhouette((_ellipse(0, 22, 9, 13), *wings, _ellipse(0, 38, 8, 8), beak, _limb(0, 14, 0, 6, 7)), (2, 40))


def _giraffe_standing() -> Silhouette:
    legs = (_limb(-13, 18, -13, 0, 5.5), _limb(3, 18, 3, 0, 5.5))
    return Silhouette(
        (_ellipse(-5, 21, 13, 8.5), *legs, _limb(3, 20, 9, 46, 8), _ellipse(13, 46, 9, 5), _limb(7, 46, 6, 53, 3)),
        (12, 47),
    )


def _giraffe_lying() -> Silhouette:
    neck = (_limb(8, 8, 8, 32, 8), _ellipse(12, 33, 9, 5), _limb(6, 34, 5, 40, 3))
    return Silhouette((_ellipse(-5, 8, 17, 8.5), _limb(-19, 2.5, 16, 2.5, 5), *neck), (11, 34))


def _giraffe_jumping() -> Silhouette:
    legs = (_limb(4, 22, 18, 14, 5.5), _limb(-12, 22, -22, 8, 5.5))
    neck = (_limb(0, 24, 16, 42, 8), _ellipse(17, 43, 8, 5, -20), _limb(13, 45, 11, 51, 3))
    return Silhouette((_ellipse(-5, 23, 14, 8.5, 15), *legs, *neck), (17, 44))


_MAKERS: dict[tuple[str, str], Callable[[], Silhouette]] = {
    ("cat", "standing"): _cat_standing,
    ("cat", "lying"): _cat_lying,
    ("cat", "jumping"): _cat_jumping,
    ("bird", "standing"): _bird_standing,
    ("bird", "lying"): _bird_lying,
    ("bird", "jumping"): _bird_jumping,
    ("giraffe", "standing"): _giraffe_standing,
    ("giraffe", "lying"): _giraffe_lying,
    ("giraffe", "jumping"): _giraffe_jumping,
}
SILHOUETTES: dict[tuple[str, str], Silhouette] = {words: make() for words, make in _MAKERS.items()}
