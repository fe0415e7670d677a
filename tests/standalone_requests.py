"""Requests to the standalone host on the small checkpoint, for its tests."""

from __future__ import annotations

import torch

from lib_masactrl.host.cli import main
from lib_masactrl.host.standalone.sampling import BranchPrompts, SamplingPlan, control_for, sample_latents
from lib_masactrl.host.standalone.t2i_adapter import new_adapter
from lib_masactrl.settings import MasaCtrlSettings

STEPS = 5


def settings(**more):
    given = {"enabled": True, "source_prompt": "a cat standing", "start_step": 1, "start_layer": 4, **more}
    return MasaCtrlSettings.from_mapping(given)


def plan(sampler="DDIM", **more):
    return SamplingPlan(**{"sampler": sampler, "steps": STEPS, "width": 64, "height": 64, **more})


def batch(seeds=(3,), prompt="a cat lying", **more):
    return BranchPrompts.of_settings(settings(**more), prompt, seeds, "blurred")


def sampled(model, sampler="DDIM", control=True, *, of=None, **more):
    """The latents of a batch (target, source), under the control of its settings or plain."""
    chosen = control_for(model, settings(), STEPS) if control is True else control
    return sample_latents(model, of or batch(), plan(sampler, **more), chosen or None)


def generate(checkpoint, folder, *arguments):
    """The exit status of the command line, which writes into ``folder / "out"``."""
    flags = ["--source-prompt", "a cat standing", "--prompt", "a cat", "--steps", "2", "--start-step", "0"]
    size = ["--width", "64", "--height", "64", "--seed", "3", "--device", "cpu", "--output", str(folder / "out")]
    return main(["generate", "--checkpoint", str(checkpoint), *flags, *size, *map(str, arguments)])


def random_adapter(widths=(32, 32, 32, 32), channels=3):
    """A T2I-Adapter, by default for the small checkpoint."""
    torch.manual_seed(0)
    return new_adapter(widths, channels).eval().requires_grad_(False)
