"""Law 8 on the real ldm U-Net: a real image as source branch, for every sampler that draws no noise."""

from __future__ import annotations

import dataclasses
import math
import re
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from lib_masactrl.errors import InversionError, SettingsError
from lib_masactrl.host.standalone.real_image import InversionPlan, invert_image
from lib_masactrl.host.standalone.samplers import SAMPLERS
from lib_masactrl.host.standalone.sampling import BranchPrompts, SamplingPlan, control_for, sample_latents
from lib_masactrl.settings import MasaCtrlSettings

STEPS = 4
ALLOWED = [name for name, sampler in SAMPLERS.items() if not sampler.draws_noise]


@pytest.fixture(scope="module")
def latent(model):
    """Of a picture that is not square."""
    return model.encode(torch.rand(1, 3, 64, 128, generator=torch.Generator().manual_seed(2)))


def batch(prompt="a cat lying", source_prompt="", **more):
    settings = MasaCtrlSettings.from_mapping(
        {"source_prompt": source_prompt, "start_step": 1, "start_layer": 4, **more}
    )
    return BranchPrompts.of_settings(settings, prompt, (0,), "blurred"), settings


def edited(model, image, sampler, *, cfg_scale=7.5, steps=STEPS, **more):
    of, settings = batch(**more)
    plan = SamplingPlan(sampler, steps, cfg_scale, width=128, height=64)
    return sample_latents(model, of, plan, control_for(model, settings, steps), image=image)


@contextmanager
def calls_of(unet):
    """(latents, timestep) of each U-Net call inside."""
    seen = []
    hook = unet.register_forward_pre_hook(lambda _, arguments: seen.append((arguments[0], float(arguments[1][0]))))
    try:
        yield seen
    finally:
        hook.remove()


def test_noise_beside_a_picture_is_refused(model, latent):
    image = invert_image(model, latent, InversionPlan("DDIM", STEPS))
    of = dataclasses.replace(batch()[0], noise=torch.zeros(2, 4, 8, 16))
    with pytest.raises(ValueError, match="both noise and a real image"):
        sample_latents(model, of, SamplingPlan("DDIM", STEPS, 7.5, 128, 64), image=image)


@pytest.mark.parametrize("sampler", ALLOWED)
def test_a_rectified_source_is_the_encoded_latent_whatever_the_target_does(model, latent, sampler):
    image = invert_image(model, latent, InversionPlan(sampler, STEPS))
    results = [edited(model, image, sampler, prompt=prompt) for prompt in ("a cat lying", "a red bird")]
    for target, source in results:
        torch.testing.assert_close(source, latent[0], rtol=1e-5, atol=1e-5)
        assert torch.isfinite(target).all() and (target - source).abs().max() > 0.5
    assert (results[0][0] - results[1][0]).abs().max() > 0.5
    drifting = edited(model, dataclasses.replace(image, rectify=False), sampler)
    assert (drifting[1] - latent[0]).abs().max() > 0.01


def test_every_group_has_its_own_image(model, latent):
    """Two images at once: each is inverted by itself, and both branches of a group start from its image."""
    both, plan = torch.cat([latent, latent.flip(-1)]), InversionPlan("DDIM", STEPS)
    image = invert_image(model, both, plan)
    for group in range(2):
        alone = invert_image(model, both[group : group + 1], plan)
        # One step up; further ones are not compared, as random weights amplify rounding thousandfold in each.
        torch.testing.assert_close(image.at(STEPS - 1)[group], alone.at(STEPS - 1)[0], rtol=0, atol=1e-3)
    _, settings = batch()
    of_both = BranchPrompts.of_settings(settings, "a cat lying", (0, 0), "blurred")
    sampling = SamplingPlan("DDIM", STEPS, 7.5, width=128, height=64)
    with calls_of(model.unet) as seen:
        rows = sample_latents(model, of_both, sampling, control_for(model, settings, STEPS), image=image)
    assert torch.equal(seen[0][0], image.at(0)[[0, 1, 0, 1] * 2])
    torch.testing.assert_close(rows[2:], both, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sampler", ALLOWED)
def test_the_u_net_is_asked_along_the_trajectory(model, latent, sampler):
    """Both branches start from the inverted latent; the source is on the trajectory at every call, Heun's second
    evaluations included; and inversion meets the timesteps of sampling, in the other direction."""
    with calls_of(model.unet) as inverting:
        image = invert_image(model, latent, InversionPlan(sampler, STEPS))
    with calls_of(model.unet) as sampling:
        edited(model, image, sampler)
    uncond_target, uncond_source, target, source = sampling[0][0]
    assert torch.equal(target, source) and torch.equal(uncond_target, uncond_source)
    assert len(sampling) == len(image.levels) - 1
    for level, (rows, _) in zip(image.levels, sampling):
        wanted = image.trajectory.at(level)[0] / math.sqrt(1 + level**2)  # every U-Net takes variance 1
        torch.testing.assert_close(rows[[1, 3]], torch.stack([wanted, wanted]), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(sampling[1][0][2], sampling[1][0][3], atol=0.1)
    asked = [timestep for _, timestep in sampling]
    assert [timestep for _, timestep in inverting] == sorted(set(asked))
    assert asked == sorted(asked, reverse=True)


def test_levels_are_those_of_the_noise_schedule(model, latent):
    """Timestep t of the model's schedule has the noise level sqrt((1 - a_t) / a_t)."""
    products = torch.cumprod(1 - torch.tensor(model.betas, dtype=torch.float64), 0)
    sigmas = ((1 - products) / products).sqrt().numpy()
    for sampler in ALLOWED:
        with calls_of(model.unet) as seen:
            image = invert_image(model, latent, InversionPlan(sampler, STEPS))
        levels = sorted({level for level in image.levels if level != image.levels[-1]})
        for level, (_, timestep) in zip(levels, seen):
            # Karras' levels lie between timesteps, and the model is asked at the nearest.
            near = sigmas[[max(0, math.floor(timestep - 0.51)), min(999, math.ceil(timestep + 0.51))]]
            assert near[0] * 0.99 <= level <= near[1] * 1.01, (sampler, timestep)
        assert image.levels[-1] == (pytest.approx(sigmas[0], rel=1e-4) if sampler == "DDIM" else 0)


class GaussianUNet(torch.nn.Module):
    """Predicts perfectly for data that are Gaussian in every value: random weights undo nothing, this can be undone."""

    MEAN, SPREAD = 0.3, 0.8

    def __init__(self, betas, predicts_v):
        super().__init__()
        products = np.cumprod(1 - np.array(betas))
        self.sigmas = np.sqrt((1 - products) / products)
        self.predicts_v = predicts_v

    def forward(self, latents, timesteps, context):
        sigma = float(np.interp(float(timesteps[0]), np.arange(len(self.sigmas)), self.sigmas))
        scale = math.sqrt(1 + sigma**2)
        x = latents * scale
        x0 = (self.SPREAD**2 * x + sigma**2 * self.MEAN) / (self.SPREAD**2 + sigma**2)
        eps = (x - x0) / sigma
        return (eps - sigma * x0) / scale if self.predicts_v else eps


def lost_in_a_round_trip(model, latent, sampler, steps, refinements=0):
    of, _ = batch(prompt="a cat", source_prompt="a cat")
    image = invert_image(model, latent, InversionPlan(sampler, steps, "a cat", refinements, rectify=False))
    rows = sample_latents(model, of, SamplingPlan(sampler, steps, 1.0, 128, 64), image=image)
    assert torch.equal(rows[0], rows[1])
    return float((rows[0] - latent[0]).abs().max())


@pytest.mark.parametrize("predicts_v", [False, True])
@pytest.mark.parametrize("sampler", ALLOWED)
def test_law_8_inversion_then_sampling_returns_the_latent(model, latent, sampler, predicts_v):
    """The better, the more steps; where sampling is DDIM, what Euler is too, refinement makes it exact."""
    prediction = "v_prediction" if predicts_v else "epsilon"
    config = dataclasses.replace(model.config, prediction_type=prediction)
    gaussian = dataclasses.replace(model, config=config, unet=GaussianUNet(model.betas, predicts_v))
    latent = 0.3 + 0.8 * torch.randn(latent.shape, generator=torch.Generator().manual_seed(4))
    few, many = (lost_in_a_round_trip(gaussian, latent, sampler, steps) for steps in (40, 160))
    assert many < 0.5 * few and many < 0.03, (few, many)
    if sampler in ("DDIM", "Euler"):
        assert many < 0.1 * few
        assert lost_in_a_round_trip(gaussian, latent, sampler, 10, refinements=50) < 1e-4


def test_a_target_that_asks_for_nothing_else_is_the_source(model, latent):
    """Same prompts, guidance 1, control past the end: plain sampling from the inverted latent, bit for bit."""
    image = invert_image(model, latent, InversionPlan("DDIM", STEPS, "a cat", rectify=False))
    same = {"prompt": "a cat", "source_prompt": "a cat"}
    target, source = edited(model, image, "DDIM", cfg_scale=1.0, start_step=STEPS, **same)
    plain = sample_latents(model, batch(**same)[0], SamplingPlan("DDIM", STEPS, 1.0, 128, 64), image=image)
    assert torch.equal(plain, torch.stack([target, source]))
    torch.testing.assert_close(target, source, rtol=0, atol=0.02)


def test_the_source_branch_has_guidance_1(model, latent):
    """So that what it loses without being rectified does not depend on the guidance of the targets."""
    image = invert_image(model, latent, InversionPlan("DDIM", STEPS, rectify=False))
    low, high = edited(model, image, "DDIM", cfg_scale=1.5), edited(model, image, "DDIM", cfg_scale=9.0)
    torch.testing.assert_close(low[1], high[1], rtol=0, atol=0.02)
    assert (low[0] - high[0]).abs().max() > 0.5


def test_targets_share_the_source(model, latent):
    image = invert_image(model, latent, InversionPlan("Euler", STEPS))
    three = edited(model, image, "Euler", more_targets="a red bird")
    torch.testing.assert_close(three[[0, 2]], edited(model, image, "Euler"), rtol=0, atol=0.2)
    torch.testing.assert_close(three[2], latent[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sampler", [*(name for name in SAMPLERS if name not in ALLOWED), "Euler b"])
def test_samplers_that_draw_noise_are_refused_by_name(sampler):
    with pytest.raises(
        SettingsError, match=rf"sampler is '{re.escape(sampler)}', .* one of DDIM, Euler, DPM\+\+ 2M, .*UniPC"
    ):
        InversionPlan(sampler, STEPS)


@pytest.mark.parametrize(("sampler", "steps"), [("DDIM", STEPS + 1), ("Euler", STEPS)])
def test_an_image_inverted_otherwise_is_refused(model, latent, sampler, steps):
    image = invert_image(model, latent, InversionPlan("DDIM", STEPS))
    with pytest.raises(SettingsError, match="another sampler or number of steps"):
        edited(model, image, sampler, steps=steps)


def test_numbers_that_are_not_finite_are_told(model, latent):
    with pytest.raises(InversionError, match="not finite"):
        invert_image(model, latent * math.nan, InversionPlan("DDIM", STEPS))
