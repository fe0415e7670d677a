"""A picture file as what the model takes: RGB, upright, one frame, in a size that its U-Net can do."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from lib_masactrl.bit_depth import in_eight_bits
from lib_masactrl.errors import SettingsError

log = logging.getLogger(__name__)

#: Larger pictures are scaled down unless a size is asked for: SD 1 was trained at 512, and the memory that `ldm`'s own
#: attention needs grows with the fourth power of the side.
LONGEST_SIDE = 768

#: What transparency is laid over: what A1111's img2img takes by default.
_BACKGROUND = "white"


def read_picture(path: Path) -> Image.Image:
    """The picture in ``path`` as 8-bit RGB; of an animation, its first frame.

    Raises:
        SettingsError: it is no file, or no picture that can be read to its end.
    """
    try:
        with Image.open(path) as picture:
            frames = getattr(picture, "n_frames", 1)
            if frames > 1:
                log.info("%s has %d frames; the first one is used.", path.name, frames)
            picture.load()
            return _to_rgb(ImageOps.exif_transpose(picture))
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, DecompressionBombError, ...
        if isinstance(error, FileNotFoundError):
            raise SettingsError(f"There is no picture {path}; check the file name.") from error
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise SettingsError(f"The picture {path} cannot be read ({reason}); give another file.") from error


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode == "F":
        raise ValueError("its values are floating-point numbers, whose range is not known")
    if picture.has_transparency_data:
        above = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", above.size, _BACKGROUND), above).convert("RGB")
    return in_eight_bits(picture).convert("RGB")


def fitting_size(picture: Image.Image, multiple: int, width: int | None, height: int | None) -> tuple[int, int]:
    """Width and height in pixels at which ``picture`` is edited: as asked, else its own to the nearest ``multiple``.

    A side that is not asked for keeps the picture's proportions.
    """
    asked = [(given, own) for given, own in zip((width, height), picture.size) if given is not None]
    longest = max([LONGEST_SIDE, *(2 * given for given, _ in asked)])
    scale = min(given / own for given, own in asked) if asked else min(1.0, LONGEST_SIDE / max(picture.size))

    def nearest(own: int) -> int:
        return min(max(1, round(own * scale / multiple)), max(1, longest // multiple)) * multiple

    return nearest(picture.width) if width is None else width, nearest(picture.height) if height is None else height


def fitted(picture: Image.Image, width: int, height: int) -> Image.Image:
    """``picture`` scaled and cropped in the middle to exactly ``width`` x ``height``; says so if that changes it."""
    if picture.size == (width, height):
        return picture
    log.info("The picture of %dx%d pixels is scaled and cropped to %dx%d.", *picture.size, width, height)
    return ImageOps.fit(picture, (width, height), Image.Resampling.LANCZOS)


def to_tensor(picture: Image.Image) -> torch.Tensor:
    """An RGB picture as values (1, 3, height, width) in 0..1."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255
