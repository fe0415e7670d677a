"""A checkpoint with random weights in the original Stable Diffusion 1.x layout, small enough for tests."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from bench.training.unet import UNET_CONFIG
from bench.training.vae import DDCONFIG as CREATURES_DDCONFIG
from lib_masactrl.host.standalone.networks import Autoencoder, UNetModel

WIDTH = 32
LINEAR_START, LINEAR_END = 0.00085, 0.012

UNET: dict[str, Any] = {**UNET_CONFIG, "model_channels": 32, "context_dim": WIDTH, "use_checkpoint": True}
DDCONFIG: dict[str, Any] = {**CREATURES_DDCONFIG, "ch": 32, "num_res_blocks": 1}


def write_checkpoint(folder: Path, name: str = "small", **parameters: Any) -> Path:
    """Write ``name.safetensors``, ``name.yaml`` ``tokenizer/``; returns the first. ``parameters`` are for the yaml."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = write_tokenizer(folder / "tokenizer")
    path = folder / f"{name}.safetensors"
    save_file(random_weights(vocabulary), path)
    OmegaConf.save(OmegaConf.create(config(**parameters)), path.with_suffix(".yaml"))
    return path


def config(**parameters: Any) -> dict[str, Any]:
    """SD 1's v1-inference.yaml in this size; a parameter of ``None`` is left out."""
    whole = {
        "linear_start": LINEAR_START,
        "linear_end": LINEAR_END,
        "timesteps": 1000,
        "scale_factor": 0.18215,
        "unet_config": {"target": "ldm.modules.diffusionmodules.openaimodel.UNetModel", "params": UNET},
        "first_stage_config": {
            "target": "ldm.models.autoencoder.AutoencoderKL",
            "params": {"embed_dim": 4, "ddconfig": DDCONFIG},
        },
        "cond_stage_config": {
            "target": "ldm.modules.encoders.modules.FrozenCLIPEmbedder",
            "params": {"version": "tokenizer"},
        },
    }
    kept = {key: value for key, value in {**whole, **parameters}.items() if value is not None}
    return {"model": {"target": "ldm.models.diffusion.ddpm.LatentDiffusion", "params": kept}}


def random_weights(
    vocabulary: int,
    *,
    unet: Mapping[str, Any] = UNET,
    autoencoder: Mapping[str, Any] = DDCONFIG,
    text: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Tensor]:
    """All tensors under SD 1's names, with the noise schedule's buffer and CLIP's position_ids as old files have."""
    torch.manual_seed(0)
    parts = {
        "model.diffusion_model.": UNetModel(**unet),
        "first_stage_model.": Autoencoder(dict(autoencoder), 4),
        "cond_stage_model.transformer.text_model.": CLIPTextModel(
            CLIPTextConfig(**{**_clip_config(vocabulary), **text})
        ),
    }
    state = {
        prefix + name.removeprefix("text_model."): value.detach().clone()
        for prefix, part in parts.items()
        for name, value in _with_effect(part).state_dict().items()
    }
    state["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    betas = torch.linspace(LINEAR_START**0.5, LINEAR_END**0.5, 1000, dtype=torch.float64) ** 2
    return {**state, "alphas_cumprod": (1 - betas).cumprod(0).float()}


def write_tokenizer(folder: Path) -> int:
    """A CLIP tokenizer without merges, every byte a token; returns the size of its vocabulary."""
    folder.mkdir(parents=True, exist_ok=True)
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(byte) for byte in printable] + [chr(256 + index) for index in range(256 - len(printable))]
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    special = {"bos_token": words[-2], "eos_token": words[-1], "unk_token": words[-1], "pad_token": words[-1]}
    settings = {**special, "model_max_length": 77, "do_lower_case": True, "tokenizer_class": "CLIPTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(_clip_config(len(words))), encoding="utf-8")
    return len(words)


def _clip_config(vocabulary: int) -> dict[str, Any]:
    return {
        "model_type": "clip_text_model",
        "vocab_size": vocabulary,
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 77,
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,
        "pad_token_id": vocabulary - 1,
    }


@torch.no_grad()
def _with_effect(network: nn.Module) -> nn.Module:
    """The network with weights that let attention matter.

    Zero-initialised weights would hide everything before them, and small queries and keys make softmax so flat that
    attention is a mean over all tokens, hardly another one for another picture.
    """
    for name, parameter in network.named_parameters():
        if name.endswith("weight") and parameter.abs().max() == 0:
            nn.init.normal_(parameter, std=0.05)
        elif "attn1.to_" in name:
            parameter.mul_(3)
    return network
