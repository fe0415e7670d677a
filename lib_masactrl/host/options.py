"""The page "MasaCtrl" of the host's settings."""

from __future__ import annotations

from typing import Any

import gradio as gr
from modules import shared

from lib_masactrl.host.kept_trajectories import CACHE_MIB, CACHE_ON_DISK, DEFAULT_CACHE_MIB
from lib_masactrl.host.saving import SAVE_MASKS, SAVE_SOURCES

_SECTION = ("masactrl", "MasaCtrl")


def add_page() -> None:
    """``on_ui_settings``. Defaults of the accordion are the host's business: it keeps those of every component."""
    explanation = shared.OptionHTML(
        "Defaults of the accordion are set like those of the tabs: change them there, then press Apply in Settings, "
        "Defaults."
    )
    explanation.section = _SECTION
    shared.opts.add_option("masactrl_explanation", explanation)
    _add(SAVE_SOURCES, True, "Save sources as files", "those that Show source adds to the results")
    _add(SAVE_MASKS, False, "Save masks as files", "those that Show masks adds to the results")
    _add(
        CACHE_MIB,
        DEFAULT_CACHE_MIB,
        "Inverted images to keep, in MiB",
        "another prompt on the same picture then starts at once; 0 keeps none",
        component=gr.Slider,
        component_args={"minimum": 0, "maximum": 8192, "step": 64},
    )
    _add(CACHE_ON_DISK, False, "Keep inverted images on disk too", "so that they survive a restart")


def _add(name: str, default: Any, label: str, info: str, **component: Any) -> None:
    shared.opts.add_option(name, shared.OptionInfo(default, label, section=_SECTION, **component).info(info))
