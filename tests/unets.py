"""The real `ldm` U-Net in sizes for tests, and what control does to it."""

from __future__ import annotations

import torch
from ldm.modules.diffusionmodules.openaimodel import UNetModel
from torch import Tensor, nn

from lib_masactrl.branches import BatchLayout, Branch
from lib_masactrl.control import MutualSelfAttentionControl
from lib_masactrl.patching import attached

CONTEXT = 24


def small_unet(channels: int = 32, *, levels: int = 4, seed: int = 0) -> UNetModel:
    """A U-Net of SD 1's topology (16 self-attention layers with 4 levels) with random weights, nothing left at zero."""
    torch.manual_seed(seed)
    unet = UNetModel(
        image_size=8,
        in_channels=4,
        out_channels=4,
        model_channels=channels,
        attention_resolutions=[2**level for level in range(levels - 1)],
        num_res_blocks=2,
        channel_mult=(1,) * levels,
        num_heads=4,
        use_spatial_transformer=True,
        transformer_depth=1,
        context_dim=CONTEXT,
        use_checkpoint=False,
        legacy=False,
    )
    for parameter in unet.parameters():
        if parameter.abs().max() == 0:  # zero-initialised output convolutions would hide everything before them
            nn.init.normal_(parameter, std=0.05)
    return unet.eval()


def inputs(rows: int, height: int = 8, width: int = 8, seed: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Latents (rows, 4, height, width), timesteps (rows,) and a context (rows, 7, CONTEXT), all rows different."""
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(rows, 4, height, width, generator=generator),
        torch.full((rows,), 500),
        torch.randn(rows, 7, CONTEXT, generator=generator),
    )


def controlled(
    unet: nn.Module,
    control: MutualSelfAttentionControl,
    branches: tuple[Branch, ...],
    call: tuple[Tensor, Tensor, Tensor],
    step: int = 0,
) -> Tensor:
    """The U-Net's output for one call of ``branches`` under ``control``."""
    with torch.no_grad(), attached(unet, control):
        control.begin_call(BatchLayout.of_call(branches, call[0].shape[0]), step)
        output: Tensor = unet(call[0], call[1], context=call[2])
    return output


def plain(unet: nn.Module, call: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """The U-Net's own output."""
    with torch.no_grad():
        output: Tensor = unet(call[0], call[1], context=call[2])
    return output
