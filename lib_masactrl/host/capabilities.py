"""Which WebUI this is, decided here alone, by what it has and never by a version number, which forks choose themselves.

Imports nothing of the WebUI, so that it can be asked at load time, before imports that would fail.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

from lib_masactrl.errors import UnsupportedHostError


def check_webui() -> None:
    """This WebUI runs its samplers through the callbacks of AUTOMATIC1111.

    Raises:
        UnsupportedHostError: it is SD.Next, which has callbacks of these names and calls the ones of the sampler never.
            It is known by its script manager, which it has in the place of AUTOMATIC1111's ``modules.scripts``.
    """
    if importlib.util.find_spec("modules") and importlib.util.find_spec("modules.scripts_manager"):
        raise UnsupportedHostError(
            "this is SD.Next, whose samplers are those of diffusers and ask no extension; use AUTOMATIC1111, Forge, "
            "reForge or Forge Classic, or disable this extension."
        )


def host_name() -> str:
    """The family of WebUIs, by the package that all of the Forge family have."""
    return "Forge" if importlib.util.find_spec("modules_forge") else "AUTOMATIC1111"


def forge_part(sd_model: Any, name: str) -> Any:
    """The patcher of one part (``unet``, ``vae``) of a checkpoint of the Forge family's.

    ``None`` on AUTOMATIC1111, whose checkpoints are one `ldm` or `sgm` module.
    """
    return getattr(getattr(sd_model, "forge_objects", None), name, None)


def forge_evaluation() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The two functions by which samplers of the Forge family ask a network: Forge's own, else those of its forks.

    The first turns a conditioning into the form that the second takes; the second is ``calc_cond_uncond_batch(network,
    cond, uncond, x, sigmas, options)`` and gives the estimates of the clean latents for both.
    """
    if importlib.util.find_spec("backend"):
        sampling = importlib.import_module("backend.sampling.sampling_function")
        return sampling.compile_conditions, sampling.calc_cond_uncond_batch
    compiling = importlib.import_module("modules_forge.forge_sampler")
    sampling = importlib.import_module("ldm_patched.modules.samplers")
    return compiling.cond_from_a1111_to_patched_ldm, sampling.calc_cond_uncond_batch


def is_loaded(sd_model: Any) -> bool:
    """Whether ``model_data.sd_model`` is a checkpoint; until the first request, Forge has a stand-in there."""
    return sd_model is not None and type(sd_model).__name__ != "FakeInitialModel"


def has_infotext_per_image(p: Any) -> bool:
    """Whether functions among a request's parameters are asked for each image's value.

    That came with AUTOMATIC1111 1.9, as ``scheduler`` did. (Forge Classic asks them too, but its API fails over them.)
    """
    return hasattr(p, "scheduler")
