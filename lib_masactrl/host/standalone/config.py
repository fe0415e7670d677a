"""The yaml beside a checkpoint in the original Stable Diffusion 1.x layout (``v1-inference.yaml``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from lib_masactrl.errors import UnsupportedModelError

#: What ``FrozenCLIPEmbedder`` takes when the yaml names no ``version``; transformers fetches its few files by name.
PUBLIC_TOKENIZER = "openai/clip-vit-large-patch14"

#: Both spellings of what the U-Net predicts: ldm's ``parameterization`` and diffusers' ``prediction_type``.
_PREDICTION_TYPES = {"eps": "epsilon", "v": "v_prediction"}


@dataclass(frozen=True)
class ModelConfig:
    """What the yaml says about sizes and about the noise schedule.

    Attributes:
        unet: keyword arguments of ldm's ``UNetModel``.
        autoencoder: keyword arguments of ldm's ``Encoder`` and ``Decoder`` (``ddconfig``).
        embed_dim: channels of the latent.
        tokenizer: folder with tokenizer files and the text encoder's ``config.json``, or :data:`PUBLIC_TOKENIZER`.
        scale_factor: the latents of the U-Net are the autoencoder's times this.
        prediction_type: ``epsilon`` or ``v_prediction``.
        linear_start: first beta, or ``None`` if the yaml leaves the schedule to the checkpoint.
        linear_end: last beta, or ``None``.
        timesteps: length of the noise schedule.
    """

    unet: Mapping[str, Any]
    autoencoder: Mapping[str, Any]
    embed_dim: int
    tokenizer: str
    scale_factor: float
    prediction_type: str
    linear_start: float | None
    linear_end: float | None
    timesteps: int

    @property
    def autoencoder_factor(self) -> int:
        """Pixels per latent cell: 8 in SD 1."""
        return int(2 ** (len(self.autoencoder["ch_mult"]) - 1))

    @property
    def size_multiple(self) -> int:
        """Width and height in pixels must be multiples of this: 64 in SD 1.

        ldm's U-Net halves the latent once per level and concatenates on the way up without padding, so a side that
        does not halve evenly fails there. (A1111 patches ``torch.cat`` for that; this host runs ldm as it is.)
        """
        return int(self.autoencoder_factor * 2 ** (len(self.unet["channel_mult"]) - 1))


def read_config(path: Path) -> ModelConfig:
    """The config of a checkpoint.

    Raises:
        UnsupportedModelError: the file is missing, is no yaml, or describes another model family.
    """
    parameters = _Section(path, "model.params", _load(path))
    _check_family(parameters)
    tokenizer = parameters.get("cond_stage_config.params.version", PUBLIC_TOKENIZER)
    parameterization = parameters.get("parameterization", "eps")
    if parameterization not in _PREDICTION_TYPES:
        raise UnsupportedModelError(
            f"{path} says parameterization {parameterization!r}, but only 'eps' and 'v' are known; correct the yaml."
        )
    return ModelConfig(
        unet={**parameters.need("unet_config.params"), "use_checkpoint": False},  # saves memory in training only
        autoencoder=parameters.need("first_stage_config.params.ddconfig"),
        embed_dim=int(parameters.need("first_stage_config.params.embed_dim")),
        tokenizer=_tokenizer_folder(path, str(tokenizer)),
        scale_factor=float(parameters.need("scale_factor")),
        prediction_type=_PREDICTION_TYPES[parameterization],
        linear_start=parameters.get("linear_start"),
        linear_end=parameters.get("linear_end"),
        timesteps=int(parameters.get("timesteps", 1000)),
    )


class _Section:
    """Nested entries by dotted name, and an error that names the missing one."""

    def __init__(self, path: Path, name: str, whole: Any) -> None:
        self.path, self._name, self._whole = path, name, whole

    def get(self, name: str, default: Any = None) -> Any:
        value = self._whole
        for key in f"{self._name}.{name}".split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        return default if value is None else value

    def need(self, name: str) -> Any:
        value = self.get(name)
        if value is None:
            raise UnsupportedModelError(
                f"{self.path} has no {self._name}.{name}, so it is no config of Stable Diffusion 1.x; "
                "give the yaml that belongs to the checkpoint."
            )
        return value


def _load(path: Path) -> Any:
    if not path.is_file():
        raise UnsupportedModelError(
            f"No config {path}; put the checkpoint's yaml (for Stable Diffusion 1.x: v1-inference.yaml) there."
        )
    try:
        return OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except Exception as error:  # omegaconf and PyYAML have no common base class
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UnsupportedModelError(f"{path} cannot be read as yaml ({reason[0]}); correct or replace it.") from error


def _check_family(parameters: _Section) -> None:
    wanted = {
        "unet_config": "ldm.modules.diffusionmodules.openaimodel.UNetModel",
        "cond_stage_config": "FrozenCLIPEmbedder",
    }
    for section, target in wanted.items():
        given = str(parameters.need(f"{section}.target"))
        if not given.endswith(target):
            raise UnsupportedModelError(
                f"{parameters.path} wants {given} as {section}, but the standalone host runs Stable Diffusion 1.x "
                f"({target}) only; give such a checkpoint, or use the WebUI extension."
            )
    layer = parameters.get("cond_stage_config.params.layer", "last")
    if layer != "last":
        raise UnsupportedModelError(
            f"{parameters.path} wants the text encoder's layer {layer!r}, but only 'last' is known; correct the yaml."
        )


def _tokenizer_folder(path: Path, version: str) -> str:
    folder = path.parent / version  # an absolute version stays as it is
    if folder.is_dir():
        return str(folder)
    if version == PUBLIC_TOKENIZER:
        return version
    raise UnsupportedModelError(
        f"{path} names the tokenizer folder {version!r}, but there is no folder {folder}; "
        "put it there or correct cond_stage_config.params.version."
    )
