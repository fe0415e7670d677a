"""A real image's source rows in a WebUI (stand-in): where sampling starts, at every evaluation, and at its end."""

from __future__ import annotations

import importlib

import pytest
import torch

from lib_masactrl.branches import branches_in_batch
from lib_masactrl.inversion import NoiseSchedule, SourceTrajectory, signal_scale
from lib_masactrl.settings import MasaCtrlSettings
from tests.webui_standin import Request

SCHEDULE = NoiseSchedule.of_alphas_cumprod(torch.linspace(0.999, 0.005, 1000, dtype=torch.float64))
TIMESTEPS = (0, 300, 600, 900)
SIGMAS = tuple(SCHEDULE.level(timestep) for timestep in TIMESTEPS)
#: Two groups of a target and a source: rows of targets, then of sources.
BRANCHES = branches_in_batch(2, 1)


def trajectory(seed):
    noise = torch.Generator().manual_seed(seed)
    return SourceTrajectory(SIGMAS, tuple(torch.randn(1, 4, 8, 8, generator=noise) for _ in SIGMAS))


TRAJECTORIES = {0: trajectory(1), 1: trajectory(2)}


@pytest.fixture
def inverted(host):
    def of_settings(**settings):
        real_image = importlib.import_module("lib_masactrl.host.real_image")
        image = real_image.RealImage(Request(host), BRANCHES, MasaCtrlSettings(**settings), None)
        image._trajectories = TRAJECTORIES
        image._schedules[id(host.shared.sd_model)] = SCHEDULE
        image._levels = real_image.Levels(tuple(reversed(SIGMAS)), preserving=False, churn=False)
        return image

    return of_settings


def rows(passes=2, channels=4):
    return torch.randn(4 * passes, channels, 8, 8, generator=torch.Generator().manual_seed(9))


@pytest.mark.parametrize("passes", [1, 2])
@pytest.mark.parametrize("timestep", [900, 450.0, 0])
def test_every_source_row_is_put_on_its_pictures_trajectory(inverted, passes, timestep):
    """Between two stored levels too, where second-order and stochastic samplers ask; targets stay as they are."""
    given = rows(passes)
    before = given.clone()
    found = inverted().rectified(given, torch.full((len(given),), timestep))
    sigma = SCHEDULE.level(timestep)
    for row, branch in enumerate(BRANCHES * passes):
        wanted = TRAJECTORIES[branch.group].at(sigma)[0] / signal_scale(sigma) if branch.is_source else before[row]
        assert torch.allclose(found[row], wanted, atol=1e-6), row
    assert torch.equal(given, before)  # the host's own tensor


def test_more_channels_than_latents_have_are_the_hosts(inverted):
    given = rows(channels=5)
    found = inverted().rectified(given, torch.tensor([300.0]))
    assert torch.equal(found[:, 4], given[:, 4]) and not torch.equal(found[2, :4], given[2, :4])


def test_without_rectify_every_row_runs_freely(inverted):
    given = rows()
    assert inverted(rectify=False).rectified(given, torch.tensor([300.0])) is given
    ended = rows(1)
    assert inverted(rectify=False)._kept(ended) is ended


@pytest.mark.parametrize("preserving", [False, True])
def test_sampling_starts_from_the_inverted_noise_and_ends_with_the_picture(inverted, preserving):
    """In the sampler's own coordinates, every branch of a group from its picture's."""
    image = inverted()
    image._levels = type(image._levels)(image._levels.primary, preserving, churn=False)
    top, low = (signal_scale(sigma) if preserving else 1.0 for sigma in (SIGMAS[-1], SIGMAS[0]))
    start, end = image._start(rows(1)), image._kept(rows(1))
    for row, branch in enumerate(BRANCHES):
        own = TRAJECTORIES[branch.group]
        assert torch.allclose(start[row], own.latents[-1][0] / top)
        assert torch.allclose(end[row], own.latents[0][0] / low if branch.is_source else rows(1)[row])
