"""The host's install hook. MasaCtrl needs nothing but what the host has; this only says so when the host is too old."""

import importlib.util
import sys

if sys.version_info < (3, 10):  # noqa: UP036  # the host runs this file with whatever Python it has
    raise RuntimeError(
        f"MasaCtrl needs Python 3.10 or newer, but this WebUI runs {sys.version.split()[0]}; update the WebUI."
    )

from lib_masactrl.host.capabilities import check_webui  # here, because it needs the Python asked for above

check_webui()

# The accordion's checkbox came with 1.6.0, and with it everything else that is used. Looked for by capability, because
# forks number their versions differently; by spec, because importing the host's UI here would start half of it.
_components = importlib.util.find_spec("modules") and importlib.util.find_spec("modules.ui_components")
if _components and _components.origin:
    with open(_components.origin, encoding="utf-8") as source:
        if "InputAccordion" not in source.read():
            raise RuntimeError("MasaCtrl needs Stable Diffusion WebUI 1.6.0 or newer; update the WebUI.")
