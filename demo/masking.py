"""The demo's third sheet: mask-guided mutual self-attention, and the masks."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from PIL import Image

from bench.quality.measures import expected_mask
from bench.world import Layout
from demo.sheet import Column, Row, draw_sheet
from lib_masactrl.control import MutualSelfAttentionControl
from lib_masactrl.host.standalone.checkpoint import DiffusionModel
from lib_masactrl.host.standalone.pictures import to_pictures
from lib_masactrl.host.standalone.sampling import BranchPrompts, SamplingPlan, control_for, sample_latents
from lib_masactrl.masks import ForegroundMasks, dimmed
from lib_masactrl.settings import MasaCtrlSettings

log = logging.getLogger("demo")

SOURCE, TARGET = Layout("giraffe", "standing", "left"), Layout("giraffe", "jumping", "right")


def mask_sheet(
    model: DiffusionModel, settings: MasaCtrlSettings, plan: SamplingPlan, seeds: tuple[int, ...]
) -> Image.Image:
    """A sheet with one pair per seed under true masks and masks by words; the window is that of ``settings``."""
    wanted = settings.replace(source_prompt=SOURCE.caption)
    batch = BranchPrompts.of_settings(wanted, TARGET.caption, seeds)
    plain = control_for(model, wanted, plan.steps)
    silhouettes = {
        branch: torch.tensor(expected_mask(SOURCE if branch.is_source else TARGET, margin=0)).float()
        for branch in batch.branches
    }
    given = ForegroundMasks(silhouettes)
    by_words = control_for(model, wanted.replace(mask="words", source_words=SOURCE.species), plan.steps, batch)

    def painted(name: str, control: MutualSelfAttentionControl) -> tuple[list[Image.Image], list[Image.Image]]:
        log.info("%s:", name)
        decoded = model.decode(sample_latents(model, batch, plan, control, progress=True)).float().cpu()
        return to_pictures(decoded), _foregrounds(control.masks, batch, decoded)

    unmasked, _ = painted("Without masks", plain)
    masked, shown = painted("With given masks", MutualSelfAttentionControl(plain.window, plain.attention, given))
    _, found = painted("With masks by words", by_words)
    groups = len(seeds)  # targets first, sources last
    rows = [
        Row(
            f"seed\n{seed}",
            (masked[groups + i], shown[groups + i], unmasked[i], masked[i], shown[i], found[i]),
        )
        for i, seed in enumerate(seeds)
    ]
    return draw_sheet(
        rows,
        [
            Column("Source", SOURCE.caption),
            Column("Source's foreground, given"),
            Column("Target without masks", TARGET.caption),
            Column("Target, masks given", TARGET.caption),
            Column("Target's foreground, given"),
            Column(f"What “{SOURCE.species}” finds instead"),
        ],
    )


def _foregrounds(masks: ForegroundMasks | None, batch: BranchPrompts, decoded: torch.Tensor) -> list[Image.Image]:
    """Each picture with its background dimmed; black where nothing told the foreground."""
    found: Sequence[torch.Tensor | None] = [masks.of_result(branch) if masks else None for branch in batch.branches]
    nothing = torch.zeros(1, 1)
    return to_pictures(
        torch.stack([dimmed(picture, nothing if mask is None else mask) for picture, mask in zip(decoded, found)])
    )
