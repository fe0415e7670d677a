"""The autoencoder: SD 1's AutoencoderKL at a small width, 8 times smaller latents of 4 channels."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ldm.modules.diffusionmodules.model import Decoder, Encoder
from torch import Tensor, nn
from torch.nn import functional as F

from bench.training.timed import Clock, learning_rate, load_snapshot, save_snapshot, set_learning_rate

log = logging.getLogger(__name__)

LATENT_SCALE = 0.18215
DDCONFIG: dict[str, Any] = {
    "double_z": True,
    "z_channels": 4,
    "resolution": 64,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 64,  # ldm's GroupNorm has 32 groups: fewer channels would make it an instance norm and erase colours
    "ch_mult": [1, 1, 1, 1],
    "num_res_blocks": 0,
    "attn_resolutions": [],
    "dropout": 0.0,
}
LATENT_NOISE = 0.08
"""Deviation of the noise on unit latents in training; it keeps the decoder calm about the U-Net's small errors."""

FIXED_LOGVAR = -30.0
"""The lowest log variance that ldm lets through: the posterior is then deterministic."""


class Autoencoder(nn.Module):
    """Encoder and decoder under the names of SD 1's `first_stage_model`; no sampling of the posterior."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder(**DDCONFIG)
        self.decoder = Decoder(**DDCONFIG)
        self.quant_conv = nn.Conv2d(8, 8, 1)
        self.post_quant_conv = nn.Conv2d(4, 4, 1)

    def encode(self, pictures: Tensor) -> Tensor:
        """(n, 3, h, w) in -1..1 -> posterior mean (n, 4, h/8, w/8)."""
        mean: Tensor = self.quant_conv(self.encoder(pictures))[:, :4]
        return mean

    def decode(self, latents: Tensor) -> Tensor:
        """(n, 4, h, w) -> (n, 3, 8h, 8w), about -1..1."""
        decoded: Tensor = self.decoder(self.post_quant_conv(latents))
        return decoded


@dataclass(frozen=True)
class VaeRun:
    """What a training run needs to know.

    Attributes:
        data: data sets, a batch of each in turn.
        begin_from: another run's snapshot, whose weights this one begins with.
    """

    data: tuple[Path, ...]
    snapshot: Path
    minutes: float = 28.0
    batch: int = 16
    rate: float = 1.5e-3
    seed: int = 0
    begin_from: Path | None = None


def to_tensor(pictures: np.ndarray) -> Tensor:
    """uint8 (n, h, w, 3) -> float (n, 3, h, w) in -1..1."""
    return torch.from_numpy(np.array(pictures)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0).contiguous()


def reconstruction_loss(decoded: Tensor, pictures: Tensor) -> Tensor:
    """L1 + MSE + L1 of the horizontal and vertical differences; the last one sharpens edges."""
    error = decoded - pictures
    gradient = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return error.abs().mean() + error.square().mean() + 0.5 * gradient


def moment_loss(mean: Tensor) -> Tensor:
    """Pull each latent channel to zero mean and unit deviation, so that LATENT_NOISE has a meaning."""
    centre, spread = mean.mean(dim=(0, 2, 3)), mean.std(dim=(0, 2, 3))
    return (centre.square() + (spread - 1).square()).mean()


def train_vae(run: VaeRun) -> None:
    """Train until the time is over; goes on from the snapshot if there is one."""
    torch.manual_seed(run.seed)
    model = Autoencoder()
    if run.begin_from:
        model.load_state_dict(torch.load(run.begin_from, weights_only=False)["model"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=run.rate, betas=(0.9, 0.99), weight_decay=1e-4)
    clock, step = Clock(run.minutes), 0
    if state := load_snapshot(run.snapshot):
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        clock, step = Clock(run.minutes, spent=state["seconds"]), state["step"]
    data = [np.load(folder / "pictures.npy", mmap_mode="r") for folder in run.data]
    squared = 0.0
    while clock.progress < 1:
        set_learning_rate(optimizer, learning_rate(run.rate, clock.progress, step))
        squared += _train_step(model, optimizer, data[step % len(data)], run.batch)
        step += 1
        if step % 50 == 0:
            psnr = 10 * np.log10(4 * 50 / squared)
            log.info(
                "step %d, %.1f min, %.2f dB, %.1f pictures/s",
                step,
                clock.seconds / 60,
                psnr,
                step * run.batch / clock.seconds,
            )
            squared = 0.0
        if step % 200 == 0:
            _save(run, model, optimizer, clock, step)
    _save(run, model, optimizer, clock, step)


def _train_step(model: Autoencoder, optimizer: torch.optim.Optimizer, data: np.ndarray, batch: int) -> float:
    """One update; returns the mean squared error of the batch (pictures in -1..1)."""
    pictures = to_tensor(data[np.sort(torch.randint(len(data), (batch,)).numpy())])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mean = model.encode(pictures).float()
        decoded = model.decode(mean + LATENT_NOISE * torch.randn_like(mean)).float()
    loss = reconstruction_loss(decoded, pictures) + 0.1 * moment_loss(mean)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return F.mse_loss(decoded.detach(), pictures).item()


def _save(run: VaeRun, model: nn.Module, optimizer: torch.optim.Optimizer, clock: Clock, step: int) -> None:
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step, "seconds": clock.seconds}
    save_snapshot(run.snapshot, state)


@torch.no_grad()
def heldout_psnr(model: Autoencoder, data: Path, count: int = 256) -> float:
    """Mean over the pictures of their PSNR in dB (peak 255), without latent noise."""
    pictures = to_tensor(np.load(data / "pictures.npy", mmap_mode="r")[:count])
    errors = []
    for part in pictures.split(32):
        decoded = model.decode(model.encode(part)).clamp(-1, 1)
        errors.append((decoded - part).square().mean(dim=(1, 2, 3)) / 4)
    return float((-10 * torch.cat(errors).log10()).mean())


@torch.no_grad()
def fold_scale(model: Autoencoder, data: Path, count: int = 2048) -> None:
    """Rescale in place so that latents times 0.18215 have zero mean and unit deviation per channel."""
    pictures = np.load(data / "pictures.npy", mmap_mode="r")
    means = torch.cat([model.encode(to_tensor(pictures[i : i + 64])) for i in range(0, count, 64)])
    centre, spread = means.mean(dim=(0, 2, 3)), means.std(dim=(0, 2, 3))
    gain = 1 / (LATENT_SCALE * spread)
    quant, post = model.quant_conv, model.post_quant_conv
    quant.weight[:4] *= gain[:, None, None, None]
    quant.bias[:4] = (quant.bias[:4] - centre) * gain
    quant.weight[4:] = 0
    quant.bias[4:] = FIXED_LOGVAR
    post.bias += (post.weight[:, :, 0, 0] * centre).sum(dim=1)
    post.weight /= gain[None, :, None, None]
