"""Real images as source branches, one per group: inverted on the sampler's own schedule, kept on their trajectories."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from lib_masactrl.branches import Branch
from lib_masactrl.errors import SettingsError
from lib_masactrl.host.standalone.checkpoint import DiffusionModel
from lib_masactrl.host.standalone.guided_prediction import GuidedPrediction
from lib_masactrl.host.standalone.samplers import SAMPLERS, noise_levels, scheduler_for
from lib_masactrl.inversion import Denoise, SourceTrajectory, invert, sample_back, signal_scale


@dataclass(frozen=True)
class InversionPlan:
    """How to invert; steps and sampler are those of sampling.

    Attributes:
        source_prompt: describes the image; empty is allowed and what the paper takes.
        refinements: fixed-point iterations per inversion step; each costs one more U-Net call per step.
        rectify: put the source branch back on its trajectory before every U-Net call.
        check: also sample back from the inverted noise alone; costs as much as an inversion without refinements.

    Raises:
        SettingsError: a value is not allowed.
    """

    sampler: str
    steps: int
    source_prompt: str = ""
    refinements: int = 0
    rectify: bool = True
    check: bool = False

    def __post_init__(self) -> None:
        allowed = [name for name, sampler in SAMPLERS.items() if not sampler.draws_noise]
        if self.sampler not in allowed:
            raise SettingsError(
                f"sampler is {self.sampler!r}, but a real image needs a sampler that draws no noise: "
                f"one of {', '.join(allowed)}; correct sampler."
            )


@dataclass(frozen=True, eq=False)
class InvertedImage:
    """Where branches start, and where the source branch is at each evaluation, in the sampler's own coordinates.

    Attributes:
        levels: noise level of each U-Net call in order, and that of the result.
        exploding: see :class:`~lib_masactrl.host.standalone.samplers.Sampler`.
        rectify: whether :meth:`rectified` does anything.
    """

    trajectory: SourceTrajectory
    levels: tuple[float, ...]
    exploding: bool
    rectify: bool

    @property
    def returned(self) -> Tensor | None:
        """The images' latents (groups, channels, h, w) as sampled back, if that was asked for."""
        latents = self.trajectory.returned
        return None if latents is None else latents / _scale(self.trajectory.sigmas[0], self.exploding)

    def at(self, evaluation: int) -> Tensor:
        """The images' latents (groups, channels, h, w) at U-Net call ``evaluation``; past the last, in the result."""
        level = self.levels[evaluation]
        return self.trajectory.at(level) / _scale(level, self.exploding)

    def start(self, branches: tuple[Branch, ...], levels: tuple[float, ...]) -> Tensor:
        """The inverted latent of each branch's group, for sampling through ``levels``.

        Raises:
            SettingsError: the image was inverted through other levels.
        """
        if levels != self.levels:
            raise SettingsError(
                "The image was inverted for another sampler or number of steps than it is sampled with; "
                "use the same for both."
            )
        return self.at(0)[[branch.group for branch in branches]]

    def rectified(self, latents: Tensor, branches: tuple[Branch, ...], evaluation: int) -> Tensor:
        """``latents`` (branches, channels, h, w) with every source branch back on the trajectory."""
        if not self.rectify:
            return latents
        on_trajectory = self.at(evaluation)
        return torch.stack([on_trajectory[b.group] if b.is_source else row for b, row in zip(branches, latents)])


def _scale(sigma: float, exploding: bool) -> float:
    """Variance-exploding latents over those of a sampler."""
    return 1.0 if exploding else signal_scale(sigma)


@torch.no_grad()
def invert_image(model: DiffusionModel, latent: Tensor, plan: InversionPlan, progress: bool = False) -> InvertedImage:
    """Invert ``latent`` (groups, channels, h, w), at the U-Net's scale, through the levels of the plan's sampler.

    Args:
        progress: show a bar on standard error.

    Raises:
        InversionError: a number that is not finite appeared.
    """
    scheduler = scheduler_for(model, plan.sampler, plan.steps)
    levels, exploding = noise_levels(scheduler), SAMPLERS[plan.sampler].exploding
    ascending = sorted(set(levels))  # Heun evaluates twice at one level
    denoise = _denoise(model, [plan.source_prompt] * len(latent), dict(zip(levels, scheduler.timesteps)))
    steps = len(ascending) - 1
    with _counted(denoise, steps * (1 + plan.refinements + plan.check), progress) as counted:
        trajectory = invert(latent * _scale(levels[-1], exploding), ascending, counted, plan.refinements)
        if plan.check:
            returned = sample_back(trajectory.start, ascending, counted)
            trajectory = dataclasses.replace(trajectory, returned=returned)
    return InvertedImage(trajectory, levels, exploding, plan.rectify)


def _denoise(model: DiffusionModel, prompts: list[str], timesteps: dict[float, Tensor]) -> Denoise:
    """The model at guidance 1; ``timesteps`` holds the timestep at which the sampler evaluates each noise level."""
    predict = GuidedPrediction(model, prompts, "", [1.0] * len(prompts))
    predicts_v = model.config.prediction_type == "v_prediction"

    def denoise(x: Tensor, sigma: float) -> Tensor:
        scale = signal_scale(sigma)
        predicted = predict(x / scale, timesteps[sigma])
        if predicts_v:  # v = (eps - sigma * x0) / scale
            return (x / scale - sigma * predicted) / scale
        return x - sigma * predicted

    return denoise


@contextmanager
def _counted(denoise: Denoise, evaluations: int, progress: bool) -> Iterator[Denoise]:
    with tqdm(total=evaluations, desc="Inversion", disable=not progress, unit="call", leave=False) as bar:

        def counted(x: Tensor, sigma: float) -> Tensor:
            bar.update()
            return denoise(x, sigma)

        yield counted
