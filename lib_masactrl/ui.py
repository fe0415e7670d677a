"""The accordion, derived from the settings table. Gradio only."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from typing import Any

import gradio as gr
from modules.ui_components import InputAccordion

from lib_masactrl.errors import SettingsError
from lib_masactrl.host import infotext, word_preview
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

#: Row by row, what is in sight and what is under "Advanced"; settings named in neither follow there.
_IN_SIGHT: tuple[tuple[str, ...], ...] = (
    ("source",),
    ("source_prompt",),
    ("method", "mask"),
    ("source_words", "target_words"),
)
_ADVANCED: tuple[tuple[str, ...], ...] = (
    ("more_targets",),
    ("start_step",),
    ("end_step", "start_layer"),
    ("mask_threshold", "average_masks"),
    ("inversion_steps", "inversion_refinements"),
    ("rectify", "check_inversion"),
    ("control_guides",),
    ("show_source", "show_masks"),
    ("allow_plain",),
)

#: Settings that mean something in one tab only; the other has their components, but does not show them.
_ONLY_IN = {
    **{"source": "img2img", "inversion_steps": "img2img", "inversion_refinements": "img2img", "rectify": "img2img"},
    "check_inversion": "img2img",
}

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
    "check_inversion": ("source", ("auto", "image")),
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
    unseen = {*hidden, *(key for key, only in _ONLY_IN.items() if only != tab)}
    components: dict[str, Any] = {}
    rows: dict[tuple[str, ...], Any] = {}
    with InputAccordion(value=False, label="MasaCtrl", elem_id=_elem_id(tab, "enabled")) as components["enabled"]:
        gr.HTML(f'<p class="masactrl-note">{_INTRODUCTION[tab]}</p>')
        for keys in _IN_SIGHT:
            rows[keys] = _row(keys, tab, unseen, components)
        _preview_words(tab, components, prompt)
        presets = _presets(tab)
        gr.HTML('<p class="masactrl-note" aria-live="polite"></p>', elem_id=_elem_id(tab, "window"))
        recipes.build(tab)
        with gr.Accordion("Advanced", open=False, elem_id=_elem_id(tab, "advanced")):
            placed = {"enabled"}.union(*_IN_SIGHT, *_ADVANCED)
            for keys in (*_ADVANCED, *((setting.key,) for setting in SETTINGS if setting.key not in placed)):
                rows[keys] = _row(keys, tab, unseen, components)
    _connect_presets(presets, components)
    recipes.connect(components["enabled"], components["control_guides"])
    _connect_visibility(components, rows, unseen)
    for key in ("start_step", "end_step", "start_layer"):
        components[key].change(fn=None, _js=f"() => masactrlDescribeWindow('{tab}')")
    return [(setting, components[setting.key]) for setting in SETTINGS]


def _row(keys: tuple[str, ...], tab: str, unseen: Collection[str], components: dict[str, Any]) -> Any:
    """Settings side by side, or below each other where the window is narrow."""
    defaults = {setting.key: setting.default for setting in SETTINGS}
    seen = [key for key in keys if key not in unseen and _applies(key, defaults)]
    with gr.Row(visible=bool(seen), elem_classes=["masactrl-row"]) as row:
        for setting in (setting for key in keys for setting in SETTINGS if setting.key == key):
            components[setting.key] = _component(setting, tab, setting.key in seen)
    return row


def _applies(key: str, values: Mapping[str, Any]) -> bool:
    """Whether a setting means something beside those ``values``; one that depends on none of them does."""
    other, wanted = _ONLY_WHEN.get(key, ("", ()))
    return other not in values or values[other] in wanted


def _component(setting: Setting, tab: str, visible: bool) -> Any:
    common = {
        "label": setting.label,
        "value": shown(setting, setting.default),
        "elem_id": _elem_id(tab, setting.key),
        "info": setting.help,
        "tooltip": setting.help,
        "visible": visible,
        "min_width": 240,
    }
    if isinstance(setting, FlagSetting):
        return gr.Checkbox(**common, elem_classes=["masactrl-flag"])
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
        gr.HTML("<span>Preset</span>")
        return {
            preset: gr.Button(
                preset.name, size="sm", elem_id=_elem_id(tab, f"preset_{preset.name}"), tooltip=preset.help
            )
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


def _connect_visibility(
    components: Mapping[str, Any], rows: Mapping[tuple[str, ...], Any], unseen: Collection[str]
) -> None:
    for other in dict.fromkeys(other for other, _ in _ONLY_WHEN.values()):
        keys = [key for key, (on, _) in _ONLY_WHEN.items() if on == other and key not in unseen]
        emptied = [row for row in rows if not {*row} <= {*unseen} and {*row} <= {*keys, *unseen}]
        groups = [*([key] for key in keys), *([key for key in row if key in keys] for row in emptied)]
        if keys:
            components[other].change(
                fn=functools.partial(_visible, other, groups),
                inputs=[components[other]],
                outputs=[*(components[key] for key in keys), *(rows[row] for row in emptied)],
                show_progress="hidden",
            )


def _visible(other: str, groups: Collection[Collection[str]], value: str) -> list[Any]:
    return [gr.update(visible=any(_applies(key, {other: value}) for key in keys)) for keys in groups]


def _preview_words(tab: str, components: Mapping[str, Any], prompt: Any) -> None:
    """Show, while words are typed, which words of the prompts they match."""
    matches = gr.HTML(elem_id=_elem_id(tab, "matched_words"), elem_classes=["masactrl-matches"])
    prompts = [components["source_prompt"], *([prompt] if prompt is not None else [])]
    fields = [components[key] for key in ("mask", "source_words", "target_words")]
    shown_how = {"inputs": [*fields, *prompts], "outputs": [matches], "show_progress": "hidden", "queue": False}
    for field in fields:
        field.change(word_preview.matches, **shown_how)
    for field in prompts:
        field.blur(word_preview.matches, **shown_how)


def _elem_id(tab: str, key: str) -> str:
    return f"masactrl_{tab}_{key}"
