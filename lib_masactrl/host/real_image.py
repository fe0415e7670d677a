"""A real image as the source of a WebUI request (img2img): inverted once, then kept on its trajectory.

Everything happens around the sampler function that the host calls (``Sampler.func``): there the noise levels are
settled, the latent has been encoded, and what the function is given is where sampling starts, in any sampler.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from modules import processing, sd_samplers_common, shared
from torch import Tensor, nn

from lib_masactrl.branches import Branch
from lib_masactrl.errors import told
from lib_masactrl.host.capabilities import forge_part
from lib_masactrl.host.controlnet import silenced
from lib_masactrl.host.denoising import Conditioning, denoiser, noise_schedule, rows_of
from lib_masactrl.host.forge_network import network_key, network_options
from lib_masactrl.host.kept_trajectories import CACHE, configure_cache, trajectory_key
from lib_masactrl.host.sampler_levels import Levels, sampler_levels
from lib_masactrl.inversion import (
    Denoise,
    NoiseSchedule,
    SourceTrajectory,
    invert,
    psnr,
    sample_back,
    signal_scale,
    subdivided,
)
from lib_masactrl.settings import MasaCtrlSettings

#: Of an Euler or Heun step with churn: the noise level is raised by at most this before the U-Net is asked
#: (k-diffusion ``sample_euler``, ``gamma``).
_CHURN = 2**0.5

#: PSNR in dB under which a source is visibly not its picture.
_POOR = 25.0

_UNCHECKED = (
    "the inversion was not checked, as there is nothing to compare with: the WebUI encoded the picture with "
    "TAESD, or in tiles. Set 'VAE type for encode' to Full in Settings, or choose a smaller size."
)


def encoder_of(sd_model: Any) -> nn.Module | None:
    """The network that encodes pictures, or ``None`` where the host keeps it elsewhere."""
    holder = forge_part(sd_model, "vae") or sd_model
    encoder = getattr(getattr(holder, "first_stage_model", None), "encoder", None)
    return encoder if isinstance(encoder, nn.Module) else None


@contextmanager
def noting_pictures(sd_model: Any, noted: list[Tensor]) -> Iterator[None]:
    """Append to ``noted`` the pictures (n, 3, height, width) in 0..1 that the host encodes inside the ``with`` block.

    Only there are they as the resize mode, the crop and the masked area have left them.
    """

    def note(module: nn.Module, args: tuple[Any, ...]) -> None:
        noted.append(args[0].detach().float().cpu() / 2 + 0.5)

    encoder = encoder_of(sd_model)
    hook = encoder.register_forward_pre_hook(note) if encoder is not None else None
    try:
        yield
    finally:
        if hook is not None:
            hook.remove()


class RealImage:
    """The source of one call of the request's ``sample``: one picture per group of branches.

    Args:
        p: the request.
        pictures: what was encoded, one row per branch, or nothing if that is not known.
    """

    def __init__(self, p: Any, branches: tuple[Branch, ...], settings: MasaCtrlSettings, pictures: Tensor | None):
        self._p, self._branches, self._settings, self._pictures = p, branches, settings, pictures
        self._source_rows = [row for row, branch in enumerate(branches) if branch.is_source]
        self._trajectories: dict[int, SourceTrajectory] = {}
        self._levels = Levels((), preserving=False, churn=False)
        self._schedules: dict[int, NoiseSchedule] = {}
        #: U-Net evaluations that inversion and its check took; ``None`` until they are done.
        self.evaluations: int | None = None
        #: What they are doing, to be told if they are stopped.
        self.doing = "waiting for the sampler"

    @contextmanager
    def sampled(self, control_off: Any) -> Iterator[None]:
        """Let the request's sampler start from the inverted picture, inside the ``with`` block.

        Args:
            control_off: makes a context in which U-Net calls are neither controlled nor counted.
        """
        sampler = self._p.sampler
        original = sampler.func

        @functools.wraps(original)  # the host asks for the signature of `func`
        def from_picture(model: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
            with control_off(), silenced(self._p):
                self._invert(model, original, x, kwargs)
            result = original(model, self._start(x), *args, **kwargs)
            return self._kept(result)

        sampler.func = from_picture
        try:
            yield
        finally:
            sampler.func = original

    def rectified(self, x: Tensor, timesteps: Tensor) -> Tensor:
        """The U-Net's input with every source row back on its picture's trajectory, if that is asked for.

        Args:
            x: (rows, channels, height, width), variance-preserving; more channels than latents have stay as they are.
            timesteps: (rows,), whole or between two training timesteps.
        """
        if not self._settings.rectify or not self._trajectories:
            return x
        sigma = self._schedule().level(float(timesteps.reshape(-1)[0]))
        x = x.clone()
        for row in range(len(x)):
            branch = self._branches[row % len(self._branches)]
            if branch.is_source:
                latent = self._trajectories[branch.group].at(sigma)[0] / signal_scale(sigma)
                x[row, : len(latent)] = latent.to(x)
        return x

    @property
    def is_checked(self) -> bool:
        """Whether to sample the pictures back: it is asked for, and there are pictures to compare with."""
        return self._settings.check_inversion and self._pictures is not None

    def reconstruction(self, decoded: list[Tensor]) -> float | None:
        """How well the sources kept their pictures, in dB; ``None`` where the pictures are not known.

        Args:
            decoded: one (3, height, width) in 0..1 per branch.
        """
        return self._likeness([decoded[row] for row in self._source_rows])

    def sampled_back(self) -> float | None:
        """The same of plain sampling from the inverted noise; ``None`` where that was not checked."""
        if not self.is_checked or not self._trajectories:
            return None
        groups = [self._branches[row].group for row in self._source_rows]
        latents = [latent for group in groups if (latent := self._trajectories[group].returned) is not None]
        pictures = {latent: self._decoded(latent) for latent in set(latents)}  # equal pictures share one
        return self._likeness([pictures[latent] for latent in latents])

    def advice(self, decibels: float | None, sampled_back: float | None) -> str | None:
        """One line for a source that is visibly not its picture, or for an inversion from which none would be.

        And for a check that was asked for in vain.

        Args:
            decibels: what :meth:`reconstruction` tells.
            sampled_back: what :meth:`sampled_back` tells.
        """
        if decibels is None:
            return _UNCHECKED if self._settings.check_inversion else None
        if decibels < _POOR and self._settings.rectify:
            return (
                f"the source keeps its picture at {decibels:.1f} dB only. The VAE loses that much: try a "
                "larger size or another VAE."
            )
        if decibels < _POOR:
            return (
                f"the source keeps its picture at {decibels:.1f} dB only. Switch Rectify on, or raise "
                "Inversion steps or Inversion refinements."
            )
        if sampled_back is not None and sampled_back < _POOR:
            return (
                f"sampled back from its inverted noise, the picture is kept at {sampled_back:.1f} dB only. "
                "Raise Inversion steps or Inversion refinements."
            )
        return None

    def _likeness(self, sources: list[Tensor]) -> float | None:
        """PSNR in dB of one (3, height, width) in 0..1 per source against its picture."""
        if self._pictures is None:
            return None
        size = tuple(sources[0].shape[-2:])
        wanted = self._pictures[self._source_rows]
        if wanted.shape[-2:] != size:  # resize mode "latent upscale" encodes the picture in its own size
            wanted = nn.functional.interpolate(wanted, size=size, mode="bilinear", antialias=True)
        return psnr(torch.stack([source.float().cpu() for source in sources]), wanted)

    def _decoded(self, latent: Tensor) -> Tensor:
        """A latent (1, channels, h, w) of the lowest level as the host's VAE's picture (3, height, width) in 0..1."""
        own = (latent / self._levels.scale(self._levels.primary[-1])).to(self._p.init_latent)
        decoded: Tensor = processing.decode_latent_batch(self._p.sd_model, own, target_device=torch.device("cpu"))[0]
        return (decoded.float() / 2 + 0.5).clamp(0, 1)

    def _start(self, x: Tensor) -> Tensor:
        top = self._levels.primary[0]
        rows = [self._trajectories[branch.group].at(top)[0] for branch in self._branches]
        return (torch.stack(rows) / self._levels.scale(top)).to(x)

    def _kept(self, result: Tensor) -> Tensor:
        """The sampler's result, with the picture's own latent as the source if it is rectified."""
        if not self._settings.rectify:
            return result
        result = result.clone()
        for row in self._source_rows:
            trajectory = self._trajectories[self._branches[row].group]
            lowest = trajectory.sigmas[0]
            result[row] = (trajectory.latents[0][0] / self._levels.scale(lowest)).to(result)
        return result

    def _invert(self, model: Any, sampler: Any, x: Tensor, options: Mapping[str, Any]) -> None:
        configure_cache()
        self._levels = sampler_levels(model, sampler, x, options, self._schedule())
        path, conds = self._path(), Conditioning(model, self._levels.primary)
        options = network_options(self._p, shared.sd_model)
        network = network_key(shared.sd_model, options)
        keys = {row: self._key(row, path, [network, *conds.of_row(row)]) for row in self._source_rows}
        rows: dict[str, int] = {}  # equal pictures share one
        for row, key in keys.items():
            rows.setdefault(key, row)
        found = {key: kept for key in rows if (kept := CACHE.get(key)) is not None}
        steps, refinements = len(path) - 1, self._settings.inversion_refinements
        evaluations = 0

        def watched(asked: list[str], count: int, said: str) -> AbstractContextManager[Denoise]:
            nonlocal evaluations
            evaluations += count
            self.doing = said
            own = [rows[key] for key in asked]
            image_cond = rows_of(model.sampler.sampler_extra_args["image_cond"], own)
            return _watched(denoiser(shared.sd_model, conds.at(own), image_cond, options), count, said)

        missing = [key for key in rows if key not in found]
        if missing:
            clean = self._p.init_latent[[rows[key] for key in missing]].float() * self._levels.scale(path[0])
            with watched(missing, steps * (1 + refinements), "inverting the picture") as denoise:
                inverted = invert(clean, path, denoise, refinements)
            for index, key in enumerate(missing):
                own = tuple(latent[index : index + 1].cpu() for latent in inverted.latents)
                found[key] = SourceTrajectory(inverted.sigmas, own)
                CACHE.put(key, found[key])
        unchecked = [key for key in rows if found[key].returned is None]
        if unchecked and self.is_checked:
            start = torch.cat([found[key].start for key in unchecked]).to(x.device)
            with watched(unchecked, steps, "checking the inversion") as denoise:
                returned = sample_back(start, path, denoise).cpu()
            for index, key in enumerate(unchecked):
                found[key] = dataclasses.replace(found[key], returned=returned[index : index + 1])
                CACHE.put(key, found[key])
        self._trajectories = {self._branches[row].group: found[key] for row, key in keys.items()}
        self.evaluations = evaluations

    def _path(self) -> tuple[float, ...]:
        """The levels to invert through, ascending: the sampler's, subdivided if more steps are asked for."""
        ascending = sorted(set(self._levels.primary))
        asked, steps = self._settings.inversion_steps, int(self._p.steps)
        path = subdivided(ascending, max(1, -(-asked // steps)))
        return (*path, path[-1] * _CHURN) if self._levels.churn else path

    def _schedule(self) -> NoiseSchedule:
        """The noise schedule of the model that is loaded now: a refiner may have swapped it."""
        model = shared.sd_model
        if id(model) not in self._schedules:
            self._schedules[id(model)] = noise_schedule(model)
        return self._schedules[id(model)]

    def _key(self, row: int, path: tuple[float, ...], asked: list[Any]) -> str:
        picture = self._pictures[row] if self._pictures is not None else self._p.init_latent[row]
        return trajectory_key(self._p, picture, path, self._settings.inversion_refinements, asked)


@contextmanager
def _watched(denoise: Denoise, evaluations: int, said: str) -> Iterator[Denoise]:
    """``denoise`` under the host's eyes: progress bar, live preview, interrupt and skip.

    ``shared.state`` is where the host's own samplers report their progress; what `launch_sampling` wrote there for the
    sampling that follows is put back.
    """
    state, done = shared.state, 0
    steps = state.sampling_steps

    def watched(x: Tensor, sigma: float) -> Tensor:
        nonlocal done
        if state.interrupted or state.skipped:
            raise sd_samplers_common.InterruptedException
        clean = denoise(x, sigma)
        done += 1
        state.sampling_step = done
        sd_samplers_common.store_latent(clean)
        return clean

    state.sampling_steps, state.textinfo = evaluations, told(said)
    try:
        yield watched
    finally:
        state.sampling_steps, state.sampling_step, state.textinfo = steps, 0, None
