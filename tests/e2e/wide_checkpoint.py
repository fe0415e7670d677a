"""Checkpoints of random weights as wide as Stable Diffusion 1.5.

The Forge family takes none that is narrower. Those hosts know a model by the shapes of its tensors, so the tiny trained
checkpoint is none of theirs: the U-Net must be 320 channels wide with a context of 768, text encoder and autoencoder
must have their full shapes (Forge ``huggingface_guess/detection.py``, reForge ``ldm_patched/modules/model_detection``).
Only the number of channels of the U-Net's deeper levels is free, and small here; SD 1's last has twice as many, because
FreeU looks for such levels. SDXL's U-Net has all its 70 transformer blocks, and both text encoders are whole.
"""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: The checkpoint of this repository.
SMALL = Path(__file__).resolve().parents[2] / "demo" / "checkpoint" / "creatures.safetensors"
#: To be raised when the weights below change: files of earlier recipes are not used again.
RECIPE = 3


def wide_checkpoint() -> Path:
    """A checkpoint for the Forge family in the user's cache folder, made there at the first call (0.7 GB)."""
    return _cached("wide", functools.partial(_write, [1, 1, 1, 2]))


def adapter_checkpoint() -> Path:
    """Likewise one that takes T2I-Adapters too: its levels are 1, 2, 4 and 4 times as wide as the first (2.2 GB)."""
    return _cached("wide-adapter", functools.partial(_write, [1, 2, 4, 4]))


def sdxl_checkpoint() -> Path:
    """Likewise one of SDXL, for ControlNets (2.6 GB)."""
    return _cached("wide-sdxl", _write_sdxl)


def control_checkpoint(width: int = 320) -> Path:
    """Likewise one for AUTOMATIC1111 whose U-Net takes control models: levels 1, 2, 4 and 4 times ``width`` wide.

    In SD 1.5's own width, 320, it takes a ControlNet (1.7 GB), which the ControlNet extension builds in that size
    alone; in any other, such as 32, a T2I-Adapter. Text encoder and autoencoder are those of this repository's.
    """
    import yaml

    config = _control_config(width)
    path = _cached(f"control-{width}", functools.partial(_write_for_control, config))
    # Every time, because it names a folder of this checkout.
    path.with_suffix(".yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return path


def _cached(name: str, write: Callable[[Path], None]) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sd-webui-masactrl"
    path = cache / f"{name}-{RECIPE}.safetensors"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".{os.getpid()}")
        write(unfinished)
        unfinished.replace(path)
    return path


def _write(levels: list[int], path: Path) -> None:
    _save(_random_weights({"channel_mult": levels, "num_heads": 8, "context_dim": 768}), path)


def _random_weights(unet: dict[str, Any]) -> dict[str, Any]:
    # Here and not above: who tests a WebUI that takes the tiny checkpoint needs none of these packages.
    from tests.small_models import DDCONFIG, UNET, random_weights

    autoencoder = {**DDCONFIG, "ch": 128, "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2}
    text = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    weights = random_weights(49408, unet={**UNET, "model_channels": 320, **unet}, autoencoder=autoencoder, text=text)
    # Left as they start, the mean over every prompt would be 0, by which the host's emphasis divides.
    weights["cond_stage_model.transformer.text_model.final_layer_norm.bias"].normal_(std=0.2)
    return weights


def _save(weights: dict[str, Any], path: Path) -> None:
    from safetensors.torch import save_file

    save_file({k: v.half() if v.is_floating_point() and k != "alphas_cumprod" else v for k, v in weights.items()}, path)


def _write_sdxl(path: Path) -> None:
    """From a U-Net of one transformer block where SDXL has 2 or 10, all alike here, and without SDXL's vector."""
    import torch

    def drawn(out: int, into: int) -> torch.Tensor:
        return torch.randn(out, into) * into**-0.5

    unet = {"channel_mult": [1, 1, 1], "attention_resolutions": [4, 2], "context_dim": 2048, "num_head_channels": 64}
    weights: dict[str, torch.Tensor] = {}
    for name, tensor in _random_weights({**unet, "num_heads": -1, "use_linear_in_transformer": True}).items():
        renamed = name.replace("cond_stage_model.", "conditioner.embedders.0.")
        two_deep = re.search(r"(input_blocks\.[45]|output_blocks\.[345])\.", name)
        for block in range(1 if ".transformer_blocks.0." not in name else 2 if two_deep else 10):
            weights[renamed.replace(".transformer_blocks.0.", f".transformer_blocks.{block}.")] = tensor
    for layer, (out, into) in {"0": (1280, 2816), "2": (1280, 1280)}.items():
        weights[f"model.diffusion_model.label_emb.0.{layer}.weight"] = drawn(out, into)
        weights[f"model.diffusion_model.label_emb.0.{layer}.bias"] = torch.zeros(out)
    text, width = "conditioner.embedders.1.model.", 1280
    weights[f"{text}token_embedding.weight"] = torch.randn(49408, width) * 0.02
    weights[f"{text}positional_embedding"] = torch.randn(77, width) * 0.01
    weights[f"{text}text_projection"] = drawn(width, width)
    norms = [f"{text}ln_final"]
    for number in range(32):
        layer = f"{text}transformer.resblocks.{number}."
        norms += [f"{layer}ln_1", f"{layer}ln_2"]
        weights[f"{layer}attn.in_proj_weight"] = drawn(3 * width, width)
        weights[f"{layer}attn.in_proj_bias"] = torch.zeros(3 * width)
        for linear, out, into in (("attn.out_proj", 1, 1), ("mlp.c_fc", 4, 1), ("mlp.c_proj", 1, 4)):
            weights[f"{layer}{linear}.weight"] = drawn(out * width, into * width)
            weights[f"{layer}{linear}.bias"] = torch.zeros(out * width)
    for norm in norms:
        weights[f"{norm}.weight"], weights[f"{norm}.bias"] = torch.ones(width), torch.zeros(width)
    _save(weights, path)


def _control_config(width: int) -> dict[str, Any]:
    """The config of this repository's checkpoint, with such a U-Net."""
    import yaml

    config: dict[str, Any] = yaml.safe_load(SMALL.with_suffix(".yaml").read_text(encoding="utf-8"))
    params = config["model"]["params"]
    params["unet_config"]["params"].update(model_channels=width, channel_mult=[1, 2, 4, 4], num_heads=8)
    params["cond_stage_config"]["params"]["version"] = str(SMALL.parent / "tokenizer")
    return config


def _write_for_control(config: dict[str, Any], path: Path) -> None:
    from safetensors.torch import load_file, save_file

    from tests.small_models import random_weights

    weights = {name: value for name, value in load_file(SMALL).items() if not name.startswith("model.")}
    for name, value in random_weights(8, unet=config["model"]["params"]["unet_config"]["params"]).items():
        if name.startswith("model."):
            weights[name] = value.half()
    save_file(weights, path)


if __name__ == "__main__":
    forge = sys.argv[1:] == ["forge"]
    sys.stdout.write(f"{adapter_checkpoint() if forge else control_checkpoint(*map(int, sys.argv[1:]))}\n")
