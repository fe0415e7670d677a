"""Which noise levels a sampler of the host will visit, known before it samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lib_masactrl.errors import InversionError
from lib_masactrl.inversion import NoiseSchedule, signal_scale


@dataclass(frozen=True)
class Levels:
    """The noise levels of one sampling.

    Attributes:
        primary: levels of the sampler's steps, descending from where it starts to where it ends.
        preserving: whether the sampler's latents are variance-preserving.
        churn: whether steps may begin above their level.
    """

    primary: tuple[float, ...]
    preserving: bool
    churn: bool

    def scale(self, sigma: float) -> float:
        """Variance-exploding latents over the sampler's own."""
        return signal_scale(sigma) if self.preserving else 1.0


class _Listener:
    """Stands in for the model and notes the noise levels that a sampler asks for; everything else is the model's."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.asked: list[float] = []

    def __call__(self, x: Tensor, sigma: Tensor, **_: Any) -> Tensor:
        self.asked.append(float(sigma.reshape(-1)[0]))
        self.last_noise_uncond = torch.zeros_like(x)  # read by DDIM CFG++
        return torch.zeros_like(x)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def sampler_levels(model: Any, sampler: Any, x: Tensor, options: Mapping[str, Any], schedule: NoiseSchedule) -> Levels:
    """The levels that ``sampler`` will visit with these ``options`` (those that the host gives it).

    Where they are not among the options (the timestep samplers, DPM fast and DPM adaptive), the sampler is run once on
    a stand-in for the model, which costs no U-Net call.

    Raises:
        InversionError: it would visit none.
    """
    preserving, churn = "timesteps" in options, bool(options.get("s_churn"))
    if options.get("sigmas") is not None:
        visited = [float(sigma) for sigma in options["sigmas"]]
    else:
        listener = _Listener(model)
        sampler(listener, x, **{**options, "disable": True, "callback": lambda state: None})
        visited = [schedule.level(t) for t in listener.asked] if preserving else listener.asked
        if visited and preserving:
            end = schedule.level(float(options["timesteps"][0]))
            visited.append(end if end < min(visited) else schedule.level(0))
        elif visited:
            visited.append(min(float(options["sigma_min"]), *visited))
    primary = tuple(sorted(set(visited), reverse=True))
    if len(primary) < 2:
        raise InversionError(
            "at this denoising strength the sampler takes no step, so nothing can be edited; "
            "raise the denoising strength or the sampling steps."
        )
    return Levels(primary, preserving, churn)
