"""The command line of the standalone host: ``python -m lib_masactrl generate ...`` and ``... edit IMAGE ...``."""

from __future__ import annotations

import argparse
import logging
import secrets
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from lib_masactrl.errors import MasaCtrlError, SettingsError
from lib_masactrl.setting_kinds import FlagSetting, Setting
from lib_masactrl.settings import SETTINGS, MasaCtrlSettings
from lib_masactrl.version import VERSION

if TYPE_CHECKING:
    from torch import Tensor

# torch, ldm and diffusers take seconds to import: the functions below do so once the arguments have proved right.

#: Settings that are no flag of their own: the command says what enables control and where the source comes from,
#: --more-targets is repeatable, inversion takes the sampling steps, and every model that loads is controlled.
_NO_FLAG = ("enabled", "source", "more_targets", "inversion_steps", "allow_plain")

_MAXIMUM_SEED = 2**32 - 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status (0 done, 2 something given is not allowed, 130 interrupted)."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        options = _parser().parse_args(arguments)
        options.run(options)
    except MasaCtrlError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except ModuleNotFoundError as error:
        sys.stderr.write(
            f"The package {error.name} is not installed; run pip install -r requirements/demo.txt "
            "and then pip install --no-deps -r requirements/no-deps.txt.\n"
        )
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted.\n")
        return 130
    return 0


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as every other refusal of ours."""

    def error(self, message: str) -> NoReturn:
        raise SettingsError(f"{message} (see {self.prog} --help)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m lib_masactrl", description="MasaCtrl on a Stable Diffusion 1.x checkpoint.")
    parser.add_argument("--version", action="version", version=VERSION)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    generate = commands.add_parser("generate", help="make a source image and targets that keep its identity")
    _add_common(generate, of_picture=False)
    generate.add_argument("--seed", type=int, default=-1, help="-1, the default, draws one")
    generate.add_argument("--width", type=int, default=512, help="pixels; default: %(default)s")
    generate.add_argument("--height", type=int, default=512, help="pixels; default: %(default)s")
    generate.add_argument("--count", type=int, default=1, help="sources with their targets, seed after seed")
    generate.set_defaults(run=_generate)
    edit = commands.add_parser("edit", help="make targets that keep the identity of a picture of yours")
    edit.add_argument("image", type=Path, metavar="IMAGE", help="the picture; any size and format that Pillow reads")
    _add_common(edit, of_picture=True)
    edit.add_argument("--width", type=int, help="pixels; default: the picture's, 768 at most")
    edit.add_argument("--height", type=int, help="pixels; default: the picture's, 768 at most")
    edit.set_defaults(run=_edit)
    return parser


def _add_common(parser: argparse.ArgumentParser, of_picture: bool) -> None:
    parser.add_argument("--checkpoint", type=Path, required=True, help=".safetensors file with its .yaml beside it")
    parser.add_argument("--prompt", required=True, help="target prompt: the new pose, view or action")
    _add_settings(parser, of_picture)
    _add_sampling(parser)
    parser.add_argument("--mask-image", type=Path, help="white where the source's foreground is, for --mask painted")
    _add_control_pictures(parser)
    parser.add_argument("--device", help="cpu, cuda or cuda:N; default: CUDA where there is one")
    parser.add_argument("--half", action="store_true", help="U-Net in float16 (CUDA only)")
    parser.add_argument("--output", type=Path, default=Path("outputs"), help="folder; default: %(default)s")
    parser.add_argument("--without-control", action="store_true", help="the same batch as plain images")


def _add_settings(parser: argparse.ArgumentParser, of_picture: bool) -> None:
    group = parser.add_argument_group("control")
    for setting in SETTINGS:
        if setting.key in _NO_FLAG or (setting.picture_only and not of_picture):
            continue
        default = f"; default: {setting.default}" if setting.default not in (None, "") else ""
        help = (setting.help + default).replace("%", "%%")
        if isinstance(setting, FlagSetting):
            group.add_argument(_flag(setting), action=argparse.BooleanOptionalAction, help=help)
        else:
            required = setting.key == "source_prompt" and not of_picture
            choices = "|".join(getattr(setting, "choices", ())) or None
            group.add_argument(_flag(setting), metavar=choices, required=required, help=help)
    group.add_argument("--more-targets", action="append", help="a further target prompt; may be given several times")


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("sampling")
    group.add_argument("--negative-prompt", default="")
    group.add_argument("--sampler", default="DDIM", help="default: %(default)s")
    group.add_argument("--steps", type=int, default=50, help="default: %(default)s")
    group.add_argument("--cfg-scale", type=float, default=7.5, help="default: %(default)s")


def _add_control_pictures(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("control pictures")
    group.add_argument(
        "--control-image",
        type=Path,
        action="append",
        nargs="+",
        metavar="PICTURE",
        default=[],
        help="what a unit guides the layout with; given again for a second unit; several for --control-guides each",
    )
    group.add_argument(
        "--adapter",
        type=Path,
        action="append",
        default=[],
        help="T2I-Adapter or ControlNet of each unit in order, .safetensors in the original layout; "
        "the last for all further units",
    )


def _flag(setting: Setting) -> str:
    return f"--{setting.key.replace('_', '-')}"


def _settings(options: argparse.Namespace, enabled: bool, source: str) -> MasaCtrlSettings:
    given = [s for s in SETTINGS if s.key not in _NO_FLAG and getattr(options, s.key, None) is not None]
    values = {setting.key: getattr(options, setting.key) for setting in given}
    more = "\n".join(options.more_targets or ())
    settings = MasaCtrlSettings.from_mapping({**values, "more_targets": more, "enabled": enabled, "source": source})
    _check_effect([_flag(setting) for setting in given if not settings.acts(setting)], settings)
    if options.mask_image is not None and settings.mask != "painted":
        _check_effect(["--mask-image"], settings)
    _check_control_pictures(settings, options.control_image, options.adapter)
    return settings


def _check_effect(idle: list[str], settings: MasaCtrlSettings) -> None:
    """Each flag is there on purpose, so one that can do nothing is a mistake."""
    if idle:
        words = "" if settings.finds_words else " and no target words"
        raise SettingsError(
            f"{idle[0]} does nothing with mask {settings.mask!r}{words}; give the --mask that it belongs to, "
            f"or leave out {', '.join(idle)}."
        )


def _check_control_pictures(settings: MasaCtrlSettings, units: list[list[Path]], adapters: list[Path]) -> None:
    spoken_of = settings.control_guides != MasaCtrlSettings().control_guides
    if bool(units) != bool(adapters) or (spoken_of and not units):
        raise SettingsError(
            f"{len(units)} control images and {len(adapters)} adapters are given, with control_guides "
            f"{settings.control_guides!r}; --control-image and --adapter go together, and --control-guides with them."
        )
    settings.first_targets({number: len(pictures) for number, pictures in enumerate(units)})


def _seeds(options: argparse.Namespace) -> range:
    if not 1 <= options.count <= 1000:
        raise SettingsError(f"count is {options.count}, but it takes 1 to 1000; correct count.")
    if not -1 <= options.seed <= _MAXIMUM_SEED:
        raise SettingsError(f"seed is {options.seed}, but it takes -1 to {_MAXIMUM_SEED}; correct seed.")
    first = secrets.randbelow(_MAXIMUM_SEED) if options.seed == -1 else options.seed
    return range(first, first + options.count)


def _generate(options: argparse.Namespace) -> None:
    settings, seeds = _settings(options, enabled=True, source="prompt"), _seeds(options)
    from lib_masactrl.host.standalone.checkpoint import load_checkpoint
    from lib_masactrl.host.standalone.control_pictures import ControlFiles, with_units
    from lib_masactrl.host.standalone.results import Run
    from lib_masactrl.host.standalone.sampling import BranchPrompts, SamplingPlan, control_for, sample_latents

    plan = SamplingPlan(options.sampler, options.steps, options.cfg_scale, options.width, options.height)
    model = load_checkpoint(options.checkpoint, options.device, options.half)
    painted = _painted(options, plan.width, plan.height)
    files = ControlFiles(options.control_image, options.adapter)
    units = files.read(model, settings, plan)
    for seed in seeds:
        plain = BranchPrompts.of_settings(settings, options.prompt, (seed,), options.negative_prompt)
        batch = with_units(plain, units)
        control = None if options.without_control else control_for(model, settings, plan.steps, batch, painted)
        decoded = model.decode(sample_latents(model, batch, plan, control, progress=True))
        run = Run(model, settings, batch, plan, control)
        _tell(run.write(decoded, options.output, f"seed-{seed}", {"Seed": seed, **files.entries()}))


def _edit(options: argparse.Namespace) -> None:
    # Not enabled: the infotext of an edit, pasted into a WebUI, does not switch on control there without the picture.
    settings = _settings(options, enabled=False, source="image")
    from lib_masactrl.host.standalone.checkpoint import load_checkpoint
    from lib_masactrl.host.standalone.control_pictures import ControlFiles, with_units
    from lib_masactrl.host.standalone.editing import edit_picture, plan_for
    from lib_masactrl.host.standalone.reading import read_picture
    from lib_masactrl.host.standalone.real_image import InversionPlan
    from lib_masactrl.host.standalone.results import Run
    from lib_masactrl.host.standalone.sampling import BranchPrompts, SamplingPlan, control_for

    sampler, steps, source_prompt = options.sampler, options.steps, settings.source_prompt
    inversion = InversionPlan(
        sampler, steps, source_prompt, settings.inversion_refinements, settings.rectify, settings.check_inversion
    )
    unsized = SamplingPlan(sampler, steps, options.cfg_scale)
    picture = read_picture(options.image)
    model = load_checkpoint(options.checkpoint, options.device, options.half)
    plan = plan_for(model, unsized, picture, options.width, options.height)
    files = ControlFiles(options.control_image, options.adapter)
    plain = BranchPrompts.of_settings(settings, options.prompt, (0,), options.negative_prompt)
    painted = _painted(options, plan.width, plan.height)
    batch = with_units(plain, files.read(model, settings, plan))
    control = None if options.without_control else control_for(model, settings, steps, batch, painted)
    run = Run(model, settings, batch, plan, control)
    decoded, entries = edit_picture(run, picture, inversion)
    _tell(run.write(decoded, options.output, "edit", entries | files.entries()))


def _painted(options: argparse.Namespace, width: int, height: int) -> Tensor | None:
    """The brightness (height, width) in 0..1 of the picture given as mask, fitted as an edited picture is."""
    if options.mask_image is None:
        return None
    from lib_masactrl.host.standalone.reading import fitted, read_picture, to_tensor

    return to_tensor(fitted(read_picture(options.mask_image), width, height))[0].mean(dim=0)


def _tell(paths: Iterable[Path]) -> None:
    for path in paths:
        sys.stdout.write(f"{path}\n")
