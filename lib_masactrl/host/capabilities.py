"""Whether this WebUI calls back what control needs; asked at load time, before anything of the WebUI is imported."""

from __future__ import annotations

import importlib.util

from lib_masactrl.errors import UnsupportedHostError


def check_webui() -> None:
    """This WebUI runs its samplers through the callbacks of AUTOMATIC1111.

    Raises:
        UnsupportedHostError: it is SD.Next, which has callbacks of these names and calls the ones of the sampler never.
            It is known by its script manager, which it has in the place of AUTOMATIC1111's ``modules.scripts``.
    """
    if importlib.util.find_spec("modules") and importlib.util.find_spec("modules.scripts_manager"):
        raise UnsupportedHostError(
            "MasaCtrl does not work in SD.Next, whose samplers are those of diffusers; use AUTOMATIC1111, Forge, "
            "reForge or Forge Classic, or disable this extension."
        )
