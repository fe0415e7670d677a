"""Law 8 on a model whose trajectories are known: for Gaussian data the ODE has a closed form."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from lib_masactrl.errors import InversionError
from lib_masactrl.inversion import NoiseSchedule, SourceTrajectory, invert, sample_back, subdivided

#: The data are Gaussian with this mean and standard deviation in every value.
MEAN, SPREAD = 0.7, 0.5
HIGHEST = 14.0


def gaussian(x, sigma):
    """The best estimate of x0: the mean of the two Gaussians' product."""
    return (SPREAD**2 * x + sigma**2 * MEAN) / (SPREAD**2 + sigma**2)


def exact(latents, sigma, lowest=0.0):
    """The ODE's solution through ``latents`` at level ``lowest``."""
    return MEAN + (latents - MEAN) * math.sqrt((SPREAD**2 + sigma**2) / (SPREAD**2 + lowest**2))


def levels(steps, lowest=0.0):
    """Dense at low noise, as the schedules of Stable Diffusion are; doubling the steps halves every step."""
    low, high = math.asinh(lowest / SPREAD), math.asinh(HIGHEST / SPREAD)
    return [SPREAD * math.sinh(low + (high - low) * step / steps) for step in range(steps + 1)]


def clean(dtype=torch.float64):
    """Non-square, more than one row."""
    generator = torch.Generator().manual_seed(1)
    return MEAN + SPREAD * torch.randn(2, 4, 5, 9, generator=generator, dtype=dtype)


def sampled(x, sigmas, denoise=gaussian, rectified=None):
    """DDIM (Euler in these coordinates) from the highest level down; ``rectified`` puts it back on a trajectory."""
    descending = sorted(sigmas, reverse=True)
    for above, below in pairwise(descending):
        x = x if rectified is None else rectified.at(above)
        x = x + (below - above) * (x - denoise(x, above)) / above
    return x if rectified is None else rectified.at(descending[-1])


def error(got, expected):
    return float((got - expected).abs().max())


@pytest.mark.parametrize("lowest", [0.0, 0.03])
def test_inversion_converges_to_the_closed_form_with_first_order(lowest):
    """Also where sampling ends above level 0, as SD 1's DDIM does."""
    wanted = exact(clean(), HIGHEST, lowest)
    errors = [error(invert(clean(), levels(n, lowest), gaussian).start, wanted) for n in (100, 200, 400, 800)]
    assert errors[-1] < 0.01 * float(wanted.abs().max())
    assert all(1.8 < coarse / fine < 2.2 for coarse, fine in pairwise(errors))


def test_every_level_between_is_on_the_closed_form():
    trajectory = invert(clean(), levels(800), gaussian)
    assert trajectory.sigmas == tuple(levels(800)) and len(trajectory.latents) == 801
    for sigma, latents in zip(trajectory.sigmas[::100], trajectory.latents[::100]):
        torch.testing.assert_close(latents, exact(clean(), sigma), rtol=0.02, atol=0.02)


def test_law_8_inversion_then_sampling_returns_the_latent():
    """The better, the more steps; refined, to rounding with few steps."""

    def lost(steps, refinements=0):
        start = invert(clean(), levels(steps), gaussian, refinements).start
        return error(sampled(start, levels(steps)), clean())

    by_steps = [lost(steps) for steps in (10, 20, 40, 80, 160)]
    assert all(coarse > 1.8 * fine for coarse, fine in pairwise(by_steps)) and by_steps[-1] < 1e-2
    by_refinements = [lost(20, refinements) for refinements in (0, 1, 2, 4)]
    assert all(rough > 2 * refined for rough, refined in pairwise(by_refinements))
    assert lost(20, 60) < 1e-12


@pytest.mark.parametrize("lowest", [0.0, 0.03])
def test_sampling_back_is_plain_ddim_and_its_loss_that_of_the_inversion(lowest):
    """Against the steps written out, and, with the steps, against the closed form through the inverted latents."""

    def off(steps):
        start = invert(clean(), levels(steps, lowest), gaussian).start
        wanted = MEAN + (start - MEAN) * math.sqrt((SPREAD**2 + lowest**2) / (SPREAD**2 + HIGHEST**2))
        return error(sample_back(start, levels(steps, lowest), gaussian), wanted)

    trajectory = invert(clean(), levels(20, lowest), gaussian)
    returned = sample_back(trajectory.start, trajectory.sigmas, gaussian)
    assert torch.equal(returned, sampled(trajectory.start, levels(20, lowest))) and returned.shape == clean().shape
    assert error(returned, trajectory.latents[0]) > 0.01
    errors = [off(steps) for steps in (100, 200, 400, 800)]
    assert all(1.8 < coarse / fine < 2.2 for coarse, fine in pairwise(errors)) and errors[-1] < 0.01
    refined = invert(clean(), levels(20, lowest), gaussian, 60)
    assert error(sample_back(refined.start, refined.sigmas, gaussian), clean()) < 1e-12


def test_sampling_back_asks_the_model_once_per_step_at_the_upper_level():
    asked = []

    def listening(x, sigma):
        asked.append(sigma)
        return gaussian(x, sigma)

    sample_back(clean(), levels(5), listening)
    assert asked == levels(5)[:0:-1]
    with pytest.raises(InversionError, match="have to ascend"):
        sample_back(clean(), levels(5)[::-1], gaussian)
    with pytest.raises(InversionError, match=r"not finite at noise level 1\b"):
        sample_back(clean(), [0, 1, 3], lambda x, sigma: x * math.nan if sigma == 3 else gaussian(x, sigma))


@pytest.mark.parametrize("steps", [1, 4, 20])
def test_law_8_rectified_it_is_exact_to_rounding(steps):
    latents = clean(torch.float32)
    trajectory = invert(latents, levels(steps), gaussian)
    assert torch.equal(sampled(trajectory.start, levels(steps), rectified=trajectory), latents)
    assert error(sampled(trajectory.start, levels(steps)), latents) > 1e-4

    def disturbed(x, sigma):
        return gaussian(x, sigma) + 3

    assert torch.equal(sampled(trajectory.start, levels(steps), disturbed, trajectory), latents)


def test_between_levels_it_is_linear_in_the_noise_level():
    trajectory = invert(clean(), [0.0, 1.0, 3.0], gaussian)
    for stored, sigma in enumerate(trajectory.sigmas):
        assert torch.equal(trajectory.at(sigma), trajectory.latents[stored])
    _, low, high = trajectory.latents
    torch.testing.assert_close(trajectory.at(1.5), 0.75 * low + 0.25 * high)
    assert trajectory.at(1.5).shape == clean().shape
    torch.testing.assert_close(trajectory.at(0.25), 0.75 * clean() + 0.25 * low)


def test_levels_of_another_precision_are_found():
    trajectory = invert(clean(), [0.029, 1.1, 14.6], gaussian)
    for level, stored in zip(torch.tensor([0.029, 1.1, 14.6]).tolist(), trajectory.latents):
        torch.testing.assert_close(trajectory.at(level), stored, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("sigma", [-0.1, 0.4, 3.1, math.nan, math.inf])
def test_a_level_outside_is_refused(sigma):
    trajectory = invert(clean(), [0.5, 1.0, 3.0], gaussian)
    with pytest.raises(InversionError, match=r"goes from 0\.5 to 3;"):
        trajectory.at(sigma)


def test_the_model_is_asked_at_the_sampler_s_levels_only_and_that_often():
    asked = []

    def listening(x, sigma):
        asked.append(sigma)
        return gaussian(x, sigma)

    invert(clean(), levels(5), listening)
    assert asked == levels(5)[1:]
    asked.clear()
    invert(clean(), levels(5), listening, refinements=2)
    assert asked == [sigma for sigma in levels(5)[1:] for _ in range(3)]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_are_not_finite_are_told_where_they_appear(value):
    with pytest.raises(InversionError, match="noise level 0;"):
        invert(clean().index_fill(0, torch.tensor([1]), value), levels(3), gaussian)
    with pytest.raises(InversionError, match=r"not finite at noise level 3\b"):
        invert(clean(), [0, 1, 3], lambda x, sigma: x * value if sigma == 3 else gaussian(x, sigma))


@pytest.mark.parametrize("sigmas", [[], [1.0, 1.0], [3.0, 1.0, 0.0], [-1.0, 1.0], [0.0, math.nan], [0.0, math.inf]])
def test_levels_that_do_not_ascend_are_refused(sigmas):
    with pytest.raises(InversionError, match="have to ascend"):
        invert(clean(), sigmas, gaussian)


def test_fewer_than_no_refinements_are_refused():
    with pytest.raises(InversionError, match="refinements is -1"):
        invert(clean(), levels(3), gaussian, -1)


def test_a_single_level_has_nothing_to_invert():
    trajectory = invert(clean(), [0.0], gaussian)
    assert isinstance(trajectory, SourceTrajectory)
    assert torch.equal(trajectory.start, clean()) and torch.equal(trajectory.at(0.0), clean())


def test_rows_do_not_see_each_other():
    both = invert(clean(), levels(7), gaussian, 1).start
    assert torch.equal(both[1:], invert(clean()[1:], levels(7), gaussian, 1).start)


def test_a_noise_schedule_gives_the_levels_of_the_alphas():
    alphas = torch.linspace(0.999, 0.005, 1000, dtype=torch.float64)
    schedule = NoiseSchedule.of_alphas_cumprod(alphas)
    for timestep in (0, 1, 500, 999):
        expected = float(((1 - alphas[timestep]) / alphas[timestep]).sqrt())
        assert schedule.level(timestep) == pytest.approx(expected, rel=1e-12)
    between = schedule.level(500.25)
    assert between == pytest.approx(schedule.level(500) ** 0.75 * schedule.level(501) ** 0.25, rel=1e-12)
    assert (schedule.level(-3), schedule.level(2000)) == (schedule.level(0), schedule.level(999))


def test_subdividing_keeps_the_given_levels():
    assert subdivided((0.0, 1.0, 3.0), 1) == (0.0, 1.0, 3.0)
    assert subdivided((0.0, 1.0, 3.0), 4) == (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0)
