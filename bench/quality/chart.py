"""A line chart as a picture: means with 95% intervals over the start step, one line per start layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Point = tuple[float, float]
"""Mean and the half-width of its interval."""

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 420, 60, 150, 30, 50
COLOURS = ((27, 110, 180), (220, 110, 20), (40, 150, 70), (160, 60, 150), (90, 90, 90))
INK, PALE = (40, 40, 40), (225, 225, 225)


def line_chart(
    title: str, ticks: Sequence[str], lines: Mapping[str, Sequence[Point]], every: float = 10
) -> Image.Image:
    """`lines` maps a label to one point per tick; the vertical axis starts at 0 and has a line at `every` so much."""
    picture = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(14)
    top = 1.08 * max(mean + half for points in lines.values() for mean, half in points)
    across = np.linspace(LEFT + 30, WIDTH - RIGHT - 20, len(ticks))

    def height(value: float) -> float:
        return HEIGHT - BOTTOM - value / top * (HEIGHT - TOP - BOTTOM)

    for value in np.arange(0, top, every):
        draw.line((LEFT, height(value), WIDTH - RIGHT, height(value)), PALE)
        draw.text((LEFT - 8, height(value)), f"{value:.3g}", INK, font, anchor="rm")
    for x, tick in zip(across, ticks):
        draw.text((x, HEIGHT - BOTTOM + 8), tick, INK, font, anchor="ma")
    draw.text((LEFT, 6), title, INK, font)
    for number, (label, points) in enumerate(lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        shifted = across + 3 * (number - (len(lines) - 1) / 2)  # so that intervals can be told apart
        draw.line([(x, height(mean)) for x, (mean, _) in zip(shifted, points)], colour, 2)
        for x, (mean, half) in zip(shifted, points):
            draw.line((x, height(mean - half), x, height(mean + half)), colour, 2)
            draw.ellipse((x - 3, height(mean) - 3, x + 3, height(mean) + 3), colour)
        draw.text((WIDTH - RIGHT + 12, TOP + 20 * number), label, colour, font)
    return picture
