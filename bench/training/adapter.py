"""A T2I-Adapter for the world: the U-Net stays as it is and learns to be guided by a sketch of the creature."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from bench.training.load import Checkpoint, load_checkpoint
from bench.training.schedule import TIMESTEPS, schedule_buffers
from bench.training.timed import load_snapshot, save_snapshot, set_learning_rate
from bench.training.unet import SNR_LIMIT, UNET_CONFIG
from bench.world import all_captions, all_layouts, random_caption
from lib_masactrl.host.standalone.t2i_adapter import features_added, new_adapter, original_state

log = logging.getLogger(__name__)
NAME = "creatures-sketch"
WIDTHS = [UNET_CONFIG["model_channels"] * multiple for multiple in UNET_CONFIG["channel_mult"]]


@dataclass(frozen=True)
class AdapterRun:
    """What a run needs to know; `work` holds latents, masks and the snapshot `adapter.pt`."""

    work: Path
    checkpoint: Path
    steps: int = 1400
    batch: int = 96
    rate: float = 2e-3
    seed: int = 1


def sketch(masks: Tensor) -> Tensor:
    """Foreground masks (n, h, w) as control pictures (n, 1, h, w): the outline, one pixel wide, 1 on 0."""
    filled = masks[:, None].float()
    return filled + F.max_pool2d(-filled, 3, stride=1, padding=1)


def train_adapter(run: AdapterRun) -> None:
    """Train for a fixed number of steps; goes on from the snapshot if there is one."""
    torch.manual_seed(run.seed)
    rng = np.random.default_rng(run.seed)
    adapter = new_adapter(WIDTHS).train()
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=run.rate, weight_decay=0.01)
    step = 0
    if state := load_snapshot(run.work / "adapter.pt"):
        adapter.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        rng.bit_generator.state, step = state["numpy_rng"], state["step"]
    data = _Data(run, load_checkpoint(run.checkpoint))
    losses: list[float] = []
    while step < run.steps:
        warm = min(1.0, (step + 1) / 50)
        set_learning_rate(optimizer, run.rate * warm * 0.5 * (1 + math.cos(math.pi * step / run.steps)))
        loss = data.loss(adapter, rng)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(adapter.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        step += 1
        if step % 25 == 0:
            log.info("step %d, loss %.4f", step, np.mean(losses))
            losses = []
        if step % 100 == 0 or step == run.steps:
            weights = {"model": adapter.state_dict(), "optimizer": optimizer.state_dict()}
            numbers = {"numpy_rng": rng.bit_generator.state, "step": step, "seconds": 0.0}
            save_snapshot(run.work / "adapter.pt", weights | numbers)


class _Data:
    """Random batches of the world with their sketches, and the loss on one."""

    def __init__(self, run: AdapterRun, checkpoint: Checkpoint) -> None:
        self._batch = run.batch
        self._unet = checkpoint.unet
        self._contexts = dict(zip(all_captions(), checkpoint.context(all_captions())))
        self._latents = torch.from_numpy(np.load(run.work / "latents.npy"))
        self._layouts = np.load(run.work / "world" / "layouts.npy")
        self._masks = np.load(run.work / "world" / "masks.npy", mmap_mode="r")
        self._alphas = schedule_buffers()["alphas_cumprod"]

    def loss(self, adapter: nn.Module, rng: np.random.Generator) -> Tensor:
        """Min-SNR weighted squared error of the predicted noise on a random batch."""
        rows = rng.integers(len(self._latents), size=self._batch)
        # Half of the captions leave pose, place or everything open: then only the sketch can tell.
        layouts = [all_layouts()[number] for number in self._layouts[rows]]
        captions = [random_caption(layout, rng, empty=0.2, partial=0.4) for layout in layouts]
        context = torch.stack([self._contexts[caption] for caption in captions])
        steps = self._timesteps()
        alpha = self._alphas[steps][:, None, None, None]
        clean = self._latents[rows].float()
        noise = torch.randn_like(clean)
        features = adapter(sketch(torch.from_numpy(np.unpackbits(self._masks[rows], axis=-1))))
        with features_added(self._unet, features), torch.autocast("cpu", dtype=torch.bfloat16):
            predicted = self._unet(alpha.sqrt() * clean + (1 - alpha).sqrt() * noise, steps, context=context)
        snr = (alpha / (1 - alpha)).flatten()
        error = (predicted.float() - noise).square().mean(dim=(1, 2, 3))
        return (error * snr.clamp(max=SNR_LIMIT) / snr).mean()

    def _timesteps(self) -> Tensor:
        """Stratified, and cubic as in the paper (section 3.4): the layout is decided where there is much noise."""
        uniform = (torch.arange(self._batch) + torch.rand(self._batch)) / self._batch
        return ((1 - uniform**3) * TIMESTEPS).long().clamp(max=TIMESTEPS - 1)


def export_adapter(work: Path, out: Path) -> None:
    """Write `creatures-sketch.safetensors`, fp16, in the original layout."""
    adapter = new_adapter(WIDTHS)
    adapter.load_state_dict(torch.load(work / "adapter.pt", weights_only=False)["model"])
    file = out / f"{NAME}.safetensors"
    save_file({name: value.half().contiguous() for name, value in original_state(adapter).items()}, file)
    file.chmod(0o644)
    log.info("%s: %.2f MB", file, file.stat().st_size / 1e6)
