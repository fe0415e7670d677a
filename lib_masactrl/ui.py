"""The accordion, derived from the settings table. Gradio only."""

from __future__ import annotations

import functools
import html
from collections.abc import Collection, Mapping
from typing import Any

import gradio as gr
from modules.ui_components import InputAccordion

from lib_masactrl.errors import SettingsError
from lib_masactrl.host import infotext, words
from lib_masactrl.host.model import loaded_model
from lib_masactrl.host.recipes import ControlNetRecipes
from lib_masactrl.presets import PRESETS, Preset, start_layer
from lib_masactrl.setting_kinds import (
    ChoiceSetting,
    FlagSetting,
    GuidanceSetting,
    OptionalCountSetting,
    Setting,
    TextSetting,
    ThresholdSetting,
    WordsSetting,
)
from lib_masactrl.settings import SETTINGS

#: In sight, in this order; everything else is under "Advanced".
_FIRST = ("source", "source_prompt", "method", "mask", "source_words", "target_words")

#: Settings that mean something in one tab only; the other has their components, but does not show them.
_ONLY_IN = {"source": "img2img", "inversion_steps": "img2img", "inversion_refinements": "img2img", "rectify": "img2img"}

#: Settings that are shown only while another one has one of certain values.
_ONLY_WHEN = {
    "source_words": ("mask", ("words",)),
    "target_words": ("mask", ("words", "painted")),
    "mask_threshold": ("mask", ("words", "painted")),
    "average_masks": ("mask", ("words", "painted")),
    "show_masks": ("mask", ("words", "painted")),
    "inversion_steps": ("source", ("auto", "image")),
    "inversion_refinements": ("source", ("auto", "image")),
    "rectify": ("source", ("auto", "image")),
}

#: Without mark-up inside: the host translates text by text.
_INTRODUCTION = {
    "txt2img": "The prompt above describes the target. It keeps the identity of the picture that the source prompt "
    "describes; both are made together, with one seed.",
    "img2img": "The prompt above describes the target. It keeps the identity of the source: the picture of this tab, "
    "or one made from a source prompt.",
}


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
    return (
        ("" if value is None else str(value))
        if isinstance(setting, (OptionalCountSetting, ThresholdSetting))
        else value
    )


def build(
    tab: str, recipes: ControlNetRecipes, hidden: Collection[str] = (), prompt: Any = None
) -> list[tuple[Setting, Any]]:
    """Build the accordion of ``tab`` (``txt2img`` or ``img2img``); each setting with its component, in table order.

    Args:
        recipes: sees the components that other extensions build.
        hidden: keys of settings that mean nothing on this host; their components are there, but not seen.
        prompt: the tab's own prompt box, for the preview of matched words.
    """
    enabled, *others = SETTINGS
    first = sorted((s for s in others if s.key in _FIRST), key=lambda setting: _FIRST.index(setting.key))
    unseen = {*hidden, *(key for key, only in _ONLY_IN.items() if only != tab)}
    components: dict[str, Any] = {}
    with InputAccordion(value=enabled.default, label="MasaCtrl", elem_id=_elem_id(tab, "enabled")) as accordion:
        components[enabled.key] = accordion
        gr.HTML(f'<p class="masactrl-note">{_INTRODUCTION[tab]}</p>')
        for setting in first:
            components[setting.key] = _component(setting, tab, setting.key not in unseen)
        _preview_words(tab, components, prompt)
        presets = _presets(tab)
        recipes.build(tab)
        gr.HTML('<p class="masactrl-note" aria-live="polite"></p>', elem_id=_elem_id(tab, "window"))
        with gr.Accordion("Advanced", open=False, elem_id=_elem_id(tab, "advanced")):
            for setting in (s for s in others if s not in first):
                components[setting.key] = _component(setting, tab, setting.key not in unseen)
    _connect_presets(presets, components)
    recipes.connect(accordion, components["control_guides"])
    _connect_visibility(components, unseen)
    for key in ("start_step", "end_step", "start_layer"):
        components[key].change(fn=None, _js=f"() => masactrlDescribeWindow('{tab}')")
    return [(setting, components[setting.key]) for setting in SETTINGS]


def _component(setting: Setting, tab: str, visible: bool) -> Any:
    common = {
        "label": setting.label,
        "value": shown(setting, setting.default),
        "elem_id": _elem_id(tab, setting.key),
        "info": setting.help,
        "visible": visible,
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
    if isinstance(setting, (WordsSetting, ThresholdSetting)):
        return gr.Textbox(**common, max_lines=1)
    if isinstance(setting, TextSetting):
        return gr.Textbox(**common, lines=2)
    return gr.Slider(**common, minimum=0, maximum=150, step=1)


def _presets(tab: str) -> dict[Preset, Any]:
    with gr.Row(elem_id=_elem_id(tab, "presets"), elem_classes=["masactrl-presets"]):
        helps = html.escape("\n".join(f"{preset.name}: {preset.help}" for preset in PRESETS))
        gr.HTML(f'<span title="{helps}">Preset</span>')
        return {
            preset: gr.Button(preset.name, size="sm", elem_id=_elem_id(tab, f"preset_{preset.name}"))
            for preset in PRESETS
        }


def _connect_presets(buttons: Mapping[Preset, Any], components: Mapping[str, Any]) -> None:
    for preset, button in buttons.items():
        button.click(
            fn=functools.partial(_window_of, preset),
            inputs=[],
            outputs=[components["start_step"], components["start_layer"]],
            show_progress="hidden",
        )


def _window_of(preset: Preset) -> tuple[int, str]:
    model = loaded_model()
    layer = start_layer(preset, model.layers if model else None)
    return preset.start_step, "" if layer is None else str(layer)


def _connect_visibility(components: Mapping[str, Any], unseen: Collection[str]) -> None:
    for key, (other, values) in _ONLY_WHEN.items():
        if key in components and key not in unseen:
            components[key].visible = components[other].value in values
            components[other].change(
                fn=functools.partial(_visible_when, values),
                inputs=[components[other]],
                outputs=[components[key]],
                show_progress="hidden",
            )


def _visible_when(wanted: Collection[str], value: str) -> Any:
    return gr.update(visible=value in wanted)


def _preview_words(tab: str, components: Mapping[str, Any], prompt: Any) -> None:
    """Show, while words are typed, which words of the prompts they match."""
    matches = gr.HTML(elem_id=_elem_id(tab, "matched_words"), elem_classes=["masactrl-matches"])
    prompts = [components["source_prompt"], *([prompt] if prompt is not None else [])]
    fields = [components[key] for key in ("mask", "source_words", "target_words")]
    shown_how = {"inputs": [*fields, *prompts], "outputs": [matches], "show_progress": "hidden", "queue": False}
    for field in fields:
        field.change(words.matches, **shown_how)
    for field in prompts:
        field.blur(words.matches, **shown_how)


def _elem_id(tab: str, key: str) -> str:
    return f"masactrl_{tab}_{key}"
