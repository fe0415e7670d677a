"""Loading a checkpoint in the original Stable Diffusion 1.x layout: ``NAME.safetensors`` and its ``NAME.yaml``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from lib_masactrl.errors import SettingsError, UnsupportedModelError
from lib_masactrl.host.standalone.config import ModelConfig, read_config
from lib_masactrl.host.standalone.networks import Autoencoder, TextEncoder, build_networks

#: Tensors that a checkpoint may hold and that sampling does not need: ldm's schedule buffers and averaged weights.
_SPARE_NAMES = ("alphas", "betas", "log_", "logvar", "lvlb_", "model_ema.", "posterior_", "scale_factor", "sqrt_")


@dataclass(frozen=True)
class DiffusionModel:
    """A loaded checkpoint, ready to sample on ``device``.

    Attributes:
        betas: the noise schedule, one value per training timestep.
        half: whether the U-Net's weights are float16; latents stay float32 in any case.
    """

    name: str
    config: ModelConfig
    unet: nn.Module
    autoencoder: Autoencoder
    text_encoder: TextEncoder
    betas: tuple[float, ...]
    device: torch.device
    half: bool = False

    @torch.no_grad()
    def encode(self, picture: Tensor) -> Tensor:
        """A picture (1, 3, height, width) in 0..1 to the latent (1, channels, h, w) at the U-Net's scale.

        The mean of the autoencoder's distribution: a sample of it would add noise to what has to be kept.
        """
        mean: Tensor = self.autoencoder.encode(picture.to(self.device) * 2 - 1).mode()
        return mean * self.config.scale_factor

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents (n, channels, h, w) of the U-Net to pictures (n, 3, height, width) in 0..1 on the CPU.

        One row at a time: the autoencoder at full size is what needs the most memory of all.
        """
        unscaled = latents / self.config.scale_factor
        rows = [self.autoencoder.decode(unscaled[row : row + 1]) for row in range(len(unscaled))]
        return ((torch.cat(rows) + 1) / 2).clamp(0, 1).cpu()


def load_checkpoint(path: Path, device: str | None = None, half: bool = False) -> DiffusionModel:
    """The model in ``path``.

    Args:
        path: the ``.safetensors`` file.
        device: ``cpu``, ``cuda`` or ``cuda:N``; ``None`` takes CUDA where there is one.
        half: keep the U-Net in float16; CUDA only.

    Raises:
        UnsupportedModelError: a file is missing or unreadable, or the weights are not those that the yaml describes.
        SettingsError: the device is not there or cannot do ``half``.
    """
    chosen = _device(device, half)
    tensors = _tensors(path)
    config = read_config(path.with_suffix(".yaml"))
    unet, autoencoder, text_encoder = build_networks(config)
    _load_weights(path, _networks_by_prefix(unet, autoencoder, text_encoder), tensors)
    for network in (unet, autoencoder, text_encoder):
        network.eval().requires_grad_(False).to(chosen)
    if half:
        unet.half()
    return DiffusionModel(
        path.stem, config, unet, autoencoder, text_encoder, _betas(path, config, tensors), chosen, half
    )


def _device(name: str | None, half: bool) -> torch.device:
    has_cuda = torch.cuda.is_available()
    try:
        device = torch.device(name or ("cuda" if has_cuda else "cpu"))
    except RuntimeError as error:
        raise SettingsError(f"device is {name!r}, but it takes 'cpu', 'cuda' or 'cuda:N'; correct device.") from error
    if device.type not in ("cpu", "cuda"):
        raise SettingsError(f"device is {name!r}, but it takes 'cpu', 'cuda' or 'cuda:N'; correct device.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise SettingsError(
            f"device is {name!r}, but PyTorch sees {torch.cuda.device_count()} CUDA devices; give 'cpu'."
        )
    if half and device.type != "cuda":
        raise SettingsError(f"half precision is for CUDA, but the device is {device.type}; leave half precision out.")
    return device


def _tensors(path: Path) -> dict[str, Tensor]:
    if path.suffix != ".safetensors":
        raise UnsupportedModelError(
            f"The checkpoint {path} is no .safetensors file; convert it (reading a .ckpt file can run any code)."
        )
    if not path.is_file():
        raise UnsupportedModelError(f"There is no checkpoint {path}; check the file name.")
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except SafetensorError as error:
        raise UnsupportedModelError(
            f"{path} cannot be read as safetensors ({error}); it may be an incomplete download, so fetch it again."
        ) from error
    return tensors


def _networks_by_prefix(unet: nn.Module, autoencoder: nn.Module, text: TextEncoder) -> dict[str, nn.Module]:
    """Each network with what precedes its parameter names in a checkpoint.

    transformers 5 dropped the level ``text_model`` that the checkpoints have, and which earlier versions had too.
    """
    has_level = any(name.startswith("text_model.") for name in text.transformer.state_dict())
    return {
        "model.diffusion_model.": unet,
        "first_stage_model.": autoencoder,
        "cond_stage_model.transformer." + ("" if has_level else "text_model."): text.transformer,
    }


def _load_weights(path: Path, networks: Mapping[str, nn.Module], tensors: Mapping[str, Tensor]) -> None:
    expected = {
        prefix + name: value.shape
        for prefix, network in networks.items()
        for name, value in network.state_dict().items()
        if _is_weight(name)
    }
    given = {name: value for name, value in tensors.items() if _is_weight(name)}
    _check_names(path, expected, {name: value.shape for name, value in given.items()})
    for prefix, network in networks.items():
        own = {name.removeprefix(prefix): value.float() for name, value in given.items() if name.startswith(prefix)}
        network.load_state_dict(own, strict=False, assign=True)  # strict is what _check_names was; see position_ids


def _is_weight(name: str) -> bool:
    """Not a schedule buffer, and not CLIP's ``position_ids`` (0, 1, 2, ...), which some checkpoints have."""
    return not name.startswith(_SPARE_NAMES) and not name.endswith("embeddings.position_ids")


def _check_names(path: Path, expected: Mapping[str, torch.Size], given: Mapping[str, torch.Size]) -> None:
    faults = {
        "missing": expected.keys() - given.keys(),
        "unexpected": given.keys() - expected.keys(),
        "of another shape": {name for name in expected.keys() & given.keys() if expected[name] != given[name]},
    }
    if any(faults.values()):
        counts = "; ".join(f"{len(names)} {what} ({_first(names)})" for what, names in faults.items() if names)
        raise UnsupportedModelError(
            f"{path.name} does not hold the Stable Diffusion 1.x model that {path.stem}.yaml describes: of "
            f"{len(expected)} tensors, {counts}. Give the yaml that belongs to the checkpoint, or another checkpoint."
        )


def _first(names: Iterable[str]) -> str:
    first, *others = sorted(names)
    return f"{first}, ..." if others else first


def _betas(path: Path, config: ModelConfig, tensors: Mapping[str, Tensor]) -> tuple[float, ...]:
    """The noise schedule: ldm's "linear" one of the yaml (linear in the root), else the checkpoint's own buffer."""
    if config.linear_start is not None and config.linear_end is not None:
        roots = np.linspace(config.linear_start**0.5, config.linear_end**0.5, config.timesteps, dtype=np.float64)
        return tuple((roots**2).tolist())
    if "alphas_cumprod" not in tensors:
        raise UnsupportedModelError(
            f"Neither {path.stem}.yaml (linear_start, linear_end) nor {path.name} (alphas_cumprod) gives the noise "
            "schedule; add linear_start and linear_end to the yaml."
        )
    products = tensors["alphas_cumprod"].double().numpy()
    return tuple((1 - products / np.append(1.0, products[:-1])).tolist())
