"""Sampling a batch of branches: classifier-free guidance, one noise per group, and control told where it is."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from lib_masactrl.branches import BatchLayout, Branch, branches_in_batch
from lib_masactrl.control import METHODS, MutualSelfAttentionControl
from lib_masactrl.errors import SettingsError
from lib_masactrl.host.foreground import branches_by_words, foreground_words, masks_for
from lib_masactrl.host.standalone.checkpoint import DiffusionModel
from lib_masactrl.host.standalone.controlnet import WeightedControlNet, residuals_added
from lib_masactrl.host.standalone.guided_prediction import GuidedPrediction
from lib_masactrl.host.standalone.real_image import InvertedImage
from lib_masactrl.host.standalone.samplers import SAMPLERS, noise_levels, scheduler_for
from lib_masactrl.host.standalone.t2i_adapter import features_added
from lib_masactrl.layers import self_attention_layers
from lib_masactrl.masks import WordPositions
from lib_masactrl.patching import attached
from lib_masactrl.schedule import ControlWindow, default_start_layer
from lib_masactrl.settings import MasaCtrlSettings


@dataclass(frozen=True)
class SamplingPlan:
    """How to sample; sizes are in pixels.

    Raises:
        SettingsError: a value is not allowed.
    """

    sampler: str = "DDIM"
    steps: int = 50
    cfg_scale: float = 7.5
    width: int = 512
    height: int = 512

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise SettingsError(f"sampler is {self.sampler!r}, but it takes one of {', '.join(SAMPLERS)}; correct it.")
        if not 1 <= self.steps <= 1000:
            raise SettingsError(f"steps is {self.steps}, but it takes 1 to 1000; correct steps.")
        if not (math.isfinite(self.cfg_scale) and self.cfg_scale >= 1):
            raise SettingsError(f"cfg_scale is {self.cfg_scale}, but it takes a number from 1; correct cfg_scale.")

    def check_size(self, model: DiffusionModel) -> None:
        """Whether ldm's U-Net can sample this size.

        Raises:
            SettingsError: width or height is no multiple of what ``model`` needs.
        """
        multiple = model.config.size_multiple
        for name in ("width", "height"):
            value = getattr(self, name)
            if value < multiple or value % multiple:
                nearest = max(1, round(value / multiple)) * multiple
                raise SettingsError(
                    f"{name} is {value}, but ldm's U-Net of {model.name} works on multiples of {multiple} only; "
                    f"give {nearest}. (The WebUI extension takes any multiple of 8.)"
                )


@dataclass(frozen=True)
class BranchPrompts:
    """A batch: its branches, one prompt per branch, one seed per group.

    Attributes:
        features: what T2I-Adapters add at the levels of the U-Net's encoder, each (branches, channels, h, w).
        controlnets: evaluated anew at each U-Net call.
        noise: what each branch starts from, (branches, channels, h, w) of unit variance, instead of the noise of its
            group's seed.
    """

    branches: tuple[Branch, ...]
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    negative_prompt: str = ""
    features: tuple[Tensor, ...] = field(default=(), compare=False)
    controlnets: tuple[WeightedControlNet, ...] = field(default=(), compare=False)
    noise: Tensor | None = field(default=None, compare=False)

    @classmethod
    def of_settings(
        cls, settings: MasaCtrlSettings, prompt: str, seeds: tuple[int, ...], negative_prompt: str = ""
    ) -> BranchPrompts:
        """The batch of ``settings``, whose first target has ``prompt``; one group for each seed."""
        branches = branches_in_batch(len(seeds), settings.targets)
        targets = (prompt, *settings.target_prompts)
        prompts = (settings.source_prompt if b.target is None else targets[b.target] for b in branches)
        return cls(branches, tuple(prompts), seeds, negative_prompt)


def control_for(
    model: DiffusionModel,
    settings: MasaCtrlSettings,
    steps: int,
    batch: BranchPrompts | None = None,
    painted: Tensor | None = None,
) -> MutualSelfAttentionControl:
    """The control that ``settings`` ask for on ``model`` in ``steps`` sampling steps.

    Args:
        batch: needed for masks.
        painted: the source's foreground for ``mask: painted``, (height, width) in 0..1.

    Raises:
        SettingsError: the window begins past the last step or the last layer, or a mask cannot be made.
        UnsupportedModelError: the model has no U-Net self-attention.
    """
    layers = len(self_attention_layers(model.unet))
    start_layer = default_start_layer(layers) if settings.start_layer is None else settings.start_layer
    for name, value, available in (("start_step", settings.start_step, steps), ("start_layer", start_layer, layers)):
        if value > available:
            raise SettingsError(
                f"{name} is {value}, but there are {available}; give 0 to {available} ({available} controls none)."
            )
    window = ControlWindow(settings.start_step, settings.end_step, start_layer)
    masks = None
    if batch and settings.mask != "none":
        masks = masks_for(settings, batch.branches, painted, _word_positions(model, settings, batch))
    return MutualSelfAttentionControl(window, METHODS[settings.method], masks)


def _word_positions(model: DiffusionModel, settings: MasaCtrlSettings, batch: BranchPrompts) -> WordPositions | None:
    by_words = branches_by_words(settings, batch.branches)
    if not by_words:
        return None
    prompts = {branch: (prompt,) for branch, prompt in zip(batch.branches, batch.prompts) if branch in by_words}
    positions = foreground_words(settings).positions(prompts, model.text_encoder)
    return lambda branch: positions[branch][0]


@torch.no_grad()
def sample_latents(
    model: DiffusionModel,
    batch: BranchPrompts,
    plan: SamplingPlan,
    control: MutualSelfAttentionControl | None = None,
    progress: bool = False,
    image: InvertedImage | None = None,
) -> Tensor:
    """Latents (branches, channels, height / 8, width / 8), one row per branch in their order, float32.

    Every branch of a group starts from the same noise, unless ``batch`` gives each its own, and meets the same noise in
    each step of a stochastic sampler. All noise is drawn on the CPU, so that CPU and CUDA agree.

    Args:
        control: ``None`` samples a plain batch.
        progress: show a bar on standard error.
        image: a real image for each group's source branch, which then has guidance 1; every branch starts from its
            inverted latent instead of from noise.

    Raises:
        SettingsError: the size does not suit the model.
        ValueError: ``batch`` has noise of another shape, or beside ``image``.
        UnsupportedModelError: ``control`` is given and the model has no U-Net self-attention.
    """
    plan.check_size(model)
    scheduler = scheduler_for(model, plan.sampler, plan.steps)
    # One generator per row with its group's seed: diffusers then draws each row by itself, the same for a group.
    generators = [torch.Generator("cpu").manual_seed(batch.seeds[branch.group]) for branch in batch.branches]
    noise = {"generator": generators} if SAMPLERS[plan.sampler].draws_noise else {}
    predict = _prediction(model, batch, plan.cfg_scale, image)
    if image:
        if batch.noise is not None:
            raise ValueError("both noise and a real image are given to start from; give one of them.")
        latents = image.start(batch.branches, noise_levels(scheduler))
    else:
        latents = _start_noise(model, plan, generators, batch.noise) * scheduler.init_noise_sigma
    passes = predict.rows // len(batch.branches)
    features = [level.to(model.device).repeat(passes, 1, 1, 1) for level in batch.features]
    with contextlib.ExitStack() as stack:
        if control:
            stack.enter_context(attached(model.unet, control))
        stack.enter_context(features_added(model.unet, features))
        stack.enter_context(residuals_added(model.unet, batch.controlnets))
        for evaluation, (step, timestep) in enumerate(_evaluations(scheduler, plan.steps, progress)):
            if image:
                latents = image.rectified(latents, batch.branches, evaluation)
            if control:
                layout = BatchLayout.of_call(batch.branches, predict.rows, predict.cond_pass)
                control.begin_call(layout, step, (latents.shape[2], latents.shape[3]))
            predicted = predict(scheduler.scale_model_input(latents, timestep), timestep)
            latents = scheduler.step(predicted, timestep, latents, **noise).prev_sample
    return image.rectified(latents, batch.branches, len(scheduler.timesteps)) if image else latents


def _prediction(
    model: DiffusionModel, batch: BranchPrompts, cfg_scale: float, image: InvertedImage | None
) -> GuidedPrediction:
    scales = [1.0 if image and branch.is_source else cfg_scale for branch in batch.branches]
    return GuidedPrediction(model, batch.prompts, batch.negative_prompt, scales)


def _start_noise(
    model: DiffusionModel, plan: SamplingPlan, generators: list[torch.Generator], given: Tensor | None
) -> Tensor:
    factor = model.config.autoencoder_factor
    size = (model.config.embed_dim, plan.height // factor, plan.width // factor)
    if given is None:
        given = torch.cat([torch.randn((1, *size), generator=generator) for generator in generators])
    elif given.shape != (len(generators), *size):
        wanted = (len(generators), *size)
        raise ValueError(
            f"noise has the shape {tuple(given.shape)}, but these branches start from {wanted}; give that."
        )
    return given.to(model.device)


def _evaluations(scheduler: Any, steps: int, progress: bool) -> Iterator[tuple[int, Tensor]]:
    """(sampling step, timestep) of each U-Net call. Second-order samplers (Heun) evaluate twice per step, but last."""
    bar = tqdm(scheduler.timesteps, disable=not progress, unit="call", leave=False)
    for index, timestep in enumerate(bar):
        yield min(index // scheduler.order, steps - 1), timestep
