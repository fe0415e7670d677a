"""What is known of the loaded checkpoint without loading one."""

from __future__ import annotations

from dataclasses import dataclass

from modules import sd_models

from lib_masactrl.errors import MasaCtrlError
from lib_masactrl.host.capabilities import is_loaded
from lib_masactrl.host.refusals import unet_of
from lib_masactrl.layers import self_attention_layers

#: The host's own marks on a checkpoint, in the order of preference.
_FAMILIES = {"is_sdxl": "SDXL", "is_sd3": "SD 3", "is_sd2": "SD 2", "is_sd1": "SD 1"}


@dataclass(frozen=True)
class LoadedModel:
    """The loaded checkpoint.

    Attributes:
        family: ``SD 1``, ``SD 2``, ``SDXL``, ``SD 3`` or ``unknown``.
        layers: how many self-attention layers its U-Net has; 0 if they cannot be controlled.
        refusal: why they cannot, else empty.
    """

    family: str
    layers: int
    refusal: str = ""


def loaded_model() -> LoadedModel | None:
    """The checkpoint in memory, or ``None``: ``shared.sd_model`` would load one."""
    model = sd_models.model_data.sd_model
    if not is_loaded(model):
        return None
    family = next((name for mark, name in _FAMILIES.items() if getattr(model, mark, False)), "unknown")
    try:
        return LoadedModel(family, len(self_attention_layers(unet_of(model))))
    except MasaCtrlError as error:
        return LoadedModel(family, 0, str(error))
