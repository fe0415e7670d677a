"""Drawing the demo's sheet: pictures side by side with captions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

CELL, GAP, MARGIN, HEADER = 256, 16, 60, 64
"""Pixels: height of a picture, space between pictures, room for the seed, room for the captions."""

INK, DIM, PAPER = (20, 20, 20), (110, 110, 110), (255, 255, 255)


class Row(NamedTuple):
    """One line of a sheet: what its seed or picture is called, and its pictures from left to right."""

    name: str
    pictures: Sequence[Image.Image]


class Column(NamedTuple):
    """What stands over a column: a title, and the prompt that made its pictures, if one did."""

    title: str
    prompt: str | None = None


def draw_sheet(rows: Sequence[Row], columns: Sequence[Column]) -> Image.Image:
    """A sheet with one line per row; pictures of any size are scaled to a height of 256 pixels."""
    first = rows[0].pictures[0]
    width = round(CELL * first.width / first.height)
    lefts = [MARGIN + place * (width + GAP) for place in range(len(columns))]
    sheet = Image.new("RGB", (MARGIN + len(columns) * (width + GAP), HEADER + len(rows) * (CELL + GAP)), PAPER)
    draw = ImageDraw.Draw(sheet)
    for left, column in zip(lefts, columns):
        draw.text((left, 14), column.title, fill=INK, font=ImageFont.load_default(15))
        if column.prompt is not None:
            shown = _shortened(column.prompt, most=width // 7)
            draw.text((left, 36), shown, fill=DIM, font=ImageFont.load_default(13))
    for line, row in enumerate(rows):
        top = HEADER + line * (CELL + GAP)
        draw.text((8, top + CELL // 2), row.name, fill=DIM, font=ImageFont.load_default(14), anchor="lm")
        for left, picture in zip(lefts, row.pictures):
            sheet.paste(_scaled(picture, width), (left, top))
    return sheet


def _shortened(prompt: str, most: int) -> str:
    shown = " ".join(prompt.split())
    return f"“{shown}”" if len(shown) <= most else f"“{shown[: most - 1]}…”"


def _scaled(picture: Image.Image, width: int) -> Image.Image:
    """The picture, 256 high. Small ones by whole pixels: what the model made is shown, not a blur of it."""
    small = picture.height < CELL and CELL % picture.height == 0
    return picture.resize((width, CELL), Image.Resampling.NEAREST if small else Image.Resampling.BICUBIC)
