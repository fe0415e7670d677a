"""The noise levels that a sampler will visit are known before it samples, whatever it calls its options."""

from __future__ import annotations

import types

import pytest
import torch

from lib_masactrl.errors import InversionError
from lib_masactrl.host.sampler_levels import sampler_levels
from lib_masactrl.inversion import NoiseSchedule, signal_scale

SCHEDULE = NoiseSchedule.of_alphas_cumprod(torch.linspace(0.999, 0.005, 1000, dtype=torch.float64))
X = torch.ones(2, 4, 8, 8)


def ddim(model, x, timesteps, extra_args, callback, disable):
    """As A1111's: it asks at each timestep but the first, and ends at the first."""
    assert disable
    for timestep in reversed(timesteps[1:].tolist()):
        x = x + 0 * model(x, torch.full((2,), float(timestep)), **extra_args)
        callback({"x": x})
    return x * model.stretch


def fast(model, x, sigma_min, sigma_max, n, **_):
    for sigma in torch.linspace(sigma_max, sigma_min, n + 1)[:-1]:
        model(x, sigma.expand(2))
    assert model.last_noise_uncond.shape == x.shape
    return x


def levels(sampler, **options):
    model = types.SimpleNamespace(stretch=1.0)
    return sampler_levels(model, sampler, X, {"extra_args": {"cond": None}, **options}, SCHEDULE)


def test_sigmas_are_taken_as_given_and_the_sampler_is_not_run():
    found = levels(None, sigmas=torch.tensor([14.0, 3.0, 0.5, 0.0]))
    assert found.primary == (14.0, 3.0, 0.5, 0.0)
    assert (found.preserving, found.churn, found.scale(14.0)) == (False, False, 1.0)
    assert levels(None, sigmas=[1.0, 0.0], s_churn=5.0).churn


def test_timesteps_become_levels_and_end_where_the_sampler_ends():
    found = levels(ddim, timesteps=torch.tensor([1, 251, 501, 751]))
    assert found.primary == pytest.approx([SCHEDULE.level(t) for t in (751, 501, 251, 1)])
    assert found.preserving and found.scale(2.0) == signal_scale(2.0)


def test_a_sampler_that_goes_below_its_first_timestep_ends_at_none():
    def lower(model, x, timesteps, **_):
        model(x, torch.tensor([600.0]))
        model(x, torch.tensor([0.5]))

    found = levels(lower, timesteps=torch.tensor([1, 600]))
    assert found.primary == pytest.approx([SCHEDULE.level(t) for t in (600, 0.5, 0)])


def test_the_ends_of_samplers_that_choose_levels_themselves():
    found = levels(fast, sigma_min=torch.tensor(0.5), sigma_max=torch.tensor(10.0), n=4)
    assert found.primary == pytest.approx((10.0, 7.625, 5.25, 2.875, 0.5))
    assert not found.preserving


def test_a_sampler_that_takes_no_step_is_refused():
    with pytest.raises(InversionError, match="raise the denoising strength"):
        levels(ddim, timesteps=torch.tensor([1]))
