"""What control costs: time and peak memory of one U-Net evaluation, as ratios to a plain batch of the same shape.

``python -m bench.cost`` measures an SD 1.5-shaped U-Net (320 channels, 860 M parameters, random weights);
``--channels 64`` the tiny one. Plain and controlled evaluations alternate, and on a CPU the processor's time of one
thread is taken, so that what else the machine does counts for little; peak memory is taken in a process of its own for
each kind.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from contextlib import nullcontext

import torch
from ldm.modules.diffusionmodules.openaimodel import UNetModel

from bench.training.unet import UNET_CONFIG
from lib_masactrl.branches import BatchLayout, branches_in_batch
from lib_masactrl.control import METHODS, MutualSelfAttentionControl
from lib_masactrl.masks import ForegroundMasks
from lib_masactrl.patching import attached
from lib_masactrl.schedule import ControlWindow, default_start_layer

PLAIN = "plain"
#: Mutual with a third of each picture as foreground: given, and given while the words' maps are taken all the same.
MASKED, MAPPED = "mutual, masks", "mutual, masks and maps"
LAYERS = 16
BRANCHES = branches_in_batch(1, 1)


def main(arguments: list[str] | None = None) -> None:
    options = _options().parse_args(arguments)
    if options.memory_of:
        _evaluate(_unet(options), options, _control(options, options.memory_of))
        sys.stdout.write(f"{_peak_memory(options.device)}\n")
        return
    torch.set_num_threads(1)
    kinds = [PLAIN, *METHODS, MASKED, MAPPED]
    seconds = _times(options, kinds)
    memory = {kind: _memory_in_a_process_of_its_own(options, kind) for kind in kinds}
    sys.stdout.write(f"{options.channels} channels, latent {options.latent}, 4 rows, {options.device}\n")
    for kind in kinds[1:]:
        ratios = [controlled / plain for controlled, plain in zip(seconds[kind], seconds[PLAIN])]
        sys.stdout.write(
            f"{kind}: time x{statistics.median(ratios):.3f} (of {len(ratios)} rounds, {min(ratios):.3f} to "
            f"{max(ratios):.3f}), peak memory x{memory[kind] / memory[PLAIN]:.3f}\n"
        )


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.cost", description=__doc__)
    parser.add_argument("--channels", type=int, default=320, help="width of the U-Net (SD 1.5: 320)")
    parser.add_argument("--latent", type=int, default=32, help="side of the latent (512 px: 64)")
    parser.add_argument("--rounds", type=int, default=5, help="evaluations of each kind")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (in half precision)")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    return parser


def _unet(options: argparse.Namespace) -> UNetModel:
    torch.manual_seed(0)
    wide = options.channels == 320
    shape = {
        "image_size": options.latent,
        "model_channels": options.channels,
        "channel_mult": (1, 2, 4, 4) if wide else (1, 1, 1, 1),
        "num_heads": 8,
        "context_dim": 768,
    }
    unet = UNetModel(**{**UNET_CONFIG, **shape}).eval()
    return unet.to(options.device, torch.float16 if options.device == "cuda" else torch.float32)


def _control(options: argparse.Namespace, kind: str) -> MutualSelfAttentionControl | None:
    if kind == PLAIN:
        return None
    third = torch.zeros(options.latent, options.latent)
    third[: options.latent // 3] = 1
    words = (lambda branch: (1, 2)) if kind == MAPPED else None
    masks = ForegroundMasks(dict.fromkeys(BRANCHES, third), words) if kind in (MASKED, MAPPED) else None
    window = ControlWindow(0, None, default_start_layer(LAYERS))
    return MutualSelfAttentionControl(window, METHODS.get(kind, METHODS["mutual"]), masks)


@torch.no_grad()
def _evaluate(unet: UNetModel, options: argparse.Namespace, control: MutualSelfAttentionControl | None) -> float:
    """Seconds of one evaluation of [target, source] with cond and uncond rows, the window covering the step."""
    like = next(unet.parameters())
    x = torch.randn(4, 4, options.latent, options.latent).to(like)
    context = torch.randn(4, 77, 768).to(like)
    timesteps = torch.full((4,), 500, device=like.device)
    if control:
        layout = BatchLayout(BRANCHES, passes=2, cond_pass=0)
        control.begin_call(layout, step=0, latent=(options.latent, options.latent))
    clock = time.perf_counter if options.device == "cuda" else time.process_time
    with attached(unet, control) if control else nullcontext():
        _finish(options.device)
        started = clock()
        unet(x, timesteps, context=context)
        _finish(options.device)
        return clock() - started


def _times(options: argparse.Namespace, kinds: list[str]) -> dict[str, list[float]]:
    unet = _unet(options)
    controls = [_control(options, kind) for kind in kinds]
    for control in controls:  # warms caches up; and the first evaluation of a sampling under masks checks its way
        _evaluate(unet, options, control)
    rounds = [[_evaluate(unet, options, control) for control in controls] for _ in range(options.rounds)]
    return dict(zip(kinds, map(list, zip(*rounds))))


def _memory_in_a_process_of_its_own(options: argparse.Namespace, kind: str) -> int:
    command = [sys.executable, "-m", "bench.cost", "--memory-of", kind]
    for name in ("channels", "latent", "device"):
        command += [f"--{name}", str(getattr(options, name))]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _peak_memory(device: str) -> int:
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _finish(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
