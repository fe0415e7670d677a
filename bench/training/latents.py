"""The data set as latents, encoded once."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch

from bench.training.vae import LATENT_SCALE, Autoencoder, fold_scale, heldout_psnr, to_tensor

log = logging.getLogger(__name__)


@torch.no_grad()
def write_latents(work: Path, besides: Path | None = None) -> None:
    """Write `autoencoder.pt` (scale folded in) and `latents.npy`, float16 (count, 4, h/8, w/8), unit deviation.

    Args:
        besides: another data set, whose latents are written as `latents-besides.npy`.
    """
    model = Autoencoder().eval()
    model.load_state_dict(torch.load(work / "vae.pt", weights_only=False)["model"])
    log.info("held-out PSNR before folding: %.2f dB", heldout_psnr(model, work / "heldout"))
    fold_scale(model, work / "world")
    model.load_state_dict({key: value.half().float() for key, value in model.state_dict().items()})
    log.info("held-out PSNR folded, weights rounded to fp16: %.2f dB", heldout_psnr(model, work / "heldout"))
    torch.save(model.state_dict(), work / "autoencoder.pt")
    _encode(model, work / "world", work / "latents.npy")
    if besides:
        _encode(model, besides, work / "latents-besides.npy")


def _encode(model: Autoencoder, data: Path, path: Path) -> None:
    pictures = np.load(data / "pictures.npy", mmap_mode="r")
    parts = []
    for start in range(0, len(pictures), 64):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            latents = model.encode(to_tensor(pictures[start : start + 64]))
        parts.append((latents.float() * LATENT_SCALE).half().numpy())
    latents = np.concatenate(parts)
    np.save(path, latents)
    deviation = latents.astype(np.float32).std(axis=(0, 2, 3))
    log.info("%s: %s, deviation per channel %s", path.name, latents.shape, np.round(deviation, 3).tolist())
