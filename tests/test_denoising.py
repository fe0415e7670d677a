"""The loaded checkpoint of a WebUI (stand-in) as inversion asks it, with the real `ldm` U-Net in it."""

from __future__ import annotations

import importlib
import math
import sys
import types

import pytest
import torch

from lib_masactrl.inversion import NoiseSchedule, invert, sample_back
from tests.unets import CONTEXT, small_unet

ALPHAS = torch.linspace(0.9999, 0.005, 1000, dtype=torch.float64)
SCHEDULE = NoiseSchedule.of_alphas_cumprod(ALPHAS)
LEVELS = [0.0, *(SCHEDULE.level(t) for t in (100, 300, 500, 700, 900))]
IMAGE_COND = torch.zeros(1, 5, 1, 1)


@pytest.fixture
def denoising(host):
    host.shared.opts.enable_quantization = False
    return importlib.import_module("lib_masactrl.host.denoising")


class Checkpoint:
    """A1111's `LatentDiffusion`: it takes conditionings by name, and writes into what it is given."""

    parameterization, alphas_cumprod = "eps", ALPHAS

    def __init__(self) -> None:
        self.unet = small_unet(levels=2)
        self.asked: list[set[str]] = []

    def apply_model(self, x, timesteps, cond):
        self.asked.append(set(cond))
        (text,) = [cond.pop("crossattn")] if "crossattn" in cond else cond.pop("c_crossattn")
        with torch.no_grad():
            return self.unet(x, timesteps, context=text)


class OfNoise:
    """`CompVisDenoiser`, between two timesteps at the nearer one (k-diffusion ``external.py``)."""

    said = "noise"

    def __init__(self, model, quantize):
        self.model, self.quantize = model, quantize

    def __call__(self, x, sigma, cond):
        level = float(sigma[0])
        nearest = min(range(1000), key=lambda t: abs(math.log(SCHEDULE.level(t) / level)))
        timesteps = torch.full((len(x),), nearest)
        return x - level * self.model.apply_model(x / math.sqrt(1 + level**2), timesteps, cond)


class OfVelocity(OfNoise):
    """`CompVisVDenoiser`, as far as it can be told from the other."""

    def __call__(self, x, sigma, cond):
        return torch.full_like(x, 7)


@pytest.fixture
def k_diffusion(monkeypatch):
    external = types.ModuleType("k_diffusion.external")
    vars(external).update(CompVisDenoiser=OfNoise, CompVisVDenoiser=OfVelocity)
    monkeypatch.setitem(sys.modules, "k_diffusion", types.ModuleType("k_diffusion"))
    monkeypatch.setitem(sys.modules, "k_diffusion.external", external)


def text(rows=1, seed=0):
    return torch.randn(rows, 7, CONTEXT, generator=torch.Generator().manual_seed(seed))


def latents(rows=1):
    return torch.randn(rows, 4, 8, 8, generator=torch.Generator().manual_seed(9))


@pytest.mark.usefixtures("k_diffusion")
def test_inversion_by_a_checkpoint_of_automatic1111_comes_back(denoising):
    """Law 8, through the host's wrapper and the real U-Net."""
    model, wanted = Checkpoint(), latents(2)
    denoise = denoising.denoiser(model, lambda sigma: text(2), IMAGE_COND, {})
    trajectory = invert(wanted, LEVELS, denoise, refinements=30)
    assert (trajectory.start - wanted).abs().mean() > 0.3
    returned = sample_back(trajectory.start, LEVELS, denoise)
    assert (returned - wanted).abs().max() < 1e-3
    assert model.asked[0] == {"c_concat", "c_crossattn"}


@pytest.mark.usefixtures("k_diffusion")
def test_an_sdxl_conditioning_is_given_by_its_names(denoising):
    model = Checkpoint()
    cond = {"crossattn": text(), "vector": torch.zeros(1, 8)}
    denoise = denoising.denoiser(model, lambda sigma: cond, IMAGE_COND, {})
    first = denoise(latents(), 1.0)
    assert torch.equal(first, denoise(latents(), 1.0))  # although the model took its conditioning apart
    assert model.asked == [{"c_concat", "crossattn", "vector"}] * 2
    assert set(cond) == {"crossattn", "vector"}


@pytest.mark.usefixtures("k_diffusion")
def test_a_checkpoint_that_predicts_velocity_is_asked_as_one(denoising):
    model = Checkpoint()
    model.parameterization = "v"
    assert (denoising.denoiser(model, lambda sigma: text(), IMAGE_COND, {})(latents(), 1.0) == 7).all()


def test_a_checkpoint_of_forge_is_asked_as_its_samplers_ask_it(denoising, monkeypatch):
    """With the patched network's options, and without an unconditional part."""
    asked = []

    def evaluated(network, cond, uncond, x, sigmas, options):
        asked.append((network, cond, uncond, sigmas.tolist(), options))
        return x.half() / 2, x

    monkeypatch.setattr(denoising, "forge_evaluation", lambda: (lambda cond: ["compiled", cond], evaluated))
    unet = types.SimpleNamespace(model=object())
    loaded = types.SimpleNamespace(forge_objects=types.SimpleNamespace(unet=unet))
    options = {"transformer_options": {"patches": {}}}
    denoise = denoising.denoiser(loaded, lambda sigma: f"at {sigma}", IMAGE_COND, options)
    estimate = denoise(torch.ones(2, 4, 8, 8), 1.5)
    assert estimate.dtype == torch.float32 and (estimate == 0.5).all()
    assert asked == [(unet.model, ["compiled", "at 1.5"], None, [1.5, 1.5], options)]


def test_noise_levels_of_each_family(denoising):
    sigmas = torch.tensor([0.1, 1.0, 10.0])
    for name in ("predictor", "model_sampling"):  # Forge; reForge and Classic
        network = types.SimpleNamespace(**{name: types.SimpleNamespace(sigmas=sigmas)})
        unet = types.SimpleNamespace(model=network)
        loaded = types.SimpleNamespace(forge_objects=types.SimpleNamespace(unet=unet))
        assert denoising.noise_schedule(loaded).level(1) == pytest.approx(1.0)
    assert denoising.noise_schedule(Checkpoint()).level(400) == pytest.approx(SCHEDULE.level(400))


def conditioning(host, denoising, schedule, total_steps=4, steps=4):
    """Of prompts that are edited: ``schedule(step)`` are the rows' conditionings as the host makes them for a step."""
    host.prompt_parser.reconstruct_multicond_batch = lambda scheduled, step: ([], scheduled(step))
    sampler = types.SimpleNamespace(sampler_extra_args={"cond": schedule})
    model = types.SimpleNamespace(total_steps=total_steps, steps=steps, sampler=sampler)
    return denoising.Conditioning(model, (10.0, 5.0, 2.0, 1.0, 0.0))


@pytest.mark.parametrize("per_step", [1, 2])
def test_a_prompt_that_is_edited_is_inverted_as_it_will_be_sampled(host, denoising, per_step):
    """``[a:b:0.5]``, by noise level; a second-order sampler counts two evaluations to a step."""
    before, after = text(2, seed=1), text(2, seed=2)
    schedule = conditioning(host, denoising, lambda step: before if step < 2 * per_step else after, 4 * per_step)
    at = schedule.at([1])
    for sigma, expected in ((10.0, before), (7.0, before), (5.0, before), (2.0, after), (1.0, after), (0.5, after)):
        assert torch.equal(at(sigma), expected[[1]]), sigma
    assert torch.equal(schedule.at([1, 0])(10.0), before[[1, 0]])
    assert len(schedule.of_row(1)) == 2
    assert len(conditioning(host, denoising, lambda step: before).of_row(0)) == 1


def test_rows_of_an_sdxl_conditioning(host, denoising):
    cond = {"crossattn": text(2), "vector": torch.arange(2.0)[:, None]}
    schedule = conditioning(host, denoising, lambda step: cond)
    found = schedule.at([1])(5.0)
    assert torch.equal(found["crossattn"], cond["crossattn"][[1]]) and found["vector"].tolist() == [[1.0]]
    assert [part.tolist() for part in schedule.of_row(1)] == [found["crossattn"].tolist(), [[1.0]]]
