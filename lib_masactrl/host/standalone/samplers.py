"""The samplers of the standalone host: diffusers' schedulers under the names that A1111 gives them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from lib_masactrl.host.standalone.checkpoint import DiffusionModel


@dataclass(frozen=True)
class Sampler:
    """One way to step from noise to a latent.

    Attributes:
        scheduler: name of the class in diffusers.
        options: its options besides the noise schedule.
        draws_noise: whether its steps draw noise; then ``step`` takes generators, one per row.
        exploding: whether its latents are ``x0 + sigma * eps``; else that over ``sqrt(1 + sigma ** 2)``.
    """

    scheduler: str
    options: Mapping[str, Any] = field(default_factory=dict)
    draws_noise: bool = False
    exploding: bool = False


_DPM = "DPMSolverMultistepScheduler"

SAMPLERS: Mapping[str, Sampler] = MappingProxyType(
    {
        # The options of SD 1.x's own DDIM (CompVis ``DDIMSampler``), as its diffusers export states them.
        "DDIM": Sampler("DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}),
        "Euler": Sampler("EulerDiscreteScheduler", exploding=True),
        "Euler a": Sampler("EulerAncestralDiscreteScheduler", draws_noise=True, exploding=True),
        "DPM++ 2M": Sampler(_DPM),
        "DPM++ 2M Karras": Sampler(_DPM, {"use_karras_sigmas": True}),
        "DPM++ 2M SDE": Sampler(_DPM, {"algorithm_type": "sde-dpmsolver++"}, draws_noise=True),
        "Heun": Sampler("HeunDiscreteScheduler", exploding=True),
        "UniPC": Sampler("UniPCMultistepScheduler"),
        "LCM": Sampler("LCMScheduler", {"set_alpha_to_one": False}, draws_noise=True),
    }
)


def scheduler_for(model: DiffusionModel, sampler: str, steps: int) -> Any:
    """A diffusers scheduler of the model's noise schedule, set to ``steps`` steps on the model's device."""
    import diffusers  # here, because the command line lists the samplers before anybody waits for a heavy package

    chosen = SAMPLERS[sampler]
    options = dict(chosen.options)
    if sampler == "LCM":
        # Its steps are picked from this many "original" ones; fewer than steps would be refused.
        options["original_inference_steps"] = max(50, steps)
    scheduler = getattr(diffusers, chosen.scheduler)(
        trained_betas=list(model.betas),
        num_train_timesteps=len(model.betas),
        prediction_type=model.config.prediction_type,
        **options,
    )
    scheduler.set_timesteps(steps, device=model.device)
    return scheduler


def noise_levels(scheduler: Any) -> tuple[float, ...]:
    """The noise level (sigma, noise over signal) of each U-Net call in order, and that of the result at the end."""
    if hasattr(scheduler, "sigmas"):
        return tuple(scheduler.sigmas.double().tolist())
    products = [float(scheduler.alphas_cumprod[timestep]) for timestep in scheduler.timesteps.tolist()]
    return tuple(math.sqrt((1 - a) / a) for a in (*products, float(scheduler.final_alpha_cumprod)))
