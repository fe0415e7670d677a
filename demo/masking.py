"""The demo's third sheet: two creatures change places, with and without masks."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from bench.quality.measures import expected_mask
from bench.world import Duet, Layout
from demo.sheet import Column, Row, draw_sheet
from lib_masactrl.control import MutualSelfAttentionControl
from lib_masactrl.host.standalone.checkpoint import load_checkpoint
from lib_masactrl.host.standalone.pictures import to_pictures
from lib_masactrl.host.standalone.sampling import BranchPrompts, SamplingPlan, control_for, sample_latents
from lib_masactrl.masks import ForegroundMasks, dimmed
from lib_masactrl.settings import MasaCtrlSettings

log = logging.getLogger("demo")

SUBJECT = "bird"
SOURCE = Duet(Layout(SUBJECT, "jumping", "left"), Layout("giraffe", "standing", "right"))
TARGET = Duet(Layout("giraffe", "standing", "left"), Layout(SUBJECT, "jumping", "right"))


def mask_sheet(
    checkpoint: Path, device: str | None, settings: MasaCtrlSettings, plan: SamplingPlan, seeds: tuple[int, ...]
) -> Image.Image:
    """A sheet with one pair per seed; the window is that of ``settings``, the pictures are those of ``plan``."""
    model = load_checkpoint(checkpoint, device)
    wanted = settings.replace(source_prompt=SOURCE.caption)
    batch = BranchPrompts.of_settings(wanted, TARGET.caption, seeds)
    plain = control_for(model, wanted, plan.steps)
    silhouettes = {
        branch: torch.tensor(expected_mask(SOURCE if branch.is_source else TARGET, SUBJECT, margin=0)).float()
        for branch in batch.branches
    }
    masked = MutualSelfAttentionControl(plain.window, plain.attention, ForegroundMasks(silhouettes))

    def painted(name: str, control: MutualSelfAttentionControl) -> tuple[list[Image.Image], list[Image.Image]]:
        log.info("%s:", name)
        decoded = model.decode(sample_latents(model, batch, plan, control, progress=True)).float().cpu()
        return to_pictures(decoded), _foregrounds(control.masks, batch, decoded)

    unmasked, _ = painted("Without masks", plain)
    pictures, shown = painted("With masks", masked)
    groups = len(seeds)  # targets first, sources last
    rows = [
        Row(f"seed\n{seed}", (pictures[groups + i], shown[groups + i], unmasked[i], pictures[i], shown[i]))
        for i, seed in enumerate(seeds)
    ]
    return draw_sheet(
        rows,
        [
            Column("Source", SOURCE.caption),
            Column("Source's foreground, given"),
            Column("Target without masks", TARGET.caption),
            Column("Target with masks", TARGET.caption),
            Column("Target's foreground, given"),
        ],
    )


def _foregrounds(masks: ForegroundMasks | None, batch: BranchPrompts, decoded: torch.Tensor) -> list[Image.Image]:
    """Each picture with its background dimmed; black where nothing told the foreground."""
    found: Sequence[torch.Tensor | None] = [masks.of_result(branch) if masks else None for branch in batch.branches]
    nothing = torch.zeros(1, 1)
    return to_pictures(
        torch.stack([dimmed(picture, nothing if mask is None else mask) for picture, mask in zip(decoded, found)])
    )
