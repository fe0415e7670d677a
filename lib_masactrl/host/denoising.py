"""The loaded checkpoint as inversion needs it: noise levels, text conditioning, its estimate of the clean latent.

AUTOMATIC1111 keeps `ldm` and `sgm` models with an ``apply_model`` in variance-preserving coordinates, which
k-diffusion's wrappers turn into an estimate; the Forge family keeps a patcher, which is asked as its samplers ask it,
by noise level, and gives the estimate itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from modules import prompt_parser, shared
from torch import Tensor

from lib_masactrl.host.capabilities import forge_evaluation, forge_part
from lib_masactrl.inversion import Denoise, NoiseSchedule

#: The text conditioning (rows, tokens, channels) or, in SDXL, a mapping that also holds ``vector``, at a noise level.
CondAt = Callable[[float], "Tensor | Mapping[str, Tensor]"]


def noise_schedule(sd_model: Any) -> NoiseSchedule:
    """The noise level of each timestep of the loaded model, as the host set it for this request (zero-SNR options)."""
    patcher = forge_part(sd_model, "unet")
    if patcher is None:
        return NoiseSchedule.of_alphas_cumprod(sd_model.alphas_cumprod)
    predictor = getattr(patcher.model, "predictor", None) or patcher.model.model_sampling
    return NoiseSchedule(predictor.sigmas.double().cpu().tolist())


def denoiser(sd_model: Any, cond_at: CondAt, image_cond: Tensor, options: Mapping[str, Any]) -> Denoise:
    """The loaded model at guidance 1.

    Args:
        cond_at: conditioning of the rows at a noise level.
        image_cond: the host's image conditioning of the rows; models that are not for inpainting ignore it.
        options: those of the patched network; see :func:`~lib_masactrl.host.forge_network.network_options`.
    """
    patcher = forge_part(sd_model, "unet")
    if patcher is None:
        return _of_apply_model(sd_model, cond_at, image_cond)
    return _of_patcher(patcher, cond_at, options)


def _of_apply_model(sd_model: Any, cond_at: CondAt, image_cond: Tensor) -> Denoise:
    from k_diffusion.external import CompVisDenoiser, CompVisVDenoiser

    wrapper = CompVisVDenoiser if sd_model.parameterization == "v" else CompVisDenoiser
    model = wrapper(sd_model, quantize=shared.opts.enable_quantization)  # as the host's samplers have it

    def denoise(x: Tensor, sigma: float) -> Tensor:
        cond = cond_at(sigma)
        # A new dictionary each time: the host's `apply_model` writes into it.
        given: dict[str, Any] = {"c_concat": [image_cond]}
        if isinstance(cond, Mapping):
            given.update(cond)
        else:
            given["c_crossattn"] = [cond]
        estimate: Tensor = model(x, x.new_full((len(x),), sigma), cond=given)
        return estimate.float()

    return denoise


def _of_patcher(patcher: Any, cond_at: CondAt, options: Mapping[str, Any]) -> Denoise:
    compiled, evaluated = forge_evaluation()

    def denoise(x: Tensor, sigma: float) -> Tensor:
        # As a sampler's call without an unconditional part, and without ControlNet's signals.
        cond, sigmas = compiled(cond_at(sigma)), x.new_full((len(x),), sigma)
        estimate: Tensor = evaluated(patcher.model, cond, None, x, sigmas, options)[0]
        return estimate.float()

    return denoise


class Conditioning:
    """The text conditioning of rows, by noise level: prompt editing (``[a:b:0.5]``) changes it between steps."""

    def __init__(self, model: Any, levels: Sequence[float]) -> None:
        """
        Args:
            model: the host's denoiser, about to sample.
            levels: the noise levels that it will visit, descending.
        """
        self._descending = levels
        per_step = max(1, int(model.total_steps) // max(1, int(model.steps)))
        scheduled = model.sampler.sampler_extra_args["cond"]
        self._steps = [
            prompt_parser.reconstruct_multicond_batch(scheduled, index * per_step)[1]
            for index in range(len(levels) - 1)
        ]

    def of_row(self, row: int) -> list[Tensor]:
        """Every different conditioning of one row, for its cache key."""
        different: list[Tensor] = []
        for cond in self._steps:
            parts = [rows_of(part, [row]) for part in (cond.values() if isinstance(cond, Mapping) else [cond])]
            if not different or any(not torch.equal(a, b) for a, b in zip(parts, different[-len(parts) :])):
                different += parts
        return different

    def at(self, rows: list[int]) -> Any:
        """Conditioning of ``rows`` as a function of the noise level."""

        def cond_at(sigma: float) -> Any:
            above = sum(level > sigma * (1 + 1e-6) for level in self._descending)
            cond = self._steps[min(above, len(self._steps) - 1)]
            if isinstance(cond, Mapping):
                return {name: rows_of(part, rows) for name, part in cond.items()}
            return rows_of(cond, rows)

        return cond_at


def rows_of(tensor: Tensor, rows: list[int]) -> Tensor:
    """Some ``rows`` of a tensor, in that order."""
    return tensor[torch.tensor(rows, device=tensor.device)]
