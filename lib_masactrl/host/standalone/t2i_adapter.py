"""A T2I-Adapter on the standalone host: layout guidance from a control picture, weighted row by row.

T2I-Adapter (Mou et al., arXiv 2302.08453) turns a picture into four feature maps, each added to what one level of the
U-Net's encoder passes on. The network is diffusers' own; the file is in the layout of the authors' repository.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from diffusers import T2IAdapter
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from lib_masactrl.errors import UnsupportedModelError

#: Residual blocks per level, side of the pixel blocks that become channels, and encoder blocks per U-Net level.
_RESNETS, _DOWNSCALE, _BLOCKS_PER_LEVEL = 2, 8, 3


def new_adapter(widths: Sequence[int], picture_channels: int = 1) -> T2IAdapter:
    """A freshly initialised adapter whose level ``i`` has ``widths[i]`` channels, as the U-Net's level has."""
    return T2IAdapter(picture_channels, list(widths), _RESNETS, _DOWNSCALE, "full_adapter")


def load_adapter(path: Path) -> T2IAdapter:
    """The adapter in a ``.safetensors`` file of the original layout (``conv_in``, ``body.0`` to ``body.7``).

    Raises:
        UnsupportedModelError: the file is missing, unreadable or something else.
    """
    try:
        tensors = load_file(path)
        ours = {_diffusers_name(name): value.float() for name, value in tensors.items()}
        widths = [tensors[f"body.{_RESNETS * level}.block2.weight"].shape[0] for level in range(4)]
        adapter = new_adapter(widths, tensors["conv_in.weight"].shape[1] // _DOWNSCALE**2)
        adapter.load_state_dict(ours)
    except (OSError, SafetensorError, KeyError, RuntimeError) as error:
        raise UnsupportedModelError(
            f"{path} is no T2I-Adapter for Stable Diffusion 1.x in the original layout "
            f"({type(error).__name__}: {str(error)[:200]}); give such a .safetensors file, or a ControlNet's."
        ) from error
    return adapter.eval().requires_grad_(False)


def original_state(adapter: T2IAdapter) -> dict[str, Tensor]:
    """The adapter's weights under the names of the original layout; what :func:`load_adapter` reads."""
    return {_original_name(name): value for name, value in adapter.state_dict().items()}


def check_fits(adapter: T2IAdapter, unet: nn.Module, path: Path) -> None:
    """The adapter's levels are as wide as the U-Net's.

    Raises:
        UnsupportedModelError: they are not.
    """
    network: Any = unet
    wanted = [network.model_channels * multiple for multiple in network.channel_mult]
    if list(adapter.config.channels) != wanted:
        raise UnsupportedModelError(
            f"The levels of {path.name} are {list(adapter.config.channels)} channels wide, those of the checkpoint's "
            f"U-Net {wanted}; give an adapter that was trained for this kind of checkpoint."
        )


@contextmanager
def features_added(unet: nn.Module, features: Sequence[Tensor]) -> Iterator[None]:
    """Inside the block every call of ``unet`` adds ``features[i]`` (rows, channels, h, w) at encoder level ``i``."""
    with ExitStack() as stack:
        for level, feature in enumerate(features):
            last = _BLOCKS_PER_LEVEL * (level + 1) - 1
            block = unet.get_submodule(f"input_blocks.{last}")
            stack.callback(block.register_forward_hook(_adding(feature)).remove)
        yield


def _adding(feature: Tensor) -> Any:
    def add(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return output + feature.to(output.dtype)

    return add


def _diffusers_name(original: str) -> str:
    """``body.5.block1.weight`` is the second residual block of level 2: ``adapter.body.2.resnets.1.block1.weight``."""
    found = re.fullmatch(r"body\.(\d+)\.(block\d|in_conv)\.(\w+)", original)
    if not found:
        return f"adapter.{original}"
    level, block = divmod(int(found[1]), _RESNETS)
    inner = found[2] if found[2] == "in_conv" else f"resnets.{block}.{found[2]}"
    return f"adapter.body.{level}.{inner}.{found[3]}"


def _original_name(diffusers_name: str) -> str:
    name = diffusers_name.removeprefix("adapter.")
    name = re.sub(r"body\.(\d+)\.in_conv", lambda m: f"body.{_RESNETS * int(m[1])}.in_conv", name)
    return re.sub(r"body\.(\d+)\.resnets\.(\d+)", lambda m: f"body.{_RESNETS * int(m[1]) + int(m[2])}", name)
