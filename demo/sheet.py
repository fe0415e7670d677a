"""Drawing the demo's sheet: pictures side by side with captions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

CELL, GAP, MARGIN, HEADER = 256, 16, 60, 64
"""Pixels: side of a picture, space between pictures, room for the seed, room for the captions."""

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
    """A sheet with one line per row; pictures of any size are scaled to 256 pixels."""
    width = MARGIN + len(columns) * (CELL + GAP)
    sheet = Image.new("RGB", (width, HEADER + len(rows) * (CELL + GAP)), PAPER)
    draw = ImageDraw.Draw(sheet)
    for place, column in enumerate(columns):
        draw.text((_left(place), 14), column.title, fill=INK, font=ImageFont.load_default(15))
        if column.prompt is not None:
            draw.text((_left(place), 36), _shortened(column.prompt), fill=DIM, font=ImageFont.load_default(13))
    for line, row in enumerate(rows):
        top = HEADER + line * (CELL + GAP)
        draw.text((8, top + CELL // 2), row.name, fill=DIM, font=ImageFont.load_default(14), anchor="lm")
        for place, picture in enumerate(row.pictures):
            sheet.paste(_scaled(picture), (_left(place), top))
    return sheet


def _shortened(prompt: str) -> str:
    shown = " ".join(prompt.split())
    return f"“{shown}”" if len(shown) <= 36 else f"“{shown[:35]}…”"


def _left(column: int) -> int:
    return MARGIN + column * (CELL + GAP)


def _scaled(picture: Image.Image) -> Image.Image:
    """The picture in 256 x 256. Small ones by whole pixels: what the model made is shown, not a blur of it."""
    small = picture.width < CELL and CELL % picture.width == 0
    return picture.resize((CELL, CELL), Image.Resampling.NEAREST if small else Image.Resampling.BICUBIC)
