"""The loaded checkpoint of a WebUI (stand-in) as inversion asks it."""

from __future__ import annotations

import importlib
import types

import torch


def test_what_a_text_encoder_on_the_cpu_gave_follows_the_latents(host):
    """The Forge family keeps it there with little memory; "meta" stands for the graphics card."""
    seen = {}

    def apply_model(x, sigma, **given):
        seen.update({name: tensor.device.type for name, tensor in given.items()})
        return x

    unet = types.SimpleNamespace(model=types.SimpleNamespace(apply_model=apply_model))
    loaded = types.SimpleNamespace(forge_objects=types.SimpleNamespace(unet=unet))
    cond = {"crossattn": torch.zeros(1, 77, 8), "vector": torch.zeros(1, 8)}
    denoise = importlib.import_module("lib_masactrl.host.denoising").denoiser(loaded, lambda sigma: cond, None)
    denoise(torch.zeros(1, 4, 8, 8, device="meta"), 1.0)
    assert seen == {"c_crossattn": "meta", "y": "meta"}
