"""Control models for the WebUI under test, of random weights: what is proved is which rows they reach."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy

UNET = "model.diffusion_model."


def write_tensors(tensors: dict[str, numpy.ndarray], file: Path) -> None:
    """A ``.safetensors`` file of float32 tensors."""
    header, offset = {}, 0
    for name, tensor in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [offset, offset + tensor.nbytes]}
        offset += tensor.nbytes
    text = json.dumps(header).encode()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(t.tobytes() for t in tensors.values()))


def write_adapter(shapes: dict[str, list[int]], file: Path) -> None:
    """A T2I-Adapter for one-channel pictures, in the original layout; none if this U-Net can take none.

    Hosts derive the widths of the levels from the first: c, 2c, 4c, 4c, as in Stable Diffusion 1.

    Args:
        shapes: those of the checkpoint's tensors.
    """
    widths = [shapes[f"{UNET}input_blocks.{block}.0.out_layers.3.weight"][0] for block in (2, 5, 8, 11)]
    if widths != [widths[0] * factor for factor in (1, 2, 4, 4)]:
        return
    random = numpy.random.default_rng(0)
    tensors: dict[str, numpy.ndarray] = {}

    def convolution(name: str, into: int, out: int, side: int) -> None:
        scale = (into * side * side) ** -0.5
        tensors[f"{name}.weight"] = random.normal(0, scale, (out, into, side, side)).astype(numpy.float32)
        tensors[f"{name}.bias"] = numpy.zeros(out, numpy.float32)

    convolution("conv_in", 64, widths[0], 3)
    for block in range(8):
        before, width = widths[max(0, (block - 1) // 2)], widths[block // 2]
        if before != width:
            convolution(f"body.{block}.in_conv", before, width, 1)
        convolution(f"body.{block}.block1", width, width, 3)
        convolution(f"body.{block}.block2", width, width, 1)
    write_tensors(tensors, file)
