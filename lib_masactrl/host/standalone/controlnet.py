"""A ControlNet on the standalone host: layout guidance from a control picture, weighted row by row.

ControlNet (Zhang et al., arXiv 2302.05543) is a copy of the U-Net's encoder that sees the control picture too; its
outputs are added to what the encoder passes on to the decoder. Network and conversion are diffusers' own; the file is
in the layout of the authors' repository (``cldm``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import ControlNetModel
from diffusers.loaders.single_file_utils import convert_controlnet_checkpoint
from torch import Tensor, nn

from lib_masactrl.errors import UnsupportedModelError
from lib_masactrl.host.standalone.config import ModelConfig

#: The first convolution over the control picture, by which a ControlNet is known.
HINT = "input_hint_block.0.weight"
#: What precedes all names in files that hold the ControlNet together with its U-Net.
_PREFIX = "control_model."


def without_prefix(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a ControlNet alone, under the names that files of a ControlNet alone have."""
    inside = {name.removeprefix(_PREFIX): value for name, value in tensors.items() if name.startswith(_PREFIX)}
    return inside or dict(tensors)


def load_controlnet(path: Path, tensors: Mapping[str, Tensor], config: ModelConfig) -> ControlNetModel:
    """The ControlNet in the original layout with the sizes of the checkpoint's U-Net.

    Args:
        path: the file of ``tensors``, for messages.

    Raises:
        UnsupportedModelError: the tensors are not those of such a ControlNet.
    """
    unet = config.unet
    levels = range(len(unet["channel_mult"]))
    attending = [2**level in unet["attention_resolutions"] for level in levels]
    network = ControlNetModel(
        in_channels=unet["in_channels"],
        conditioning_channels=tensors[HINT].shape[1],
        block_out_channels=tuple(unet["model_channels"] * factor for factor in unet["channel_mult"]),
        down_block_types=tuple("CrossAttnDownBlock2D" if attends else "DownBlock2D" for attends in attending),
        layers_per_block=unet["num_res_blocks"],
        cross_attention_dim=unet["context_dim"],
        num_attention_heads=unet["num_heads"],
    )
    try:
        converted = convert_controlnet_checkpoint(tensors, network.config)
        network.load_state_dict({name: value.float() for name, value in converted.items()})
    except (AttributeError, KeyError, RuntimeError) as error:  # a tensor that is missing, or of another shape
        raise _refusal(path, f"{type(error).__name__}: {str(error)[:200]}") from error
    if len(converted) != len(tensors):
        raise _refusal(path, f"{len(tensors)} tensors, of which it has {len(converted)}")
    return network.eval().requires_grad_(False)


def _refusal(path: Path, why: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{path.name} is no ControlNet in the original layout for this kind of checkpoint ({why}); "
        "give one that was trained for it."
    )


@dataclass(frozen=True, eq=False)
class WeightedControlNet:
    """A ControlNet with its control pictures, and how strongly each guides each branch.

    Attributes:
        pictures: (pictures, channels, height, width) in 0..1.
        weights: (branches, pictures).
    """

    network: ControlNetModel
    pictures: Tensor
    weights: Tensor

    def residuals(self, x: Tensor, timesteps: Tensor, context: Tensor) -> list[Tensor]:
        """What is added for each row of one U-Net call: one tensor per block of the encoder, and the middle's last.

        A row is evaluated once per picture that guides it, and a row that none guides never.

        Args:
            x: latents (rows, channels, h, w), whose rows are the branches, pass after pass.
        """
        weights = self.weights.to(x.device).repeat(len(x) // len(self.weights), 1)
        total: list[Tensor] = []
        for picture, weight in zip(self.pictures.to(x.device), weights.T):
            rows = weight.nonzero()[:, 0]
            if not len(rows):
                continue
            hint = picture.expand(len(rows), *picture.shape)
            down, middle = self.network(x[rows], timesteps[rows], context[rows], hint, return_dict=False)
            total = total or [each.new_zeros(len(x), *each.shape[1:]) for each in (*down, middle)]
            for sum_of_pictures, each in zip(total, (*down, middle)):
                sum_of_pictures.index_add_(0, rows, each * weight[rows].view(-1, 1, 1, 1).to(each.dtype))
        return total


@contextmanager
def residuals_added(unet: nn.Module, controlnets: Sequence[WeightedControlNet]) -> Iterator[None]:
    """Inside the block every call of ``unet(x, timesteps, context=...)`` adds what the ControlNets make of it."""
    residuals: list[Tensor] = []

    def evaluate(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x, timesteps = args
        each = [controlnet.residuals(x, timesteps, kwargs["context"]) for controlnet in controlnets]
        residuals[:] = [torch.stack(block).sum(dim=0) for block in zip(*filter(None, each))]

    def add_to_middle(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        return output + residuals[-1] if residuals else output

    def add_to_skip(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if not residuals:
            return None
        # ldm hands a block of the decoder what comes from below and, behind it, the latest skip connection not used.
        x, residual = args[0], residuals[blocks[module]]
        below, skip = x.split([x.shape[1] - residual.shape[1], residual.shape[1]], dim=1)
        return torch.cat([below, skip + residual], dim=1), *args[1:]

    if not controlnets:
        yield
        return
    decoder: Any = unet.get_submodule("output_blocks")
    blocks = {block: -2 - index for index, block in enumerate(decoder)}
    with ExitStack() as stack:
        stack.callback(unet.register_forward_pre_hook(evaluate, with_kwargs=True).remove)
        stack.callback(unet.get_submodule("middle_block").register_forward_hook(add_to_middle).remove)
        for block in decoder:
            stack.callback(block.register_forward_pre_hook(add_to_skip).remove)
        yield
