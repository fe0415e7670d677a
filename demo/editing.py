"""The demo's second sheet: pictures that no prompt made, edited."""

from __future__ import annotations

import logging

import numpy as np
from PIL import Image

from bench.world import Layout, random_scene, render
from demo.sheet import Column, Row, draw_sheet
from lib_masactrl.host.standalone.checkpoint import DiffusionModel
from lib_masactrl.host.standalone.editing import edit_picture
from lib_masactrl.host.standalone.pictures import to_pictures
from lib_masactrl.host.standalone.real_image import InversionPlan
from lib_masactrl.host.standalone.results import Run
from lib_masactrl.host.standalone.sampling import BranchPrompts, SamplingPlan, control_for
from lib_masactrl.settings import MasaCtrlSettings

log = logging.getLogger("demo")

#: Renders with this seed are in no training set; see ``bench/world``.
SEED = 20_230_417
PICTURED, WANTED = Layout("bird", "standing", "left"), Layout("bird", "jumping", "right")


def photographs(count: int, size: int) -> list[Image.Image]:
    """``count`` renders of one layout with different identities, ``size`` pixels on each side."""
    rng = np.random.default_rng(SEED)
    return [Image.fromarray(render(random_scene(PICTURED, rng), size)[0]) for _ in range(count)]


def edit_sheet(model: DiffusionModel, settings: MasaCtrlSettings, plan: SamplingPlan, rows: int) -> Image.Image:
    """A sheet with one edited picture per row; the window of control is that of ``settings``."""
    wanted = settings.replace(source="image", source_prompt=PICTURED.caption)
    inversion = InversionPlan(plan.sampler, plan.steps, wanted.source_prompt)
    batch = BranchPrompts.of_settings(wanted, WANTED.caption, (0,))

    def edited(picture: Image.Image, controlled: bool) -> list[Image.Image]:
        control = control_for(model, wanted, plan.steps) if controlled else None
        return to_pictures(edit_picture(Run(model, wanted, batch, plan, control), picture, inversion)[0])

    lines = []
    for number, picture in enumerate(photographs(rows, plan.width), start=1):
        log.info("Picture %d, without control and with it:", number)
        plain, _ = edited(picture, controlled=False)
        target, source = edited(picture, controlled=True)
        lines.append(Row(f"no. {number}", (picture, source, plain, target)))
    return draw_sheet(
        lines,
        [
            Column("Picture", None),
            Column("Source, inverted", PICTURED.caption),
            Column("Target without control", WANTED.caption),
            Column("Target with control", WANTED.caption),
        ],
    )
