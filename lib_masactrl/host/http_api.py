"""``GET /masactrl/version`` and ``GET /masactrl/status``: facts for clients, without paths, prompts or names."""

from __future__ import annotations

from typing import Any

from modules import shared

from lib_masactrl.host.capabilities import host_name
from lib_masactrl.host.kept_trajectories import CACHE, CACHE_MIB, CACHE_ON_DISK
from lib_masactrl.host.model import chosen_model
from lib_masactrl.schedule import default_start_layer
from lib_masactrl.settings import SETTINGS
from lib_masactrl.version import VERSION


def add_routes(_: Any, app: Any) -> None:
    """``on_app_started``: the host calls it again with another app after "Reload UI"."""
    app.add_api_route("/masactrl/version", version, methods=["GET"])
    app.add_api_route("/masactrl/status", status, methods=["GET"])


def version() -> dict[str, Any]:
    """The extension's version, and the settings that a request may name."""
    return {"version": VERSION, "settings": {setting.key: setting.default for setting in SETTINGS}}


def status() -> dict[str, Any]:
    """The host, the chosen model (``null`` if neither memory nor its file tells) and the cache of inverted images."""
    model = chosen_model()
    return {
        "version": VERSION,
        "host": host_name(),
        "model": None
        if model is None
        else {
            "family": model.family,
            "self_attention_layers": model.layers,
            "automatic_start_layer": default_start_layer(model.layers),
            "refusal": model.refusal,
            "loaded": model.loaded,
        },
        "cache": {
            "limit_mib": getattr(shared.opts, CACHE_MIB),
            "on_disk": getattr(shared.opts, CACHE_ON_DISK),
            "kept": len(CACHE),
            "mib": round(CACHE.size / 2**20, 1),
        },
    }
