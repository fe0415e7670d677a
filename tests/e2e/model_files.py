"""The model files of the WebUI under test: checkpoints, an embedding, a LoRA and control models."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy
import safetensors
import safetensors.numpy

from .control_models import (
    takes_controlnet,
    write_adapter,
    write_controlnet,
    write_ip_adapter,
    write_lllite,
    write_tensors,
)


def write_model_files(checkpoint: Path, data: Path, forge: bool) -> None:
    """Fill the folders of models in the data folder: with ``checkpoint`` and with what is made from it."""
    _write_checkpoints(checkpoint, data / "checkpoints")
    with safetensors.safe_open(checkpoint, framework="numpy") as given:
        shapes = {name: list(given.get_slice(name).get_shape()) for name in given.keys()}  # noqa: SIM118  # no mapping
    _write_embedding(shapes, data / "embeddings" / "embedded.safetensors")
    _write_lora(shapes, data / "models" / "Lora" / "nudge.safetensors")
    control_models = data / "models" / "ControlNet"
    if forge or takes_controlnet(shapes):
        write_controlnet(checkpoint, control_models / "sketch-canny.safetensors")
        write_adapter(shapes, control_models / "t2i-adapter.safetensors")
    else:
        write_adapter(shapes, control_models / "sketch-canny.safetensors")
    write_ip_adapter(shapes, control_models / "ip-adapter.safetensors")
    write_lllite(shapes, control_models / "lllite.safetensors")


def _write_checkpoints(first: Path, folder: Path) -> None:
    """The checkpoint under test, another one, and those that read a picture besides their latents."""
    folder.mkdir()
    (folder / "first.safetensors").symlink_to(first)
    _write_second_checkpoint(first, folder / "second.safetensors")
    _write_conditioned_checkpoint(first, folder / "inpainting.safetensors", 9)
    config = first.with_suffix(".yaml")
    if config.exists():
        own = _absolute_tokenizer(config)
        _write_conditioned_checkpoint(first, folder / "pix2pix.safetensors", 8)
        configs = {"first": own, "second": own, "inpainting": _inpainting_config(own), "pix2pix": _pix2pix_config(own)}
        for name, text in configs.items():
            (folder / f"{name}.yaml").write_text(text, encoding="utf-8")


def _absolute_tokenizer(config: Path) -> str:
    """The checkpoint's config, with the text encoder's folder (``version``) absolute, so that it may be copied."""

    def absolute(found: re.Match[str]) -> str:
        folder = config.parent / found[2].strip("'\" ")
        return f"{found[1]}{json.dumps(str(folder))}" if folder.is_dir() else found[0]

    return re.sub(r"(?m)^(\s*version:\s*)(\S.*)$", absolute, config.read_text(encoding="utf-8"))


def _write_second_checkpoint(first: Path, second: Path) -> None:
    """A copy whose U-Net answers differently: its last convolution is weaker."""
    tensors = safetensors.numpy.load_file(first)
    weight = tensors["model.diffusion_model.out.2.weight"]
    weight *= weight.dtype.type(0.8)
    safetensors.numpy.save_file(tensors, second)


def _write_conditioned_checkpoint(first: Path, other: Path, channels: int) -> None:
    """A copy whose U-Net takes more channels than latents have, and gives nothing for them.

    Nine are those of SD 1.5 inpainting (latents, a mask and the masked picture), eight those of InstructPix2Pix
    (latents and the picture).
    """
    tensors = safetensors.numpy.load_file(first)
    name = "model.diffusion_model.input_blocks.0.0.weight"
    weight = tensors[name]
    tensors[name] = numpy.concatenate([weight, weight[:, [0] * (channels - 4)] * 0], axis=1)
    safetensors.numpy.save_file(tensors, other)


def _inpainting_config(config: str) -> str:
    config = re.sub(r"conditioning_key: \S+", "conditioning_key: hybrid", config)
    config = config.replace("ddpm.LatentDiffusion", "ddpm.LatentInpaintDiffusion")
    config = config.replace("  params:\n", "  params:\n    finetune_keys: null\n", 1)
    return config.replace("in_channels: 4", "in_channels: 9", 1)


def _pix2pix_config(config: str) -> str:
    config = re.sub(r"conditioning_key: \S+", "conditioning_key: hybrid", config)
    config = re.sub(r"cond_stage_key: \S+", "cond_stage_key: edit", config)
    config = config.replace("ldm.models.diffusion.ddpm.", "modules.models.diffusion.ddpm_edit.")
    return config.replace("in_channels: 4", "in_channels: 8", 1)


def _write_embedding(shapes: dict[str, list[int]], file: Path) -> None:
    """A textual inversion embedding of three vectors."""
    width = next(shape for name, shape in shapes.items() if name.endswith("token_embedding.weight"))[1]
    vectors = numpy.random.default_rng(1).normal(size=(3, width)).astype(numpy.float32)
    write_tensors({"emb_params": vectors}, file)


def _write_lora(shapes: dict[str, list[int]], file: Path) -> None:
    """A rank-2 LoRA, in kohya's names, on the last self-attention layer's query and value; none for SDXL."""
    prefix = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.attn1."
    if f"{prefix}to_q.weight" not in shapes:  # SDXL has fewer blocks
        return
    random = numpy.random.default_rng(0)
    tensors: dict[str, numpy.ndarray] = {}
    for part in ("to_q", "to_v"):
        out, into = shapes[f"{prefix}{part}.weight"]
        name = f"lora_unet_up_blocks_3_attentions_2_transformer_blocks_0_attn1_{part}"
        tensors[f"{name}.lora_up.weight"] = random.normal(size=(out, 2)).astype(numpy.float32)
        tensors[f"{name}.lora_down.weight"] = random.normal(size=(2, into)).astype(numpy.float32)
        tensors[f"{name}.alpha"] = numpy.array(2.0, numpy.float32)
    write_tensors(tensors, file)
