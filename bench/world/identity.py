"""What the caption does not say: the colours and the pattern of the creature and of its surroundings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Colour = tuple[int, int, int]
"""sRGB, 0 to 255."""

PATTERNS = ("plain", "stripes", "spots")

# Bodies are saturated or extreme, skies pale, grounds muted: a creature then stands out wherever it is.
BODY_COLOURS: tuple[Colour, ...] = (
    (214, 40, 40),
    (245, 130, 20),
    (250, 210, 30),
    (30, 140, 50),
    (30, 90, 220),
    (130, 40, 170),
    (245, 245, 245),
    (35, 30, 40),
)
SKY_COLOURS: tuple[Colour, ...] = (
    (150, 205, 245),
    (250, 195, 205),
    (200, 240, 200),
    (215, 200, 245),
    (245, 225, 180),
    (190, 195, 200),
)
GROUND_COLOURS: tuple[Colour, ...] = (
    (110, 150, 90),
    (150, 115, 80),
    (110, 115, 120),
    (75, 125, 130),
    (140, 100, 130),
    (185, 165, 120),
)
JITTER = 12
"""Each channel of each colour moves by up to this many grey levels."""

MIN_BACKGROUND_DISTANCE = 30.0
MIN_PATTERN_DISTANCE = 45.0
"""Lab distances: body and pattern against sky and ground, and pattern against body."""


@dataclass(frozen=True)
class Identity:
    """The appearance of one creature and its world."""

    body: Colour
    pattern: str
    pattern_colour: Colour
    sky: Colour
    ground: Colour


def srgb_to_lab(rgb: np.ndarray) -> np.ndarray:
    """CIE Lab (D65) of sRGB values in 0..255; the last axis holds the three channels."""
    value = np.asarray(rgb, dtype=np.float64) / 255.0
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array(
        [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    )
    xyz = linear @ to_xyz.T / np.array([0.95047, 1.0, 1.08883])
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], axis=-1)


def lab_distance(first: Colour, second: Colour) -> float:
    """CIE 1976 colour difference."""
    return float(np.linalg.norm(srgb_to_lab(np.array(first)) - srgb_to_lab(np.array(second))))


def random_identity(rng: np.random.Generator, companion: Identity | None = None) -> Identity:
    """An identity whose body and pattern stand out from the background, that of `companion` if given."""
    scenery = (companion.sky, companion.ground) if companion else (_draw(SKY_COLOURS, rng), _draw(GROUND_COLOURS, rng))
    body = _contrasting(scenery, (), rng)
    pattern = PATTERNS[rng.integers(len(PATTERNS))]
    pattern_colour = body if pattern == "plain" else _contrasting(scenery, (body,), rng)
    return Identity(body, pattern, pattern_colour, *scenery)


def _draw(palette: tuple[Colour, ...], rng: np.random.Generator) -> Colour:
    base = np.array(palette[rng.integers(len(palette))])
    red, green, blue = np.clip(base + rng.integers(-JITTER, JITTER + 1, size=3), 0, 255).tolist()
    return red, green, blue


def _contrasting(backgrounds: tuple[Colour, ...], others: tuple[Colour, ...], rng: np.random.Generator) -> Colour:
    while True:
        colour = _draw(BODY_COLOURS, rng)
        far_from_background = all(lab_distance(colour, other) >= MIN_BACKGROUND_DISTANCE for other in backgrounds)
        if far_from_background and all(lab_distance(colour, other) >= MIN_PATTERN_DISTANCE for other in others):
            return colour
