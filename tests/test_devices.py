"""Everything of ours stays on the model's device, checked without a GPU.

Fake tensors have a device and a shape but no values, and refuse to be mixed with tensors of another device. The model
is put on "meta", because PyTorch without CUDA cannot index tensors that only claim to be on CUDA. What needs values is
replaced: the scheduler (diffusers' own concern), and the inversion's check for numbers that are not finite.
"""

from __future__ import annotations

import copy
import dataclasses
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses import FakeTensorMode

from lib_masactrl import inversion
from lib_masactrl.host.standalone import real_image, sampling
from lib_masactrl.host.standalone.real_image import InversionPlan, invert_image
from lib_masactrl.host.standalone.sampling import BranchPrompts, SamplingPlan, control_for, sample_latents
from lib_masactrl.settings import MasaCtrlSettings

PLAN = SamplingPlan("DDIM", 3, 7.5, 64, 64)


class Scheduler:
    """Three steps along noise levels that are Python numbers."""

    order, init_noise_sigma, levels = 1, 1.0, (3.0, 2.0, 1.0, 0.0)

    def __init__(self, device: torch.device) -> None:
        self.timesteps = torch.tensor([900, 600, 300], device=device)

    def scale_model_input(self, latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        return latents

    def step(self, predicted: torch.Tensor, timestep: torch.Tensor, latents: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(prev_sample=latents - 0.1 * predicted)


@pytest.fixture
def elsewhere(model, monkeypatch):
    """The model with fake weights on another device than the CPU."""
    for module in (sampling, real_image):
        monkeypatch.setattr(module, "scheduler_for", lambda model, sampler, steps: Scheduler(model.device))
        monkeypatch.setattr(module, "noise_levels", lambda scheduler: scheduler.levels)
    monkeypatch.setattr(inversion, "_check_finite", lambda x, sigma: None)
    with FakeTensorMode(allow_non_fake_inputs=True):
        # Real embeddings refuse token numbers from another device, fake ones do not.
        networks = {name: faked(getattr(model, name)) for name in ("unet", "autoencoder", "text_encoder")}
        networks["text_encoder"].transformer.register_forward_pre_hook(_check_tokens, with_kwargs=True)
        yield dataclasses.replace(model, device=torch.device("meta"), **networks)


def _check_tokens(module, args, kwargs):
    assert kwargs["input_ids"].device.type == "meta"


def faked(network: torch.nn.Module) -> torch.nn.Module:
    """A copy whose parameters and buffers are fake tensors; call it under a FakeTensorMode."""
    instead = {}
    for value in (*network.parameters(), *network.buffers()):
        fake = torch.empty(value.shape, dtype=value.dtype, device="meta")
        is_parameter = isinstance(value, torch.nn.Parameter)
        instead[id(value)] = torch.nn.Parameter(fake, requires_grad=False) if is_parameter else fake
    return copy.deepcopy(network, instead)


def batch(settings: MasaCtrlSettings) -> BranchPrompts:
    return BranchPrompts.of_settings(settings, "a cat lying", (1, 2), "blurred")


@pytest.mark.parametrize("method", ["mutual", "union"])
def test_sampling_under_control_stays_on_the_device(elsewhere, method):
    settings = MasaCtrlSettings(enabled=True, source_prompt="a cat", method=method, start_step=1, start_layer=0)
    control = control_for(elsewhere, settings, PLAN.steps)
    latents = sample_latents(elsewhere, batch(settings), PLAN, control)
    assert control.record.steps == {1, 2}
    assert latents.device.type == "meta" and latents.shape == (4, 4, 8, 8)
    assert elsewhere.decode(latents).device.type == "cpu"


@pytest.mark.parametrize("rectify", [True, False])
def test_a_real_image_stays_on_the_device(elsewhere, rectify):
    settings = MasaCtrlSettings(start_step=1, start_layer=0)
    latent = elsewhere.encode(torch.zeros(1, 3, 64, 64))
    assert latent.device.type == "meta"
    image = invert_image(elsewhere, latent.repeat(2, 1, 1, 1), InversionPlan("DDIM", PLAN.steps, rectify=rectify))
    control = control_for(elsewhere, settings, PLAN.steps)
    latents = sample_latents(elsewhere, batch(settings), PLAN, control, image=image)
    assert latents.device.type == "meta" and latents.shape == (4, 4, 8, 8)
