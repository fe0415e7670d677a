"""Control models for the WebUI under test, of random weights: what is proved is which rows they reach."""

from __future__ import annotations

import itertools
import json
import struct
from pathlib import Path

import numpy
import safetensors

UNET = "model.diffusion_model."
#: What a ControlNet has in common with a U-Net.
ENCODER = ("time_embed.", "label_emb.", "input_blocks.", "middle_block.")


def write_tensors(tensors: dict[str, numpy.ndarray], file: Path) -> None:
    """A ``.safetensors`` file of float32 or float16 tensors."""
    header, offset = {}, 0
    for name, tensor in tensors.items():
        kind = {"float32": "F32", "float16": "F16"}[tensor.dtype.name]
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [offset, offset + tensor.nbytes]}
        offset += tensor.nbytes
    text = json.dumps(header).encode()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(t.tobytes() for t in tensors.values()))


class _Convolutions:
    """Adds the weights of convolutions to ``tensors``, drawn from one generator."""

    def __init__(self, tensors: dict[str, numpy.ndarray]) -> None:
        self._tensors = tensors
        self._random = numpy.random.default_rng(0)

    def __call__(self, name: str, into: int, out: int, side: int, strength: float = 1.0) -> None:
        scale = strength * (into * side * side) ** -0.5
        weight = self._random.normal(0, scale, (out, into, side, side))
        self._tensors[f"{name}.weight"] = weight.astype(numpy.float32)
        self._tensors[f"{name}.bias"] = numpy.zeros(out, numpy.float32)


def takes_controlnet(shapes: dict[str, list[int]]) -> bool:
    """Whether the ControlNet extension can build a ControlNet for this U-Net: it does so in SD 1.5's sizes alone."""
    outputs = [f"{UNET}input_blocks.{block}.0.out_layers.3.weight" for block in (2, 5, 8, 11)]
    return [shapes.get(name, [0])[0] for name in outputs] == [320, 640, 1280, 1280]


def write_adapter(shapes: dict[str, list[int]], file: Path) -> None:
    """A T2I-Adapter for one-channel pictures, in the original layout; none if this U-Net can take none.

    Hosts derive the widths of the levels from the first: c, 2c, 4c, 4c, as in Stable Diffusion 1, and know one for SDXL
    by the side of the pixel blocks that become channels: 16 instead of 8.

    Args:
        shapes: those of the checkpoint's tensors.
    """
    is_sdxl = f"{UNET}label_emb.0.0.weight" in shapes
    outputs = [f"{UNET}input_blocks.{block}.0.out_layers.3.weight" for block in (2, 5, 8, 8 if is_sdxl else 11)]
    widths = [shapes[name][0] for name in outputs if name in shapes]
    if widths != [widths[0] * factor for factor in (1, 2, 4, 4)]:
        return
    tensors: dict[str, numpy.ndarray] = {}
    convolution = _Convolutions(tensors)
    convolution("conv_in", 256 if is_sdxl else 64, widths[0], 3)
    for block in range(8):
        before, width = widths[max(0, (block - 1) // 2)], widths[block // 2]
        if before != width:
            convolution(f"body.{block}.in_conv", before, width, 1)
        convolution(f"body.{block}.block1", width, width, 3)
        convolution(f"body.{block}.block2", width, width, 1)
    write_tensors(tensors, file)


def write_controlnet(checkpoint: Path, file: Path) -> None:
    """A ControlNet for three-channel pictures: the encoder of the checkpoint's own U-Net, every output open."""
    tensors: dict[str, numpy.ndarray] = {}
    with safetensors.safe_open(checkpoint, framework="numpy") as given:
        for name in given.keys():  # noqa: SIM118  # no mapping
            if name.startswith(tuple(UNET + part for part in ENCODER)):
                tensors[name.removeprefix(UNET)] = given.get_tensor(name)
    widths = [len(tensors["input_blocks.0.0.bias"])]
    for block in range(1, 12 if "input_blocks.11.0.in_layers.0.bias" in tensors else 9):  # SDXL has nine
        last = "op" if f"input_blocks.{block}.0.op.bias" in tensors else "out_layers.3"
        widths.append(len(tensors[f"input_blocks.{block}.0.{last}.bias"]))
    _open(tensors, widths)
    write_tensors(tensors, file)


def write_sdxl_controlnet(depth: int, file: Path) -> None:
    """A ControlNet for SDXL of which the ControlNet extension draws most weights itself: the file leaves them out.

    Args:
        depth: transformer blocks at its deepest level: 0, 1 or 10, by which the extension tells its three sizes.
    """
    tensors = {"label_emb.0.0.bias": numpy.zeros(1280, numpy.float32)}
    for transformer in range(depth):
        name = f"input_blocks.8.1.transformer_blocks.{transformer}.norm3.weight"
        tensors[name] = numpy.ones(1280, numpy.float32)
    _open(tensors, [*[320] * 4, *[640] * 3, *[1280] * 2])
    write_tensors(tensors, file)


def _open(tensors: dict[str, numpy.ndarray], widths: list[int]) -> None:
    """Add a ControlNet's layers for the picture, and its outputs: one for each block, ``widths`` wide."""
    convolution = _Convolutions(tensors)
    for block, width in enumerate(widths):
        convolution(f"zero_convs.{block}.0", width, width, 1, 0.05)
    convolution("middle_block_out.0", widths[-1], widths[-1], 1, 0.05)
    hint = (3, 16, 16, 32, 32, 96, 96, 256, widths[0])
    for layer, (into, out) in enumerate(itertools.pairwise(hint)):
        convolution(f"input_hint_block.{2 * layer}", into, out, 3)


def write_ip_adapter(shapes: dict[str, list[int]], file: Path, picture_width: int = 8) -> None:
    """An IP-Adapter that takes a picture's embedding of ``picture_width`` numbers, four tokens for it; for SD 1."""
    inner = "1.transformer_blocks.0.attn2.to_k.weight"
    blocks = [*(f"input_blocks.{n}." for n in (1, 2, 4, 5, 7, 8)), *(f"output_blocks.{n}." for n in range(3, 12))]
    if f"{UNET}{blocks[0]}{inner}" not in shapes:  # SDXL has other blocks
        return
    sizes = [shapes[UNET + block + inner] for block in (*blocks, "middle_block.")]
    context, random = sizes[0][1], numpy.random.default_rng(0)
    tensors = {
        "image_proj.proj.weight": random.normal(size=(4 * context, picture_width)),
        "image_proj.proj.bias": numpy.zeros(4 * context),
        "image_proj.norm.weight": numpy.ones(context),
        "image_proj.norm.bias": numpy.zeros(context),
    }
    for number, (out, into) in enumerate(sizes):
        for part in ("to_k_ip", "to_v_ip"):
            tensors[f"ip_adapter.{2 * number + 1}.{part}.weight"] = random.normal(0, into**-0.5, (out, into))
    write_tensors({name: tensor.astype(numpy.float32) for name, tensor in tensors.items()}, file)


def write_lllite(shapes: dict[str, list[int]], file: Path) -> None:
    """A ControlNet-LLLite on the query and the value of the last self-attention layer, at the latent's own size."""
    layer = "output_blocks.{}.1.transformer_blocks.0.attn1"
    block = next(number for number in (11, 5) if f"{UNET}{layer.format(number)}.to_q.weight" in shapes)
    width = shapes[f"{UNET}{layer.format(block)}.to_q.weight"][1]
    tensors: dict[str, numpy.ndarray] = {}
    convolution, random = _Convolutions(tensors), numpy.random.default_rng(0)
    for part in ("to_q", "to_v"):
        name = f"lllite_unet_{layer.format(block).replace('.', '_')}_{part}"
        convolution(f"{name}.conditioning1.0", 3, 16, 4)
        convolution(f"{name}.conditioning1.2", 16, 32, 2)
        for linear, (into, out) in {"down.0": (width, 16), "mid.0": (16 + 32, 16), "up.0": (16, width)}.items():
            tensors[f"{name}.{linear}.weight"] = random.normal(0, 2 * into**-0.5, (out, into)).astype(numpy.float32)
            tensors[f"{name}.{linear}.bias"] = numpy.zeros(out, numpy.float32)
    write_tensors(tensors, file)
