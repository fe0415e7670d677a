"""Start step S and start layer L for how firmly the source is to be kept."""

from __future__ import annotations

from dataclasses import dataclass

from lib_masactrl.schedule import default_start_layer

#: The self-attention layers of a U-Net lie in an encoder, a middle and a decoder. For the two known counts of layers,
#: where the decoder begins, and where its last level does, which has the resolution of the latent image in SD 1 and 2
#: and half of it in SDXL.
_DECODER = {16: (7, 13), 70: (34, 64)}


@dataclass(frozen=True)
class Preset:
    """One choice of S and L, with what it is for."""

    name: str
    help: str
    start_step: int


#: Gentlest first.
PRESETS = (
    Preset("gentle", "From step 8, the decoder's last level: most of the new layout, colours and texture stay.", 8),
    Preset("paper", "From step 4, the layers of the paper: the default.", 4),
    Preset("strong", "From step 2, the whole decoder: most of the source stays.", 2),
)


def start_layer(preset: Preset, layers: int | None) -> int | None:
    """L for a U-Net with ``layers`` self-attention layers; ``None``, the automatic value, for an unknown U-Net.

    >>> [start_layer(preset, 16) for preset in PRESETS]
    [13, 10, 7]
    >>> [start_layer(preset, 70) for preset in PRESETS]
    [64, 44, 34]
    """
    if layers not in _DECODER:
        return None
    whole, last_level = _DECODER[layers]
    return {"gentle": last_level, "paper": default_start_layer(layers), "strong": whole}[preset.name]
