"""Joint training of the U-Net (SD 1's topology at a small width) and the text encoder."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ldm.modules.diffusionmodules.openaimodel import UNetModel
from torch import Tensor, nn

from bench.training.schedule import TIMESTEPS, schedule_buffers
from bench.training.text import TEXT_WIDTH, build_text_encoder, encode_text, tokenize
from bench.training.timed import Clock, learning_rate, load_snapshot, save_snapshot, set_learning_rate

log = logging.getLogger(__name__)

UNET_CONFIG: dict[str, Any] = {
    "image_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 64,
    "attention_resolutions": [4, 2, 1],
    "num_res_blocks": 2,
    "channel_mult": [1, 1, 1, 1],  # four levels, as SD 1 has: 16 transformer blocks
    "num_heads": 4,
    "use_spatial_transformer": True,
    "transformer_depth": 1,
    "context_dim": TEXT_WIDTH,
    "use_checkpoint": False,
    "legacy": False,
}
SNR_LIMIT = 5.0


Caption = Callable[[int, np.random.Generator], str]


@dataclass(frozen=True)
class Examples:
    """A data set as latents, and how a batch of it is made.

    Attributes:
        latents: float16 (count, 4, h, w).
        layouts: their layouts' numbers, (count,).
        caption: a random training caption for a layout's number.
    """

    latents: Path
    layouts: Path
    caption: Caption
    batch: int


@dataclass(frozen=True)
class UnetRun:
    """What a training run needs to know.

    Attributes:
        snapshot: where the run is kept.
        examples: a batch of each in turn.
        captions: every caption that the examples may have.
        begin_from: another run's snapshot, whose averaged weights this one begins with.
    """

    snapshot: Path
    examples: tuple[Examples, ...]
    captions: tuple[str, ...]
    minutes: float = 70.0
    rate: float = 1.2e-3
    ema: float = 0.999
    seed: int = 1
    begin_from: Path | None = None


class Painter(nn.Module):
    """U-Net and text encoder in one module, so that optimiser and averages hold both."""

    def __init__(self) -> None:
        super().__init__()
        self.unet = UNetModel(**UNET_CONFIG)
        self.text = build_text_encoder()

    def forward(self, noisy: Tensor, steps: Tensor, ids: Tensor, chosen: Tensor) -> Tensor:
        """Predicted noise (n, 4, h, w); `ids` (m, 77) are the distinct captions, `chosen` (n,) picks one per row."""
        predicted: Tensor = self.unet(noisy, steps, context=encode_text(self.text, ids)[chosen])
        return predicted


class Training:
    """Everything that changes during a run and lies in its snapshot."""

    def __init__(self, run: UnetRun) -> None:
        torch.manual_seed(run.seed)
        self.run = run
        self.model = average_weights(run.begin_from).train() if run.begin_from else Painter()
        self.average = {key: value.detach().clone() for key, value in self.model.named_parameters()}
        self.optimizer = torch.optim.AdamW(_groups(self.model), lr=run.rate, betas=(0.9, 0.99), fused=True)
        self.rng = np.random.default_rng(run.seed)
        self.clock, self.step = Clock(run.minutes), 0
        if state := load_snapshot(run.snapshot):
            self.model.load_state_dict(state["model"])
            self.average = state["average"]
            self.optimizer.load_state_dict(state["optimizer"])
            self.rng.bit_generator.state = state["numpy_rng"]
            self.clock, self.step = Clock(run.minutes, spent=state["seconds"]), state["step"]

    def save(self) -> None:
        """Write the snapshot."""
        state = {
            "model": self.model.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "numpy_rng": self.rng.bit_generator.state,
            "step": self.step,
            "seconds": self.clock.seconds,
        }
        save_snapshot(self.run.snapshot, state)

    @torch.no_grad()
    def update_average(self) -> None:
        """Exponential moving average of the weights, short at first so that early snapshots are of use."""
        decay = min(self.run.ema, (1 + self.step) / (10 + self.step))
        parameters = dict(self.model.named_parameters())
        torch._foreach_lerp_([self.average[key] for key in parameters], list(parameters.values()), 1 - decay)


def _groups(model: nn.Module) -> list[dict[str, Any]]:
    """Weight decay for matrices only."""
    matrices = [value for value in model.parameters() if value.ndim > 1]
    others = [value for value in model.parameters() if value.ndim <= 1]
    return [{"params": matrices, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]


def average_weights(snapshot: Path) -> Painter:
    """The model of a snapshot with its averaged weights."""
    painter = Painter().eval()
    painter.load_state_dict(torch.load(snapshot, weights_only=False)["average"], strict=False)
    return painter


def train_unet(run: UnetRun) -> None:
    """Train until the time is over; goes on from the snapshot if there is one."""
    training = Training(run)
    data = [(torch.from_numpy(np.load(each.latents)), np.load(each.layouts)) for each in run.examples]
    ids, alphas = tokenize(list(run.captions)), schedule_buffers()["alphas_cumprod"]
    order = {caption: index for index, caption in enumerate(run.captions)}
    losses: list[float] = []
    while training.clock.progress < 1:
        set_learning_rate(training.optimizer, learning_rate(run.rate, training.clock.progress, training.step))
        turn = training.step % len(data)
        (latents, layouts), examples = data[turn], run.examples[turn]
        rows = training.rng.integers(len(latents), size=examples.batch)
        chosen = torch.tensor([order[examples.caption(number, training.rng)] for number in layouts[rows]])
        used, chosen = chosen.unique(return_inverse=True)  # encode each caption of the batch once
        losses.append(_train_step(training, latents[rows].float(), (ids[used], chosen), alphas))
        training.step += 1
        if training.step % 25 == 0:
            minutes = training.clock.seconds / 60
            log.info("step %d, %.1f min, loss %.4f", training.step, minutes, np.mean(losses))
            losses = []
        if training.step % 100 == 0:
            training.save()
    training.save()


def _train_step(training: Training, clean: Tensor, captions: tuple[Tensor, Tensor], alphas: Tensor) -> float:
    """One update; returns the unweighted mean squared error of the predicted noise."""
    count = len(clean)
    # Stratified timesteps: every batch covers the whole schedule, which calms the loss.
    steps = ((torch.arange(count) + torch.rand(count)) / count * TIMESTEPS).long()
    alpha = alphas[steps][:, None, None, None]
    noise = torch.randn_like(clean)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        predicted = training.model(alpha.sqrt() * clean + (1 - alpha).sqrt() * noise, steps, *captions)
    error = (predicted.float() - noise).square().mean(dim=(1, 2, 3))
    snr = (alpha / (1 - alpha)).flatten()
    # Min-SNR: without it nearly all of the gradient is about detail that the latent noise drowns anyway.
    loss = (error * snr.clamp(max=SNR_LIMIT) / snr).mean()
    training.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(training.model.parameters(), 1.0)
    training.optimizer.step()
    training.update_average()
    return error.mean().item()
