"""Reading an exported checkpoint back: the very files that a host gets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from bench.training.text import encode_text, load_text_state, tokenize
from bench.training.unet import Painter
from bench.training.vae import LATENT_SCALE, Autoencoder

_PARTS = {
    "unet": "model.diffusion_model.",
    "autoencoder": "first_stage_model.",
    "text": "cond_stage_model.transformer.",
}


@dataclass
class Checkpoint:
    """The models of one checkpoint folder, float32, in evaluation mode."""

    painter: Painter
    autoencoder: Autoencoder
    tokenizer: Path

    @property
    def unet(self) -> nn.Module:
        """The U-Net: (latents, timesteps, context=...) -> noise."""
        unet: nn.Module = self.painter.unet
        return unet

    @torch.no_grad()
    def context(self, captions: list[str]) -> Tensor:
        """Text context (n, 77, width)."""
        return encode_text(self.painter.text, tokenize(captions, self.tokenizer))

    @torch.no_grad()
    def pictures(self, latents: Tensor) -> Tensor:
        """Unit latents (n, 4, h, w) -> uint8 pictures (n, 8h, 8w, 3)."""
        decoded = self.autoencoder.decode(latents / LATENT_SCALE)
        return ((decoded.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)


def load_checkpoint(folder: Path) -> Checkpoint:
    """The checkpoint in `folder`, as `export` wrote it."""
    state = load_file(folder / "creatures.safetensors")
    parts = {
        part: {key.removeprefix(prefix): value.float() for key, value in state.items() if key.startswith(prefix)}
        for part, prefix in _PARTS.items()
    }
    painter, autoencoder = Painter().eval(), Autoencoder().eval()
    painter.unet.load_state_dict(parts["unet"])
    load_text_state(painter.text, parts["text"])
    autoencoder.load_state_dict(parts["autoencoder"])
    return Checkpoint(painter.requires_grad_(False), autoencoder.requires_grad_(False), folder / "tokenizer")
