"""Pictures of more than eight bits, which Pillow clips to white where it should scale them."""

from __future__ import annotations

import numpy as np
from PIL import Image


def in_eight_bits(picture: Image.Image) -> Image.Image:
    """A grey picture of 16 bits with its values scaled to 8; any other as it is.

    Its mode is ``I;16`` or, from a PNG and an older Pillow, ``I``.
    """
    if not picture.mode.startswith("I"):
        return picture
    values = np.asarray(picture).astype(np.int64).clip(0, 65535)
    return Image.fromarray((values / 257).round().astype(np.uint8))
