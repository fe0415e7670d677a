"""Make the demo picture: ``python run.py demo``, or ``python -m demo`` where the requirements are installed."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
from pathlib import Path

from PIL import Image

from demo.editing import edit_sheet
from demo.masking import mask_sheet
from demo.sheet import Column, Row, draw_sheet
from lib_masactrl.errors import MasaCtrlError, SettingsError
from lib_masactrl.host.standalone.checkpoint import DiffusionModel, load_checkpoint
from lib_masactrl.host.standalone.pictures import to_pictures
from lib_masactrl.host.standalone.sampling import BranchPrompts, SamplingPlan, control_for, sample_latents
from lib_masactrl.settings import MasaCtrlSettings

log = logging.getLogger("demo")

ROOT = Path(__file__).resolve().parent.parent
CHECKPOINT = ROOT / "demo" / "checkpoint" / "creatures.safetensors"
DUETS = CHECKPOINT.with_stem("duets")

WHAT_TO_LOOK_AT = """\
Each row is one seed. The captions say where the creature is and what it does, not what it looks like.
  left    the source picture
  middle  the target caption without control: the new pose, and a creature in other colours
  right   the target caption with mutual self-attention: the new pose, in the source's colours and pattern\
"""
WHAT_AN_EDIT_SHOWS = """\
Each row is a picture that the model has never seen, drawn by the world's own renderer, in the place of a photograph.
  1  the picture
  2  the source: inverted, and kept on its trajectory; what the autoencoder makes of the picture
  3  the target caption from the inverted noise, without control
  4  the target caption with mutual self-attention: the new pose, in the picture's colours and pattern\
"""
WHAT_MASKS_SHOW = """\
Each row is one seed: two creatures change places. With masks the bird sees the source's bird alone, and all else
sees all else; without, a creature also takes what the other one left in its place.
  1, 2  the source, and the foreground that is given: the bird's silhouette on the 16x8 cells of the latent
  3     the target without masks
  4, 5  the target with masks, and its foreground\
"""


def main(arguments: list[str] | None = None) -> int:
    """Make the picture; returns the exit status (0, or 2 for an argument that is not allowed)."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    options = _parser().parse_args(arguments)
    try:
        path, edit, masks = make_demo(options)
    except MasaCtrlError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(f"\nThe picture is {path}\n{WHAT_TO_LOOK_AT}\n")
    sys.stdout.write(f"\nReal pictures edited: {edit}\n{WHAT_AN_EDIT_SHOWS}\n")
    sys.stdout.write(f"\nForeground and background apart: {masks}\n{WHAT_MASKS_SHOW}\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python run.py demo", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT, help=".safetensors file, its .yaml beside it")
    parser.add_argument(
        "--duets", type=Path, default=DUETS, help="the third sheet's checkpoint, of pictures twice as wide"
    )
    parser.add_argument("--source-prompt", default="a cat standing on the left")
    parser.add_argument("--prompt", default="a cat jumping on the right")
    parser.add_argument("--sampler", default="DDIM")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--cfg-scale", type=float, default=7.5)
    parser.add_argument("--start-step", default=4, help="S; default: %(default)s")
    parser.add_argument("--start-layer", default=None, help="L; default: 10 of 16")
    parser.add_argument("--seed", type=int, default=1, help="of the first row; default: %(default)s")
    parser.add_argument("--rows", type=int, default=3, help="how many seeds; default: %(default)s")
    parser.add_argument("--size", type=int, default=64, help="pixels of each side; default: %(default)s")
    parser.add_argument("--device", help="cpu, cuda or cuda:N; default: CUDA where there is one")
    parser.add_argument("--output", type=Path, default=ROOT / "outputs" / "demo.png", help="default: %(default)s")
    return parser


def make_demo(options: argparse.Namespace) -> tuple[Path, Path, Path]:
    """Sample the pictures, write the three sheets, of prompts, of edits and of masks, and return their paths.

    Raises:
        MasaCtrlError: an option is not allowed, or the checkpoint cannot be loaded.
    """
    if not 1 <= options.rows <= 16:
        raise SettingsError(f"rows is {options.rows}, but it takes 1 to 16; correct rows.")
    if not 0 <= options.seed < 2**32:
        raise SettingsError(f"seed is {options.seed}, but it takes 0 to {2**32 - 1}; correct seed.")
    settings = MasaCtrlSettings(
        enabled=True,
        source_prompt=options.source_prompt,
        start_step=options.start_step,
        start_layer=options.start_layer,
    )
    plan = SamplingPlan(options.sampler, options.steps, options.cfg_scale, options.size, options.size)
    model = load_checkpoint(options.checkpoint, options.device)
    seeds = tuple(range(options.seed, options.seed + options.rows))
    rows = _sample(model, settings, plan, BranchPrompts.of_settings(settings, options.prompt, seeds))
    columns = [
        Column("Source", options.source_prompt),
        Column("Target without control", options.prompt),
        Column("Target with mutual self-attention", options.prompt),
    ]
    path = _write(draw_sheet(rows, columns), options.output)
    edit = _write(edit_sheet(model, settings, plan, options.rows), path.with_stem(f"{path.stem}-edit"))
    wide = dataclasses.replace(plan, width=2 * plan.width)
    sheet = mask_sheet(options.duets, options.device, settings, wide, seeds)
    masks = _write(sheet, path.with_stem(f"{path.stem}-masks"))
    return path, edit, masks


def _sample(model: DiffusionModel, settings: MasaCtrlSettings, plan: SamplingPlan, batch: BranchPrompts) -> list[Row]:
    """One row per seed. The same batch twice, so that nothing differs but control."""
    log.info("Without control:")
    plain = to_pictures(model.decode(sample_latents(model, batch, plan, progress=True)))
    log.info("With mutual self-attention:")
    control = control_for(model, settings, plan.steps)
    controlled = to_pictures(model.decode(sample_latents(model, batch, plan, control, progress=True)))
    groups = len(batch.seeds)  # targets first, sources last
    return [
        Row(f"seed\n{seed}", (controlled[groups + i], plain[i], controlled[i])) for i, seed in enumerate(batch.seeds)
    ]


def _write(sheet: Image.Image, path: Path) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(path, format="PNG")
    except OSError as error:
        raise SettingsError(f"output is {path}, which cannot be written ({error}); give another file.") from error
    return path


if __name__ == "__main__":
    sys.exit(main())
