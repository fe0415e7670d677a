"""The accordion, derived from the settings table. Gradio only."""

from __future__ import annotations

from typing import Any

import gradio as gr
from modules.ui_components import InputAccordion

from lib_masactrl.settings import SETTINGS, ChoiceSetting, FlagSetting, OptionalCountSetting, Setting, TextSetting

#: In sight; everything else is under "Advanced".
_FIRST = ("source_prompt", "more_targets", "method")


def build(tab: str) -> list[tuple[Setting, Any]]:
    """Build the accordion of ``tab`` (``txt2img`` or ``img2img``); each setting with its component, in table order."""
    enabled, *others = SETTINGS
    components: dict[str, Any] = {}
    with InputAccordion(value=enabled.default, label="MasaCtrl", elem_id=_elem_id(tab, "enabled")) as accordion:
        components[enabled.key] = accordion
        gr.HTML(
            "<p>The prompt above describes the <b>target</b>. It keeps the identity of the picture that the "
            "<b>source prompt</b> describes; both are made together, with one seed.</p>",
            elem_classes=["masactrl-intro"],
        )
        for setting in (s for s in others if s.key in _FIRST):
            components[setting.key] = _component(setting, tab)
        with gr.Accordion("Advanced", open=False, elem_id=_elem_id(tab, "advanced")):
            for setting in (s for s in others if s.key not in _FIRST):
                components[setting.key] = _component(setting, tab)
    return [(setting, components[setting.key]) for setting in SETTINGS]


def _component(setting: Setting, tab: str) -> Any:
    common = {"label": setting.label, "value": setting.default, "elem_id": _elem_id(tab, setting.key)}
    if isinstance(setting, FlagSetting):
        return gr.Checkbox(**common, info=setting.help)
    if isinstance(setting, ChoiceSetting):
        return gr.Radio(**common, choices=list(setting.choices), info=setting.help)
    if isinstance(setting, OptionalCountSetting):
        # A text field, because neither a slider nor Gradio's number field can be empty on both Gradio 3 and 4.
        return gr.Textbox(**{**common, "value": ""}, placeholder="auto", max_lines=1, info=setting.help)
    if isinstance(setting, TextSetting):
        return gr.Textbox(**common, lines=2, info=setting.help)
    return gr.Slider(**common, minimum=0, maximum=150, step=1, info=setting.help)


def _elem_id(tab: str, key: str) -> str:
    return f"masactrl_{tab}_{key}"
