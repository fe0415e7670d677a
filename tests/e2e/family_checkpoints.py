"""Checkpoints of random weights of the model families that AUTOMATIC1111 knows besides Stable Diffusion 1.

Run by that WebUI's own interpreter, from its own classes and configs, made narrow:
``python family_checkpoints.py CHECKOUT FAMILY FILE``. The config goes beside the file, where the WebUI looks for it.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

FAMILIES = ("sd2", "sdxl")
#: SDXL in its own width, which control models need: 1.4 GB. Its transformers are one block deep, and its text encoders
#: small, but their widths sum to those of its context (2048) and its vector (2816).
WIDE = "sdxl-wide"
#: The smallest text tower of open_clip, its width, and that of the CLIP of the checkpoint in this repository.
TOWER, TOWER_WIDTH, CLIP_WIDTH = "ViT-S-32-alt", 256, 96
TOKENIZER = Path(__file__).resolve().parents[2] / "demo" / "checkpoint" / "tokenizer"


def _config(checkout: Path, family: str, clip_folder: Path) -> dict[str, Any]:
    import yaml

    repositories = checkout / "repositories"
    if family == "sd2":
        source = repositories / "stable-diffusion-stability-ai/configs/stable-diffusion/v2-inference-v.yaml"
    else:
        source = repositories / "generative-models/configs/inference/sd_xl_base.yaml"
    config: dict[str, Any] = yaml.safe_load(source.read_text(encoding="utf-8"))
    params = config["model"]["params"]
    params["first_stage_config"]["params"]["ddconfig"].update(ch=32, num_res_blocks=1, attn_type="vanilla")
    tower = {"arch": TOWER, "version": None}
    if family == "sd2":
        params["unet_config"]["params"].update(
            model_channels=64, channel_mult=[1, 1, 1, 1], context_dim=TOWER_WIDTH, use_checkpoint=False, use_fp16=False
        )
        params["cond_stage_config"]["params"].update(tower, device="cpu")
    else:
        network = params["network_config"]["params"]
        network.update(use_checkpoint=False, spatial_transformer_attn_type="softmax")
        clip, open_clip, original_size, crop, _ = params["conditioner_config"]["params"]["emb_models"]
        clip["params"].update(version=str(clip_folder), layer_idx=1, device="cpu")
        open_clip["params"].update(tower, device="cpu")
        if family == WIDE:
            network["transformer_depth"] = [1, 1, 1]
            for numbers in (original_size, crop):
                numbers["params"]["outdim"] = 512
        else:
            network.update(
                model_channels=32, context_dim=CLIP_WIDTH + TOWER_WIDTH, adm_in_channels=TOWER_WIDTH + 3 * 512
            )
    return config


def _wide_clip(folder: Path) -> Path:
    """The CLIP of the checkpoint in this repository, as wide as SDXL's context less the tower's."""
    shutil.copytree(TOKENIZER, folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config.update(hidden_size=2048 - TOWER_WIDTH, num_attention_heads=28, projection_dim=2048 - TOWER_WIDTH)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def write(checkout: Path, family: str, file: Path) -> None:
    """Write the checkpoint and its config."""
    for name, attribute in (("taming.modules.losses.lpips", "LPIPS"), ("sgm.data", "StableDataModuleFromConfig")):
        sys.modules[name] = ModuleType(name)  # as the WebUI does: what only training needs is not installed
        setattr(sys.modules[name], attribute, None)
    for repository in ("stable-diffusion-stability-ai", "generative-models"):
        sys.path.insert(0, str(checkout / "repositories" / repository))
    import torch
    import yaml
    from ldm.util import instantiate_from_config
    from omegaconf import OmegaConf
    from safetensors.torch import save_file
    from transformers import CLIPTextConfig, CLIPTextModel

    CLIPTextModel.from_pretrained = lambda folder, **_: CLIPTextModel(CLIPTextConfig.from_pretrained(folder))
    torch.manual_seed(0)
    config = _config(checkout, family, _wide_clip(file.with_name("clip")) if family == WIDE else TOKENIZER)
    model = instantiate_from_config(OmegaConf.create(config).model)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1 and not weight.any():  # zero-initialised layers would hide all that is before them
                weight.normal_(std=0.6 * weight[0].numel() ** -0.5)
            if ".attn1.to_q" in name or ".attn1.to_k" in name:
                weight.mul_(3)  # attention that is not uniform
            if name.endswith(("ln_final.bias", "final_layer_norm.bias")):
                weight.normal_(std=0.2)  # emphasis divides by the mean of what this layer gives
    tensors = {name: value.contiguous().clone() for name, value in model.state_dict().items()}
    if family == WIDE:
        tensors = {name: v.half() if v.ndim and v.is_floating_point() else v for name, v in tensors.items()}
    save_file(tensors, file)
    file.with_suffix(".yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
