"""Pictures from a checkpoint: DDIM with classifier-free guidance, and contact sheets to look at."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import DDIMScheduler
from PIL import Image
from torch import Tensor

from bench.training.load import Checkpoint
from bench.training.schedule import LINEAR_END, LINEAR_START, TIMESTEPS
from bench.world import all_layouts


def ddim_scheduler(steps: int) -> DDIMScheduler:
    """SD 1's scheduler settings."""
    scheduler = DDIMScheduler(
        num_train_timesteps=TIMESTEPS,
        beta_start=LINEAR_START,
        beta_end=LINEAR_END,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    scheduler.set_timesteps(steps)
    return scheduler


@torch.no_grad()
def sample(
    checkpoint: Checkpoint, captions: list[str], noise: Tensor, steps: int = 50, guidance: float = 7.5
) -> Tensor:
    """Unit latents (n, 4, h, w) for n captions from start noise of the same shape."""
    context = checkpoint.context([""] * len(captions) + captions)
    scheduler = ddim_scheduler(steps)
    latents = noise
    for timestep in scheduler.timesteps:
        both = torch.cat([latents, latents])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            predicted = checkpoint.unet(both, timestep.expand(len(both)), context=context).float()
        empty, prompted = predicted.chunk(2)
        latents = scheduler.step(empty + guidance * (prompted - empty), timestep, latents).prev_sample
    return latents


def save_grid(pictures: Tensor, columns: int, path: Path) -> None:
    """Write uint8 pictures (n, h, w, 3) as one PNG, row by row."""
    count, height, width, _ = pictures.shape
    rows = -(-count // columns)
    sheet = torch.zeros(rows * height, columns * width, 3, dtype=torch.uint8)
    for index, picture in enumerate(pictures):
        top, left = index // columns * height, index % columns * width
        sheet[top : top + height, left : left + width] = picture
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet.numpy()).save(path)


def sample_layouts(checkpoint: Checkpoint, per_layout: int, seed: int, guidance: float = 7.5) -> tuple[Tensor, Tensor]:
    """Pictures of every layout in turn, uint8 (n, h, w, 3), and the layouts' numbers (n,)."""
    layouts = all_layouts()
    numbers = torch.arange(len(layouts)).repeat(per_layout)
    noise = torch.randn(len(numbers), 4, 8, 8, generator=torch.Generator().manual_seed(seed))
    latents = [
        sample(checkpoint, [layouts[number].caption for number in part.tolist()], start, guidance=guidance)
        for part, start in zip(numbers.split(36), noise.split(36))
    ]
    return checkpoint.pictures(torch.cat(latents)), numbers
