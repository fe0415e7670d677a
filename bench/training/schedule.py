"""SD 1's noise schedule and the buffers that its checkpoints carry."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

LINEAR_START, LINEAR_END, TIMESTEPS = 0.00085, 0.0120, 1000


def schedule_buffers() -> dict[str, Tensor]:
    """The float32 buffers of ldm's DDPM.register_schedule, each (1000,), under its names."""
    betas = np.linspace(LINEAR_START**0.5, LINEAR_END**0.5, TIMESTEPS, dtype=np.float64) ** 2
    alphas = 1 - betas
    product = np.cumprod(alphas)
    previous = np.append(1.0, product[:-1])
    variance = betas * (1 - previous) / (1 - product)
    buffers = {
        "betas": betas,
        "alphas_cumprod": product,
        "alphas_cumprod_prev": previous,
        "sqrt_alphas_cumprod": np.sqrt(product),
        "sqrt_one_minus_alphas_cumprod": np.sqrt(1 - product),
        "log_one_minus_alphas_cumprod": np.log(1 - product),
        "sqrt_recip_alphas_cumprod": np.sqrt(1 / product),
        "sqrt_recipm1_alphas_cumprod": np.sqrt(1 / product - 1),
        "posterior_variance": variance,
        "posterior_log_variance_clipped": np.log(np.maximum(variance, 1e-20)),
        "posterior_mean_coef1": betas * np.sqrt(previous) / (1 - product),
        "posterior_mean_coef2": (1 - previous) * np.sqrt(alphas) / (1 - product),
    }
    return {name: torch.tensor(values, dtype=torch.float32) for name, values in buffers.items()}
