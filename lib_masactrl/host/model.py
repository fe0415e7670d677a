"""What is known of the loaded checkpoint, and of the chosen one, without loading any."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modules import sd_models, shared

from lib_masactrl.errors import MasaCtrlError
from lib_masactrl.host.capabilities import is_loaded
from lib_masactrl.host.checkpoint_file import read_checkpoint_file
from lib_masactrl.host.refusals import unet_of
from lib_masactrl.layers import self_attention_layers

#: The host's own marks on a checkpoint, in the order of preference.
_FAMILIES = {"is_sdxl": "SDXL", "is_sd3": "SD 3", "is_sd2": "SD 2", "is_sd1": "SD 1"}


@dataclass(frozen=True)
class Model:
    """A checkpoint.

    Attributes:
        family: ``SD 1``, ``SD 2``, ``SDXL``, ``SD 3`` or ``unknown``.
        layers: how many self-attention layers its U-Net has; 0 if they cannot be controlled.
        refusal: why they cannot, else empty.
        loaded: whether it is in memory, or these facts are those of its file.
    """

    family: str
    layers: int
    refusal: str = ""
    loaded: bool = True


def chosen_model() -> Model | None:
    """The checkpoint that the next request is for; ``None`` where neither memory nor its file tells what it is.

    Forge loads a checkpoint when it is needed first, not when it is chosen.
    """
    chosen = _chosen()
    in_memory = getattr(sd_models.model_data.sd_model, "sd_checkpoint_info", None)
    if chosen is None or getattr(in_memory, "filename", None) == chosen.filename:
        return loaded_model()
    file = read_checkpoint_file(Path(chosen.filename))
    return None if file is None else Model(file.family, file.layers, loaded=False)


def _chosen() -> Any:
    """As the host's ``select_checkpoint``, which complains on the console, or raises, where there is none."""
    named = sd_models.checkpoint_aliases.get(shared.opts.sd_model_checkpoint)
    return named or next(iter(sd_models.checkpoints_list.values()), None)


def loaded_model() -> Model | None:
    """The checkpoint in memory, or ``None``: ``shared.sd_model`` would load one."""
    model = sd_models.model_data.sd_model
    if not is_loaded(model):
        return None
    family = next((name for mark, name in _FAMILIES.items() if getattr(model, mark, False)), "unknown")
    try:
        return Model(family, len(self_attention_layers(unet_of(model))))
    except MasaCtrlError as error:
        return Model(family, 0, str(error))
