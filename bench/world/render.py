"""Pictures of the world with their exact foreground masks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from bench.world.identity import Identity, random_identity
from bench.world.layout import Layout
from bench.world.silhouettes import SILHOUETTES, Point

UNITS = 64
"""The scene is described on a square of this many units, whatever the picture's size."""

SUPERSAMPLING = 3
HORIZON, BASELINE = 42.0, 58.0
PLACE_X = {"left": 23.0, "right": 41.0}
HALF_X = 32.0
STRIPE_PERIOD, SPOT_SPACING, SPOT_RADIUS = 16.0, 15.0, 5.4
SUN, POST, FRAME = (255, 235, 90), (60, 45, 35), 2.0


@dataclass(frozen=True)
class Scene:
    """Everything that a picture is made from: identity, layout, and a small jitter in units of 1/64 picture.

    `half` is for the left or right half of a picture of two creatures (`bench/world/duet.py`), by the layout's place.
    """

    identity: Identity
    layout: Layout
    shift: Point = (0.0, 0.0)
    scale: float = 1.0
    half: bool = False

    def shows(self, side: str) -> bool:
        """Whether the picture reaches to this edge of the world, "left" or "right"."""
        return not self.half or self.layout.place == side


def random_scene(layout: Layout, rng: np.random.Generator, identity: Identity | None = None) -> Scene:
    """A jittered scene of `layout`, with a random identity unless one is given."""
    shift = (float(rng.uniform(-1.2, 1.2)), float(rng.uniform(-1.2, 1.2)))
    return Scene(identity or random_identity(rng), layout, shift, float(rng.uniform(0.96, 1.04)))


def render(scene: Scene, size: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """The picture, uint8 (size, size, 3), and its foreground mask, bool (size, size)."""
    side = size * SUPERSAMPLING
    picture = _background(scene, side)
    mask = _foreground(scene, side)
    picture.paste(_coat(scene, side), mask=mask)
    _eye(picture, scene, side)
    _frame(picture, scene, side)
    coverage = np.asarray(mask.reduce(SUPERSAMPLING))
    return np.asarray(picture.reduce(SUPERSAMPLING)), coverage >= 128


def _background(scene: Scene, side: int) -> Image.Image:
    """Sky, ground, and cues that never change: they tell left from right and give GroupNorm an absolute reference."""
    unit = side / UNITS
    picture = Image.new("RGB", (side, side), scene.identity.sky)
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, HORIZON * unit, side, side), fill=scene.identity.ground)
    if scene.shows("left"):
        draw.ellipse((3 * unit, 3 * unit, 15 * unit, 15 * unit), fill=SUN)
    if scene.shows("right"):
        draw.rectangle((55 * unit, 14 * unit, 61 * unit, 50 * unit), fill=POST)
    return picture


def _frame(picture: Image.Image, scene: Scene, side: int) -> None:
    width = FRAME * side / UNITS
    draw = ImageDraw.Draw(picture)
    if scene.shows("left"):
        draw.rectangle((0, 0, width - 1, side), fill=(0, 0, 0))
    if scene.shows("right"):
        draw.rectangle((side - width, 0, side, side), fill=(255, 255, 255))


def _to_canvas(points: tuple[Point, ...], scene: Scene, side: int) -> list[Point]:
    unit = side / UNITS
    x0 = (HALF_X if scene.half else PLACE_X[scene.layout.place]) + scene.shift[0]
    y0 = BASELINE + scene.shift[1]
    return [((x0 + scene.scale * x) * unit, (y0 - scene.scale * y) * unit) for x, y in points]


def _foreground(scene: Scene, side: int) -> Image.Image:
    mask = Image.new("L", (side, side))
    draw = ImageDraw.Draw(mask)
    for part in SILHOUETTES[scene.layout.species, scene.layout.pose].parts:
        draw.polygon(_to_canvas(part, scene, side), fill=255)
    frame = int(FRAME * side / UNITS)
    if scene.shows("left"):
        draw.rectangle((0, 0, frame - 1, side), fill=0)
    if scene.shows("right"):
        draw.rectangle((side - frame, 0, side, side), fill=0)
    return mask


def _coat(scene: Scene, side: int) -> Image.Image:
    """The creature's colours over the whole canvas; the pattern moves with the creature."""
    identity = scene.identity
    coat = Image.new("RGB", (side, side), identity.body)
    draw = ImageDraw.Draw(coat)
    if identity.pattern == "stripes":
        for index in range(-3, 4):
            left = index * STRIPE_PERIOD - STRIPE_PERIOD / 4
            right = left + STRIPE_PERIOD / 2
            band = ((left, -10.0), (right, -10.0), (right, 70.0), (left, 70.0))
            draw.polygon(_to_canvas(band, scene, side), fill=identity.pattern_colour)
    elif identity.pattern == "spots":
        for row in range(-1, 6):
            for column in range(-3, 4):
                x, y = (column + 0.5 * (row % 2)) * SPOT_SPACING, row * SPOT_SPACING * 0.8
                _disc(draw, (x, y), SPOT_RADIUS, identity.pattern_colour, (scene, side))
    return coat


def _eye(picture: Image.Image, scene: Scene, side: int) -> None:
    draw = ImageDraw.Draw(picture)
    eye = SILHOUETTES[scene.layout.species, scene.layout.pose].eye
    _disc(draw, eye, 2.6, (255, 255, 255), (scene, side))
    _disc(draw, eye, 1.6, (0, 0, 0), (scene, side))


def _disc(
    draw: ImageDraw.ImageDraw, centre: Point, radius: float, fill: tuple[int, int, int], canvas: tuple[Scene, int]
) -> None:
    scene, side = canvas
    ((x, y),) = _to_canvas((centre,), scene, side)
    r = radius * scene.scale * side / UNITS
    draw.ellipse((x - r, y - r, x + r, y + r), fill=fill)
