"""Pictures on disk: PNG files that carry their settings as an A1111 infotext and never replace another file."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lib_masactrl.errors import SettingsError


def to_pictures(decoded: torch.Tensor) -> list[Image.Image]:
    """Pictures (n, 3, height, width) in 0..1 as images."""
    values = (decoded * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    return [Image.fromarray(picture) for picture in values]


def infotext(prompt: str, negative_prompt: str, entries: Mapping[str, object]) -> str:
    """Prompt, negative prompt and ``key: value`` pairs as A1111 writes and reads them (``create_infotext``)."""
    lines = [prompt, *([f"Negative prompt: {negative_prompt}"] if negative_prompt else [])]
    lines.append(", ".join(f"{key}: {_quoted(value)}" for key, value in entries.items()))
    return "\n".join(lines)


def _quoted(value: object) -> str:
    """As A1111's ``infotext_utils.quote``."""
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if any(mark in text for mark in ",:\n") else text


def write_numbered(folder: Path, name: str, picture: Image.Image, text: str) -> Path:
    """Write ``picture`` as ``NNNNN-name.png`` under the next free number, with ``text`` in its ``parameters`` chunk.

    Raises:
        SettingsError: ``folder`` cannot be made or written to.
    """
    chunk = PngInfo()
    chunk.add_text("parameters", text)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        number = _next_number(folder)
        while True:
            path = folder / f"{number:05d}-{name}.png"
            try:
                with path.open("xb") as file:  # "x" refuses an existing file, also one that appeared this moment
                    picture.save(file, format="PNG", pnginfo=chunk)
                return path
            except FileExistsError:
                number += 1
    except OSError as error:
        raise SettingsError(f"output is {folder}, which cannot be written ({error}); give another folder.") from error


def _next_number(folder: Path) -> int:
    numbers = (re.match(r"(\d{5,})-", path.name) for path in folder.iterdir())
    return 1 + max((int(match[1]) for match in numbers if match), default=0)
