"""ControlNet units per branch: the rows of a U-Net call that a unit guides, and how strongly.

By itself a unit guides every image of the batch, so that the source bends towards the target's layout. Neither
extension is edited, and nothing is put on a model that it keeps for later requests, but for IP-Adapter's:

* Mikubill's sd-webui-controlnet passes each control signal through ``apply_effective_region_mask``, a method of an
  object it makes for the request (``ControlParams``, ``scripts/hook.py``), or of the IP-Adapter's model. While a
  request is sampled, an instance attribute of that name weights the signal's rows as well.
* Forge's built-in ControlNet has a weight per image of the batch: ``advanced_frame_weighting``. reForge takes the same
  list but never reads it; there, the control signals are weighted where a unit merges them with those before it.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from modules import scripts

from lib_masactrl.branches import BatchLayout, Branch
from lib_masactrl.errors import SettingsError, UnsupportedCombinationError
from lib_masactrl.host.capabilities import forge_part
from lib_masactrl.host.control_units import Unit, enabled_units
from lib_masactrl.setting_kinds import Setting
from lib_masactrl.settings import SETTINGS, MasaCtrlSettings

#: The settings that mean something only beside a ControlNet extension.
SETTING_KEYS = frozenset({"control_guides"})

_MASKING = "apply_effective_region_mask"


def hidden_settings() -> frozenset[str]:
    """The settings not to be shown, because no ControlNet extension is loaded.

    Mikubill's and Forge's own both have their script in a file of this name (``scripts.scripts_data``).
    """
    loaded = any(data.script_class.__module__.endswith("controlnet.py") for data in scripts.scripts_data)
    return frozenset() if loaded else SETTING_KEYS


class BranchGuidance:
    """The ControlNet units of one request, each kept to its branches while the request is sampled.

    Args:
        p: the host's request, about to be sampled.
        branches: the images of the batch.
        layout: the rows of the U-Net call in progress.

    Raises:
        SettingsError: units are spoken of, but there is no ControlNet extension.
    """

    def __init__(
        self, p: Any, settings: MasaCtrlSettings, branches: tuple[Branch, ...], layout: Callable[[], BatchLayout]
    ) -> None:
        self._p = p
        self._settings = settings
        self._branches = branches
        self._layout = layout
        self._script = controlnet_script(p)
        if self._script is None and settings.control_guides != MasaCtrlSettings().control_guides:
            raise SettingsError(
                f"control_guides is {settings.control_guides!r}, but no ControlNet extension is active; "
                "install or enable one, or leave control_guides out."
            )

    def without_effect(self) -> tuple[Setting, ...]:
        """The settings that were changed for units that are switched off."""
        changed = [s for s in SETTINGS if s.key in SETTING_KEYS and getattr(self._settings, s.key) != s.default]
        by_default = not hasattr(self._script, "latest_network")
        return tuple(changed) if changed and not self._enabled_units(by_default) else ()

    def attach(self, stack: ExitStack) -> None:
        """Weight the control signals of Mikubill's extension until ``stack`` is closed.

        Raises:
            UnsupportedCombinationError: a unit cannot be kept to one branch.
            SettingsError: targets have not one control picture each.
        """
        if not hasattr(self._script, "latest_network"):  # not Mikubill's
            return
        network, units = self._script.latest_network, self._enabled_units(by_default=False)
        params = list(getattr(network, "control_params", None) or [])
        if units and not params:
            raise units[0].nothing_made()
        if network is None:
            return
        self._check_batch_option()
        if sum(unit.runs for unit in units) != len(params):
            raise UnsupportedCombinationError(
                f"ControlNet made {len(params)} control signals of {len(units)} enabled units, so that they "
                "cannot be told apart; disable the script that changes its units, or MasaCtrl."
            )
        for unit in units:
            for run in range(unit.runs):
                param = params.pop(0)
                self._check_tokens(unit, param)
                if not unit.is_as_it_came:
                    unit.check_module()
                    _unshare(param, stack)
                    stack.enter_context(self._weighted(_masking_object(unit, param), unit, run))

    def refresh(self) -> None:
        """Weight the units of Forge's built-in ControlNet, which links them anew for every pass.

        Raises:
            UnsupportedCombinationError: a unit cannot be kept to one branch.
            SettingsError: targets have not one control picture each.
        """
        if not hasattr(self._script, "current_params"):  # not Forge's
            return
        runs = self._runs_to_link()
        linked = forge_part(self._p.sd_model, "unet").list_controlnets()[::-1]  # there the last comes first
        if linked and len(linked) != len(runs) and not all(unit.is_as_it_came for unit, _ in runs):
            raise UnsupportedCombinationError(
                f"{len(linked)} control models are linked for {len(runs)} ControlNet units, so that they "
                "cannot be told apart; disable the other extension that links one, or MasaCtrl."
            )
        for (unit, run), net in zip(runs, linked):
            _ask_again_for_other_rows(net)
            if not unit.is_as_it_came:
                net.advanced_frame_weighting = [unit.weight(branch.target, run) for branch in self._branches]
                if not hasattr(sys.modules[type(net).__module__], "compute_controlnet_weighting"):  # reForge
                    _weight_where_merged(unit, net)

    def _runs_to_link(self) -> list[tuple[Unit, int]]:
        """Those that have to link a control model in this pass, in the order in which Forge's ControlNet does."""
        runs = [(unit, run) for unit in self._enabled_units(by_default=True) for run in range(unit.runs)]
        hires, hires_pass = getattr(self._p, "enable_hr", False), getattr(self._p, "is_hr_pass", False)
        to_link = []
        for index, (unit, run) in enumerate(runs):
            if index not in self._script.current_params:
                raise unit.nothing_made()
            model = self._script.current_params[index].model
            links = hasattr(getattr(model, "model_patcher", None), "get_control")
            if not unit.is_as_it_came:
                unit.check_module()
                if not links:
                    raise unit.refusal(f"is of a kind ({type(model).__name__}) that has no weight per image")
            if links and (unit.acts_in(hires_pass) or not hires):
                to_link.append((unit, run))
        return to_link

    def _enabled_units(self, by_default: bool) -> list[Unit]:
        return enabled_units(self._p, self._script, self._settings, by_default)

    def _check_batch_option(self) -> None:
        option, style_align = getattr(self._script, "ui_batch_option_state", (None, False))
        if style_align or str(option).startswith("Each"):
            raise UnsupportedCombinationError(
                "ControlNet's batch option divides the batch among units or aligns its styles, but the batch "
                "holds branches here; set it to 'All ControlNet units for all images in a batch', or disable MasaCtrl."
            )

    def _check_tokens(self, unit: Unit, param: Any) -> None:
        """An LLLite adds to each token of a layer by the token's place, which masks and union give to others."""
        settings = self._settings
        if param.control_model_type.name == "Controlllite" and (settings.method, settings.mask) != ("mutual", "none"):
            raise UnsupportedCombinationError(
                f"ControlNet unit {unit.number} ({unit.module}) is an LLLite, which needs all tokens of a layer in "
                f"their places, but method is {settings.method!r} and mask is {settings.mask!r}; give method 'mutual' "
                "and mask 'none', or disable that unit or MasaCtrl."
            )

    @contextmanager
    def _weighted(self, holder: Any, unit: Unit, run: int) -> Iterator[None]:
        """Weight the rows of what ``holder.apply_effective_region_mask`` returns, inside the block."""
        original = getattr(holder, _MASKING)

        def weighted(out: torch.Tensor) -> torch.Tensor:
            call = self._layout()
            weights = [unit.weight(branch.target, run) for branch in call.branches]
            rows = torch.tensor(weights * call.passes, dtype=out.dtype, device=out.device)
            masked: torch.Tensor = original(out)
            return masked * rows.view(-1, *[1] * (out.ndim - 1))

        setattr(holder, _MASKING, weighted)
        try:
            yield
        finally:
            delattr(holder, _MASKING)


@contextmanager
def silenced(p: Any) -> Iterator[None]:
    """No unit acts inside the ``with`` block, in which U-Net calls are not those of sampling (inversion).

    Mikubill's extension adds its control to every U-Net call unless a unit is stopped, which it decides anew at each
    step of sampling; its IP-Adapter and LLLite ask the U-Net how far sampling has come (``hook.py``,
    ``guidance_schedule_handler``). On Forge, control is handed to
    each call explicitly; see :mod:`forge_network` for units that patch the U-Net.
    """
    network = getattr(controlnet_script(p), "latest_network", None)
    stopped = [(unit, "guidance_stopped", True) for unit in getattr(network, "control_params", None) or []]
    unet = getattr(network, "model", None)
    past_the_end = [] if unet is None else [(unet, "current_sampling_percent", 2.0)]
    with ExitStack() as stack:
        for holder, name, value in (*stopped, *past_the_end):
            stack.callback(setattr, holder, name, getattr(holder, name, 0.0))
            setattr(holder, name, value)
        yield


def controlnet_script(p: Any) -> Any:
    """The script of whichever ControlNet extension is active in the request, or ``None``."""
    for script in getattr(getattr(p, "scripts", None), "alwayson_scripts", ()):
        if str(script.title()).lower() == "controlnet":
            return script
    return None


def _unshare(param: Any, stack: ExitStack) -> None:
    """Let units of one T2I-Adapter each have their own picture.

    The extension keeps an adapter's output on the adapter (``PlugableAdapter.forward``), which units of the same model
    share: every one of them would guide by the first one's picture. For IP-Adapter it copies the object, as here.
    """
    if param.control_model_type.name == "T2I_Adapter":
        stack.callback(setattr, param, "control_model", param.control_model)
        param.control_model = copy.copy(param.control_model)


def _masking_object(unit: Unit, param: Any) -> Any:
    """What passes this unit's control signal through ``apply_effective_region_mask``."""
    kind = param.control_model_type
    holder = param.control_model if kind.name == "IPAdapter" else param
    if not getattr(kind, "supports_effective_region_mask", False) or not hasattr(holder, _MASKING):
        raise unit.refusal(f"is of a kind ({kind.name}) or from a ControlNet version that has no weight per image")
    if _MASKING in vars(holder):
        raise unit.refusal("shares the object of its model with another unit")
    return holder


def _ask_again_for_other_rows(net: Any) -> None:
    """Let a T2I-Adapter answer for the rows of each U-Net call.

    The host asks it at the first call of a pass and keeps what that one's rows are given (``T2IAdapter.get_control``),
    so that a call of more rows fails. Forge Classic leaves the negative prompt out of the first step, and only there.
    """
    if not hasattr(net, "control_input") or "get_control" in vars(net):
        return
    get_control = net.get_control

    def for_rows(x_noisy: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        kept = [len(signal) for signal in net.control_input or () if signal is not None]
        if kept and kept[0] not in (1, len(x_noisy)):
            net.control_input = None
        return get_control(x_noisy, *args, **kwargs)

    net.get_control = for_rows


def _weight_where_merged(unit: Unit, net: Any) -> None:
    """Let ``net`` weight its control signals by its ``advanced_frame_weighting``, image by image.

    The host links a copy of the unit's model for every pass (``apply_controlnet_advanced``), so nothing is left behind.
    """
    if not hasattr(net, "control_merge"):
        raise unit.refusal("belongs to a WebUI whose ControlNet has no weight per image")
    if "control_merge" in vars(net):
        return
    merge = net.control_merge

    def weighted(control: dict[str, list[torch.Tensor | None]], *args: Any, **kwargs: Any) -> Any:
        of_signal: dict[int, torch.Tensor] = {}  # blocks may share one, which the host multiplies by its strength once

        def rows(signal: torch.Tensor | None) -> torch.Tensor | None:
            if signal is not None and id(signal) not in of_signal:
                weights = signal.new_tensor(net.advanced_frame_weighting)
                passes = len(signal) // len(weights)
                of_signal[id(signal)] = signal * weights.repeat(passes).view(-1, *[1] * (signal.ndim - 1))
            return None if signal is None else of_signal[id(signal)]

        own = {place: [rows(signal) for signal in signals] for place, signals in control.items()}
        return merge(own, *args, **kwargs)

    net.control_merge = weighted
