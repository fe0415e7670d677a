"""What cannot be combined with control on a WebUI, each refused in one sentence, before sampling where possible."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import PureWindowsPath
from typing import Any

from modules import prompt_parser, sd_unet, shared
from torch import nn

from lib_masactrl.branches import Branch
from lib_masactrl.errors import SettingsError, UnsupportedCombinationError, UnsupportedModelError
from lib_masactrl.host.capabilities import forge_part, host_name
from lib_masactrl.host.other_extensions import script_by_number, shares_regions
from lib_masactrl.layers import self_attention_layers
from lib_masactrl.settings import MasaCtrlSettings


def check_model(settings: MasaCtrlSettings) -> None:
    """The loaded model has the layer that control starts at.

    Raises:
        UnsupportedModelError: it has no U-Net self-attention.
        SettingsError: ``start_layer`` is past its last layer.
    """
    unet = unet_of(shared.sd_model)
    layers = len(self_attention_layers(unet))
    if settings.start_layer is not None and settings.start_layer > layers:
        raise SettingsError(
            f"start_layer is {settings.start_layer}, but the loaded model has {layers} self-attention "
            f"layers; give 0 to {layers} ({layers} controls none) or leave it empty for the automatic value."
        )


def unet_of(sd_model: Any) -> nn.Module:
    """The U-Net of a loaded checkpoint, of whichever WebUI.

    Raises:
        UnsupportedModelError: no checkpoint is loaded, or its network is no U-Net.
    """
    holder = forge_part(sd_model, "unet") or sd_model
    unet = getattr(getattr(holder, "model", None), "diffusion_model", None)
    if not isinstance(unet, nn.Module):
        raise UnsupportedModelError(
            f"{type(sd_model).__name__} has no U-Net; load a Stable Diffusion 1.x, 2.x or SDXL checkpoint."
        )
    return unet


def check_prompts(prompts: list[str]) -> None:
    """No prompt has parts joined by AND.

    Raises:
        UnsupportedCombinationError: naming the prompt.
    """
    for prompt in dict.fromkeys(prompts):
        indexes, *_ = prompt_parser.get_multicond_prompt_list([prompt])
        if len(indexes[0]) > 1:
            raise UnsupportedCombinationError(
                f"AND in the prompt {prompt[:60]!r}: the host evaluates its parts as separate rows, so a "
                "target cannot be paired with its source. Write the prompt without AND (Regional Prompter's "
                "Latent mode makes it of BREAK), or disable MasaCtrl."
            )


def check_reference_units(p: Any) -> None:
    """No ControlNet unit of the request, as the UI's object or the API's dictionary, injects into self-attention.

    Raises:
        UnsupportedCombinationError: naming the unit's module.
    """
    for unit in p.script_args or ():
        read = unit.get if isinstance(unit, dict) else functools.partial(getattr, unit)
        if not isinstance(unit, dict) and not (hasattr(unit, "module") and hasattr(unit, "enabled")):
            continue
        module = str(read("module", "") or "")
        if read("enabled", True) and module.startswith("reference"):
            raise UnsupportedCombinationError(
                f"the ControlNet unit {module!r} replaces the same self-attention; "
                "disable that unit or disable MasaCtrl."
            )


def check_scripts(p: Any, settings: MasaCtrlSettings) -> None:
    """A script that counts pictures gets one for each that it asked for; each branch is painted by its own prompt.

    Raises:
        UnsupportedCombinationError: naming the script that would not have it so.
    """
    script = script_by_number(p)
    if script is not None and (settings.show_source or settings.show_masks or settings.targets > 1):
        raise UnsupportedCombinationError(
            f"the script {script!r} puts the pictures together by their number, and would take sources for targets; "
            "switch 'Show source' and 'Show masks' off and give no 'More targets', or disable MasaCtrl."
        )
    if shares_regions(p) and (settings.source == "prompt" or settings.targets > 1):
        raise UnsupportedCombinationError(
            "Forge Couple paints every picture of a batch by the regions of the first prompt, so sources and further "
            "targets would not have their own; disable it or MasaCtrl. (One target of a real image works.)"
        )


def check_options(p: Any, settings: MasaCtrlSettings) -> None:
    """The host will run the checkpoint's own attention modules on all tokens, under the request's own options.

    Raises:
        UnsupportedCombinationError: a compiled U-Net, Hypertile or token merging is active.
    """
    compiled = sd_unet.get_unet_option()  # what the host will run as soon as it samples
    if compiled is not None:
        raise UnsupportedCombinationError(
            f"SD Unet is set to {compiled.label}, which bypasses the attention layers to be controlled; "
            "set SD Unet to None in Settings or disable MasaCtrl."
        )
    hires = bool(getattr(p, "enable_hr", False))
    tiling = ["hypertile_enable_unet"] + ["hypertile_enable_unet_secondpass"] * hires
    if any(getattr(shared.opts, option, False) for option in tiling):
        raise UnsupportedCombinationError(
            "Hypertile for the U-Net is on; it cuts self-attention into tiles in which a target cannot see "
            "the whole source. Switch Hypertile off in Settings or disable MasaCtrl."
        )
    merging = [p.get_token_merging_ratio()] + [p.get_token_merging_ratio(for_hr=True)] * hires
    merges = any(float(ratio) > 0 for ratio in merging)
    if merges and host_name() == "Forge":
        raise UnsupportedCombinationError(
            "token merging is on, which on this WebUI changes the input of self-attention layers by itself. Set the "
            "token merging ratio to 0 in Settings or disable MasaCtrl."
        )
    if merges and settings.mask != "none":
        raise UnsupportedCombinationError(
            "token merging is on, which leaves no place to a token; masks need one. Set the token merging "
            "ratio to 0 in Settings or give mask 'none'."
        )


def replacing_attention(call: dict[str, Any]) -> str:
    """What computes self-attention in place of the U-Net's own layers: files, as the Forge family's patches tell.

    Args:
        call: the keyword arguments of a U-Net call. Forge gives every patch that is in force in
            ``transformer_options``: replacements by block, and functions that change the layer's input.
    """
    options = call.get("transformer_options") or {}
    patches = [*options.get("patches_replace", {}).get("attn1", {}).values()]
    patches += options.get("patches", {}).get("attn1_patch", [])
    files = [getattr(getattr(patch, "__code__", None), "co_filename", type(patch).__name__) for patch in patches]
    names = dict.fromkeys("/".join(PureWindowsPath(file).parts[-3:]) for file in files)  # takes slashes of both kinds
    return ", ".join(names) or "another extension"


def check_count(samples: Sequence[Any], branches: Sequence[Branch]) -> None:
    """What the request's ``sample`` gave is one latent for each image of the batch.

    Raises:
        UnsupportedCombinationError: it is more or less.
    """
    if len(samples) != len(branches):
        raise UnsupportedCombinationError(
            f"another extension (DemoFusion) made {len(samples)} pictures of a batch of {len(branches)}, so that "
            "targets and sources cannot be told apart; disable that, or disable MasaCtrl."
        )


def check_real_image(p: Any, settings: MasaCtrlSettings) -> None:
    """What cannot be edited, said before anything is sampled.

    Raises:
        SettingsError: naming what to change.
        UnsupportedModelError: the loaded checkpoint reads more than latents and text.
    """
    model = shared.sd_model
    channels = getattr(unet_of(model), "in_channels", 4)
    if channels != 4 or getattr(getattr(model, "model", None), "conditioning_key", None) == "crossattn-adm":
        raise UnsupportedModelError(
            "the loaded checkpoint reads a picture besides its latents (inpainting, InstructPix2Pix, unCLIP) "
            "and cannot invert one; load a plain checkpoint, or give source 'prompt'."
        )
    if not float(p.denoising_strength) > 0:
        raise SettingsError(
            "the denoising strength is 0, so nothing would be edited; give more than 0 (1 inverts the "
            "picture all the way to noise)."
        )
    if settings.inversion_steps and settings.inversion_steps < int(p.steps):
        raise SettingsError(
            f"inversion_steps is {settings.inversion_steps}, fewer than the {p.steps} sampling steps; "
            "give as many or more, or 0 for the same number."
        )
    if getattr(p, "image_mask", None) is not None and int(getattr(p, "inpainting_fill", 1)) != 1:
        raise SettingsError(
            "masked content is not 'original' (inpainting_fill 1), so the host paints over what the edit "
            "should keep before it is read; choose 'original', or give source 'prompt'."
        )
    if float(getattr(shared.opts, "img2img_extra_noise", 0) or 0) > 0:
        raise SettingsError(
            "'Extra noise multiplier for img2img' is on in Settings, but an inverted picture takes no extra "
            "noise; set it to 0 or give source 'prompt'."
        )
