"""The checkpoint in Stable Diffusion 1.x's layout, its yaml and its tokenizer folder."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch import Tensor

from bench.training.schedule import LINEAR_END, LINEAR_START, TIMESTEPS, schedule_buffers
from bench.training.text import CLIP_CONFIG, text_state
from bench.training.tokenizer import MAX_LENGTH, write_tokenizer
from bench.training.unet import UNET_CONFIG, average_weights
from bench.training.vae import DDCONFIG, LATENT_SCALE

log = logging.getLogger(__name__)


def checkpoint_state(work: Path) -> dict[str, Tensor]:
    """All tensors under SD 1's names; weights fp16, schedule buffers float32."""
    painter = average_weights(work / "unet.pt")
    weights = {f"model.diffusion_model.{key}": value for key, value in painter.unet.state_dict().items()}
    autoencoder = torch.load(work / "autoencoder.pt", weights_only=True)
    weights |= {f"first_stage_model.{key}": value for key, value in autoencoder.items()}
    weights |= {f"cond_stage_model.transformer.{key}": value for key, value in text_state(painter.text).items()}
    state = {key: value.detach().half().contiguous() for key, value in weights.items()}
    # SD 1.x files have this integer buffer; older transformers insist on it.
    position_ids = "cond_stage_model.transformer.text_model.embeddings.position_ids"
    state[position_ids] = torch.arange(MAX_LENGTH)[None]
    return state | schedule_buffers()


def model_config() -> dict[str, Any]:
    """SD 1's v1-inference.yaml with our sizes; `version` is relative to the yaml, hosts get it rewritten."""
    parameters = {
        "linear_start": LINEAR_START,
        "linear_end": LINEAR_END,
        "num_timesteps_cond": 1,
        "log_every_t": 200,
        "timesteps": TIMESTEPS,
        "first_stage_key": "jpg",
        "cond_stage_key": "txt",
        "image_size": UNET_CONFIG["image_size"],
        "channels": 4,
        "cond_stage_trainable": False,
        "conditioning_key": "crossattn",
        "monitor": "val/loss_simple_ema",
        "scale_factor": LATENT_SCALE,
        "use_ema": False,
        "unet_config": {"target": "ldm.modules.diffusionmodules.openaimodel.UNetModel", "params": UNET_CONFIG},
        "first_stage_config": {
            "target": "ldm.models.autoencoder.AutoencoderKL",
            "params": {
                "embed_dim": 4,
                "monitor": "val/rec_loss",
                "ddconfig": DDCONFIG,
                "lossconfig": {"target": "torch.nn.Identity"},
            },
        },
        "cond_stage_config": {
            "target": "ldm.modules.encoders.modules.FrozenCLIPEmbedder",
            "params": {"version": "tokenizer"},
        },
    }
    return {"model": {"target": "ldm.models.diffusion.ddpm.LatentDiffusion", "params": parameters}}


def export(work: Path, out: Path, name: str = "creatures") -> None:
    """Write `{name}.safetensors`, `{name}.yaml` and `tokenizer/` from the snapshots in `work`."""
    out.mkdir(parents=True, exist_ok=True)
    state = checkpoint_state(work)
    save_file(state, out / f"{name}.safetensors", metadata={"format": "pt"})
    (out / f"{name}.safetensors").chmod(0o644)  # `save_file` makes it readable for its owner alone
    OmegaConf.save(OmegaConf.create(model_config()), out / f"{name}.yaml")
    write_tokenizer(out / "tokenizer", CLIP_CONFIG)
    log.info("%s: %d tensors, %.1f MB", out, len(state), (out / f"{name}.safetensors").stat().st_size / 1e6)
