"""The attention layers of a U-Net in forward order, and the token grid each of them works on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from lib_masactrl.errors import BatchLayoutError, UnsupportedModelError


@dataclass(frozen=True)
class AttentionLayer:
    """One attention module of a U-Net.

    Attributes:
        index: zero-based position in forward order among the layers of its kind.
        name: qualified module name, e.g. ``output_blocks.6.1.transformer_blocks.0.attn1``.
        module: the host's own ``CrossAttention``.
    """

    index: int
    name: str
    module: nn.Module


def self_attention_layers(unet: nn.Module) -> tuple[AttentionLayer, ...]:
    """The self-attention layers (``attn1``) of a U-Net in forward order: 16 in SD 1 and SD 2, 70 in SDXL.

    Modules are registered in forward order (input, middle, output blocks) in `ldm`, `sgm` and the Forge family. A
    block with ``disable_self_attn`` runs its ``attn1`` on the prompt, so it holds no self-attention and is left out.

    Raises:
        UnsupportedModelError: the model has none (DiT models such as SD 3 and Flux).
    """
    return _numbered(unet, "attn1", [block for block in _transformer_blocks(unet) if not _is_cross_only(block[1])])


def cross_attention_layers(unet: nn.Module) -> tuple[AttentionLayer, ...]:
    """The cross-attention layers (``attn2``) of a U-Net in forward order.

    Raises:
        UnsupportedModelError: the model has none.
    """
    return _numbered(unet, "attn2", list(_transformer_blocks(unet)))


def token_grid(tokens: int, latent_height: int, latent_width: int) -> tuple[int, int]:
    """Rows and columns of the grid that ``tokens`` tokens form at some depth of the U-Net.

    Each downsampling is a convolution of stride 2 and padding 1, so a side of n becomes ceil(n / 2); the grid is the
    one on that ladder with the right number of cells. Works for every latent size, square or not.

    Raises:
        BatchLayoutError: no depth of the U-Net has that many tokens (token merging, tiling).

    >>> token_grid(35, latent_height=9, latent_width=13)
    (5, 7)
    """
    height, width = latent_height, latent_width
    while height * width > tokens and height * width > 1:
        height, width = (height + 1) // 2, (width + 1) // 2
    if height * width != tokens:
        raise BatchLayoutError(
            f"{tokens} tokens are no downsampling of a {latent_height}x{latent_width} latent. "
            "Token merging or tiling is active; switch it off."
        )
    return height, width


def _transformer_blocks(unet: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, module in unet.named_modules():
        if isinstance(getattr(module, "attn1", None), nn.Module) and isinstance(
            getattr(module, "attn2", None), nn.Module
        ):
            yield name, module


def _is_cross_only(block: nn.Module) -> bool:
    return bool(getattr(block, "disable_self_attn", False))


def _numbered(unet: nn.Module, kind: str, blocks: list[tuple[str, nn.Module]]) -> tuple[AttentionLayer, ...]:
    if not blocks:
        raise UnsupportedModelError(
            f"{type(unet).__name__} has no U-Net {'self' if kind == 'attn1' else 'cross'}-attention layers. "
            "It works on Stable Diffusion 1.x, 2.x and SDXL; load such a checkpoint or disable MasaCtrl."
        )
    return tuple(
        AttentionLayer(index, f"{name}.{kind}", getattr(block, kind)) for index, (name, block) in enumerate(blocks)
    )
