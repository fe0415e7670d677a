"""DDIM inversion: from a clean latent back up to the noise from which deterministic sampling would make it.

Everything here is in *variance-exploding coordinates*: ``x = x0 + sigma * eps``, where ``sigma`` is the noise level,
the ratio of noise to signal. A latent ``z`` of the variance-preserving kind (DDIM) is ``x = z * sqrt(1 + sigma ** 2)``.
In these coordinates the deterministic DDIM step is an Euler step of ``dx / dsigma = (x - denoise(x, sigma)) / sigma``
(Song et al. 2021, "Denoising Diffusion Implicit Models", eq. 14), whatever the network predicts (eps or v) and
whatever sampler or schedule the noise levels come from. MasaCtrl edits real images so (section 3.3).
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from lib_masactrl.errors import InversionError

#: How far outside its ends a trajectory is still read, as a share of the level: a half-precision timestep near 1000 is
#: off by a quarter, and with it the level by 0.2%.
_ROUNDING = 5e-3


class Denoise(Protocol):
    """The model at guidance 1 under the source prompt: its estimate of the clean latent."""

    def __call__(self, x: Tensor, sigma: float, /) -> Tensor:
        """The clean latent x0 that ``x`` (n, channels, h, w) at noise level ``sigma`` > 0 shows; same shape."""
        ...


class NoiseSchedule:
    """The noise level of each training timestep, and between two of them.

    Args:
        sigmas: noise levels of timesteps 0, 1, ..., strictly ascending from above 0.
    """

    def __init__(self, sigmas: Sequence[float]) -> None:
        self._logarithms = [math.log(sigma) for sigma in sigmas]

    @classmethod
    def of_alphas_cumprod(cls, alphas_cumprod: Tensor) -> NoiseSchedule:
        """The schedule of a checkpoint: a noise level is ``sqrt((1 - alpha) / alpha)``."""
        alphas = alphas_cumprod.double().cpu()
        return cls(((1 - alphas) / alphas).sqrt().tolist())

    def level(self, timestep: float) -> float:
        """The noise level at ``timestep``; between two timesteps log-linear, as in k-diffusion's ``t_to_sigma``."""
        last = len(self._logarithms) - 1
        timestep = min(max(timestep, 0.0), float(last))
        below = min(int(timestep), last - 1)
        low, high = self._logarithms[below], self._logarithms[below + 1]
        return math.exp(low + (high - low) * (timestep - below))


def signal_scale(sigma: float) -> float:
    """A latent in variance-exploding coordinates over the same one in variance-preserving ones (a U-Net's input)."""
    return math.sqrt(1 + sigma**2)


def subdivided(sigmas: Sequence[float], parts: int) -> tuple[float, ...]:
    """``sigmas`` with each interval cut into ``parts`` equal ones; the given levels stay among them exactly.

    >>> subdivided([0.0, 1.0, 3.0], parts=2)
    (0.0, 0.5, 1.0, 2.0, 3.0)
    """
    cut = [low + (high - low) * part / parts for low, high in pairwise(sigmas) for part in range(parts)]
    return (*cut, sigmas[-1])


def psnr(got: Tensor, wanted: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of pictures in 0..1; infinite where they are equal."""
    squared = float(((got - wanted) ** 2).mean())
    return -10 * math.log10(squared) if squared else math.inf


@dataclass(frozen=True, eq=False)
class SourceTrajectory:
    """The latents that an image passes through between its clean latent and its start noise.

    A source branch that is put back on it before every evaluation is *rectified*: no error adds up, whatever the
    sampler and the guidance do (Ju et al. 2023, "Direct Inversion", arXiv 2310.01506, section 4).

    Attributes:
        sigmas: noise levels, strictly ascending.
        latents: for each level the latents (n, channels, h, w) in variance-exploding coordinates.
        returned: what :func:`sample_back` found; ``None`` where nobody asked.
    """

    sigmas: tuple[float, ...]
    latents: tuple[Tensor, ...]
    returned: Tensor | None = None

    @property
    def start(self) -> Tensor:
        """The inverted latents: those of the highest level, from which sampling starts."""
        return self.latents[-1]

    @property
    def size(self) -> int:
        """Bytes that the latents take."""
        kept = [*self.latents, *([] if self.returned is None else [self.returned])]
        return sum(latent.numel() * latent.element_size() for latent in kept)

    def at(self, sigma: float) -> Tensor:
        """The latents at noise level ``sigma``: the stored ones, or between two levels linear in the noise level.

        Linear is what the DDIM step itself assumes between two levels.

        Raises:
            InversionError: ``sigma`` lies outside the levels.
        """
        lowest, highest = self.sigmas[0], self.sigmas[-1]
        if not lowest * (1 - _ROUNDING) <= sigma <= highest * (1 + _ROUNDING):
            raise InversionError(
                f"The source trajectory is asked for noise level {sigma:g}, but it goes from {lowest:g} to "
                f"{highest:g}; invert the image up to the level at which sampling starts."
            )
        sigma = min(max(sigma, lowest), highest)
        upper = bisect.bisect_left(self.sigmas, sigma)
        if upper == 0:
            return self.latents[0]
        below, above = self.sigmas[upper - 1], self.sigmas[upper]
        return torch.lerp(self.latents[upper - 1], self.latents[upper], (sigma - below) / (above - below))


def invert(latents: Tensor, sigmas: Sequence[float], denoise: Denoise, refinements: int = 0) -> SourceTrajectory:
    """The trajectory of ``latents`` through ``sigmas``.

    A sampler's step from level i + 1 down to i follows the noise found *at* i + 1, so the inverse step is the solution
    x of ``x = x_i + (s_{i+1} - s_i) * eps(x, s_{i+1})``. The right side is evaluated once, where the previous step's
    noise leads, and once more for each refinement (fixed-point iteration). Hence the model is only ever asked at the
    levels at which the sampler will ask it, never at 0, ``(len(sigmas) - 1) * (1 + refinements)`` times.

    Args:
        latents: (n, channels, h, w) at level ``sigmas[0]``: what sampling ends with, clean if that level is 0.
        sigmas: noise levels in ascending order: the sampler's last one, ..., its first one.
        denoise: the model.
        refinements: fixed-point iterations per step; each costs one more evaluation.

    Raises:
        InversionError: the levels do not ascend from 0 or more, ``refinements`` is negative, or a latent is not finite.
    """
    levels = _checked(sigmas)
    if refinements < 0:
        raise InversionError(f"refinements is {refinements}, but it takes 0 or more; give 0 for plain DDIM inversion.")
    _check_finite(latents, levels[0])
    path = [latents]
    noise = torch.zeros_like(latents)
    for below, above in pairwise(levels):
        for _ in range(1 + refinements):
            x = path[-1] + (above - below) * noise
            noise = (x - denoise(x, above)) / above
        path.append(path[-1] + (above - below) * noise)
        _check_finite(path[-1], above)
    return SourceTrajectory(levels, tuple(path))


def sample_back(start: Tensor, sigmas: Sequence[float], denoise: Denoise) -> Tensor:
    """The latents at level ``sigmas[0]`` to which plain DDIM steps lead from the inverted latents ``start``.

    Nothing holds these steps on the trajectory. How far they end from its lowest latents is the inversion's error,
    which a rectified source hides and every target inherits. The model is asked ``len(sigmas) - 1`` times.

    Args:
        start: (n, channels, h, w) at the highest level.
        sigmas: noise levels in ascending order, as :func:`invert` takes them.
        denoise: the model.

    Raises:
        InversionError: the levels do not ascend from 0 or more, or a latent is not finite.
    """
    x = start
    for above, below in pairwise(reversed(_checked(sigmas))):
        x = x + (below - above) * (x - denoise(x, above)) / above
        _check_finite(x, below)
    return x


def _checked(sigmas: Sequence[float]) -> tuple[float, ...]:
    levels = tuple(float(sigma) for sigma in sigmas)
    ascending = all(below < above for below, above in pairwise(levels))
    if not (levels and ascending and levels[0] >= 0 and math.isfinite(levels[-1])):
        raise InversionError(
            f"The noise levels of an inversion are {_shown(levels)}, but they have to ascend from 0 or more; "
            "choose another sampler or schedule."
        )
    return levels


def _shown(levels: tuple[float, ...]) -> str:
    text = ", ".join(f"{level:g}" for level in levels[:6])
    return f"{text}, ..." if len(levels) > 6 else text or "none"


def _check_finite(x: Tensor, sigma: float) -> None:
    if not torch.isfinite(x).all():
        raise InversionError(
            f"The inversion met numbers that are not finite at noise level {sigma:g}; use full precision for U-Net "
            "and autoencoder, or fewer refinements."
        )
