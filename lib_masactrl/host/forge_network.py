"""The network that the Forge family's samplers ask: the loaded U-Net with the patches of the request's extensions.

FreeU, Kohya HRFix and their like patch a copy of the patcher for every sampling (``process_before_every_sampling``). An
inversion that asked the U-Net without them would lead to a noise from which the patched one leads elsewhere.
"""

from __future__ import annotations

import inspect
import re
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

from lib_masactrl.host.capabilities import forge_part
from lib_masactrl.host.controlnet import controlnet_script
from lib_masactrl.trajectory_cache import cache_key

_EXTENSION = re.compile(r"[\\/](extensions(?:-builtin)?[\\/][^\\/]+)[\\/]")
_PLAIN = (type(None), bool, int, float, str, bytes, torch.device, torch.dtype)


def network_options(p: Any, sd_model: Any) -> dict[str, Any]:
    """The options of the patched U-Net for the sampling that follows, without the patches of ControlNet's units.

    Most units hand their signals to each call, and an inversion hands over none; IP-Adapter, LLLite and some
    preprocessors patch the U-Net instead. They are told by the extension whose code they are.
    Empty on AUTOMATIC1111, which patches modules in place.

    Args:
        p: the request, about to be sampled.
    """
    patcher = forge_part(sd_model, "unet")
    if patcher is None:
        return {}
    units = getattr(controlnet_script(p), "current_params", None) or {}
    theirs = {_extension(part) for unit in units.values() for part in (unit.model, unit.preprocessor)} - {None}
    options: dict[str, Any] = _without(patcher.model_options, lambda patch: _extension(patch) in theirs)
    return options


def network_key(sd_model: Any, options: Mapping[str, Any]) -> object:
    """What makes two patched networks of one checkpoint the same one, for the key of a kept trajectory."""
    patcher = forge_part(sd_model, "unet")
    patches = [options.get(name) for name in ("transformer_options", "model_function_wrapper")]
    return patcher and described([*patches, getattr(patcher, "object_patches", None)])


def described(value: Any, within: tuple[int, ...] = ()) -> object:
    """``value`` in texts and lists that are equal where it computes the same: a function by its code and what it holds.

    What cannot be compared (a network, what is written in C) is never the same as anything.
    """
    if isinstance(value, _PLAIN):
        return repr(value)
    if id(value) in within:
        return "itself"
    inside = partial(described, within=(*within, id(value)))
    if isinstance(value, Tensor):
        return cache_key([value])
    if isinstance(value, Mapping):
        return [(inside(key), inside(held)) for key, held in value.items()]
    if isinstance(value, (list, tuple)):
        return [inside(held) for held in value]
    if isinstance(value, FunctionType):
        place = (value.__code__.co_filename, value.__code__.co_firstlineno)
        return [place, inside(inspect.getclosurevars(value).nonlocals), inside(value.__defaults__)]
    if isinstance(value, MethodType):
        return [inside(value.__func__), inside(value.__self__)]
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, nn.Module) or not hasattr(value, "__dict__"):
        return uuid.uuid4().hex
    return [inside(type(value)), inside(vars(value))]


def _without(value: Any, unwanted: Callable[[Any], bool]) -> Any:
    """``value`` without its ``unwanted`` entries, however deep they are, nor the lists that these leave empty."""
    if isinstance(value, Mapping):
        kept = {key: _without(held, unwanted) for key, held in value.items() if not unwanted(held)}
        return {key: held for key, held in kept.items() if not (isinstance(held, list) and value[key] and not held)}
    if isinstance(value, list):
        return [_without(held, unwanted) for held in value if not unwanted(held)]
    return value


def _extension(made: Any) -> str | None:
    """The folder of the extension that a function, or an object's class, is from; ``None`` for the host's own."""
    if isinstance(made, MethodType):
        made = made.__func__
    functions = [made] if isinstance(made, FunctionType) else vars(type(made)).values()
    files = [inspect.unwrap(one).__code__.co_filename for one in functions if isinstance(one, FunctionType)]
    found = [match[1] for file in files if (match := _EXTENSION.search(file))]
    return found[0] if found else None
