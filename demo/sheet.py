"""Drawing the demo's sheet: pictures side by side with captions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

CELL, GAP, MARGIN, HEADER = 256, 16, 60, 64
"""Pixels: side of a picture, space between pictures, room for the seed, room for the captions."""

INK, DIM, PAPER = (20, 20, 20), (110, 110, 110), (255, 255, 255)


class Row(NamedTuple):
    """The pictures of one seed."""

    seed: int
    source: Image.Image
    plain: Image.Image
    controlled: Image.Image


def draw_sheet(rows: Sequence[Row], prompts: tuple[str, str]) -> Image.Image:
    """A sheet with one line per row: source, target without control, target with mutual self-attention.

    Args:
        rows: pictures of any size; they are scaled to 256 pixels.
        prompts: the source prompt and the target prompt.
    """
    width = MARGIN + 3 * (CELL + GAP)
    sheet = Image.new("RGB", (width, HEADER + len(rows) * (CELL + GAP)), PAPER)
    draw = ImageDraw.Draw(sheet)
    _captions(draw, prompts)
    for line, row in enumerate(rows):
        top = HEADER + line * (CELL + GAP)
        draw.text((8, top + CELL // 2), f"seed\n{row.seed}", fill=DIM, font=ImageFont.load_default(14), anchor="lm")
        for column, picture in enumerate((row.source, row.plain, row.controlled)):
            sheet.paste(_scaled(picture), (_left(column), top))
    return sheet


def _captions(draw: ImageDraw.ImageDraw, prompts: tuple[str, str]) -> None:
    source, target = prompts
    columns = (("Source", source), ("Target without control", target), ("Target with mutual self-attention", target))
    for column, (title, prompt) in enumerate(columns):
        draw.text((_left(column), 14), title, fill=INK, font=ImageFont.load_default(15))
        draw.text((_left(column), 36), _shortened(prompt), fill=DIM, font=ImageFont.load_default(13))


def _shortened(prompt: str) -> str:
    shown = " ".join(prompt.split())
    return f"“{shown}”" if len(shown) <= 36 else f"“{shown[:35]}…”"


def _left(column: int) -> int:
    return MARGIN + column * (CELL + GAP)


def _scaled(picture: Image.Image) -> Image.Image:
    """The picture in 256 x 256. Small ones by whole pixels: what the model made is shown, not a blur of it."""
    small = picture.width < CELL and CELL % picture.width == 0
    return picture.resize((CELL, CELL), Image.Resampling.NEAREST if small else Image.Resampling.BICUBIC)
