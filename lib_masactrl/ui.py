"""The accordion, derived from the settings table. Gradio only."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import gradio as gr
from modules.ui_components import InputAccordion

from lib_masactrl.errors import SettingsError
from lib_masactrl.host import infotext
from lib_masactrl.settings import (
    SETTINGS,
    ChoiceSetting,
    FlagSetting,
    GuidanceSetting,
    OptionalCountSetting,
    Setting,
    TextSetting,
)

#: In sight; everything else is under "Advanced".
_FIRST = ("source_prompt", "more_targets", "method")


class PasteTarget(str):
    """How the host fills a component from a pasted infotext: by calling this with the parsed infotext.

    A text as well, the infotext key, because "Send to" between tabs copies the components whose *names* are in the
    script's ``paste_field_names`` (A1111 ``infotext_utils``, ``connect_paste_params_buttons``).
    """

    setting: Setting

    def __new__(cls, setting: Setting) -> PasteTarget:
        target = super().__new__(cls, setting.infotext_key)
        target.setting = setting
        return target

    def __call__(self, params: Mapping[str, Any]) -> Any:
        """The component's new value; ``None`` leaves it alone."""
        if not infotext.sets(self.setting, params):
            return None
        try:
            return shown(self.setting, infotext.read(self.setting, params))
        except SettingsError as error:  # written by another version of MasaCtrl, or by hand
            gr.Warning(f"{error} Its default is used.")
            return shown(self.setting, self.setting.default)


def shown(setting: Setting, value: Any) -> Any:
    """A setting's value as its component holds it."""
    return ("" if value is None else str(value)) if isinstance(setting, OptionalCountSetting) else value


def build(tab: str, hidden: Collection[str] = ()) -> list[tuple[Setting, Any]]:
    """Build the accordion of ``tab`` (``txt2img`` or ``img2img``); each setting with its component, in table order.

    Args:
        hidden: keys of settings that mean nothing on this host; their components are there, but not seen.
    """
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
            components[setting.key] = _component(setting, tab, hidden)
        with gr.Accordion("Advanced", open=False, elem_id=_elem_id(tab, "advanced")):
            for setting in (s for s in others if s.key not in _FIRST):
                components[setting.key] = _component(setting, tab, hidden)
    return [(setting, components[setting.key]) for setting in SETTINGS]


def _component(setting: Setting, tab: str, hidden: Collection[str]) -> Any:
    common = {
        "label": setting.label,
        "value": shown(setting, setting.default),
        "elem_id": _elem_id(tab, setting.key),
        "info": setting.help,
        "visible": setting.key not in hidden,
    }
    if isinstance(setting, FlagSetting):
        return gr.Checkbox(**common)
    if isinstance(setting, ChoiceSetting):
        return gr.Radio(**common, choices=list(setting.choices))
    if isinstance(setting, OptionalCountSetting):
        # A text field, because neither a slider nor Gradio's number field can be empty on both Gradio 3 and 4.
        return gr.Textbox(**common, placeholder="auto", max_lines=1)
    if isinstance(setting, GuidanceSetting):
        return gr.Dropdown(**common, choices=list(setting.suggestions), allow_custom_value=True)
    if isinstance(setting, TextSetting):
        return gr.Textbox(**common, lines=2)
    return gr.Slider(**common, minimum=0, maximum=150, step=1)


def _elem_id(tab: str, key: str) -> str:
    return f"masactrl_{tab}_{key}"
