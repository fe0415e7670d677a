"""The accordion, derived from the settings table. Gradio only."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from typing import Any

import gradio as gr
from modules.ui_components import InputAccordion

from lib_masactrl import infotext_entries
from lib_masactrl.errors import SettingsError
from lib_masactrl.host import word_preview
from lib_masactrl.host.model import chosen_model
from lib_masactrl.host.recipes import ControlNetRecipes
from lib_masactrl.presets import PRESETS, Preset, start_layer
from lib_masactrl.setting_kinds import (
    ChoiceSetting,
    CountSetting,
    FlagSetting,
    GuidanceSetting,
    OptionalCountSetting,
    Setting,
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
        if not infotext_entries.sets(self.setting, params):
            return None
        try:
            return shown(self.setting, infotext_entries.read(self.setting, params))
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
    table = SETTINGS if tab == "img2img" else tuple(setting.without_picture() for setting in SETTINGS)
    unseen = {*hidden, *(setting.key for setting in table if setting.picture_only and tab != "img2img")}
    components: dict[str, Any] = {}
    rows: dict[tuple[str, ...], Any] = {}
    with InputAccordion(value=False, label="MasaCtrl", elem_id=_elem_id(tab, "enabled")) as components["enabled"]:
        gr.HTML(f'<p class="masactrl-note">{_INTRODUCTION[tab]}</p>')
        for keys in _IN_SIGHT:
            rows[keys] = _row(table, keys, tab, unseen, components)
        _preview_words(tab, components, prompt)
        presets = _presets(tab)
        gr.HTML('<p class="masactrl-note" aria-live="polite"></p>', elem_id=_elem_id(tab, "window"))
        recipes.build(tab)
        with gr.Accordion("Advanced", open=False, elem_id=_elem_id(tab, "advanced")):
            placed = {"enabled"}.union(*_IN_SIGHT, *_ADVANCED)
            for keys in (*_ADVANCED, *((setting.key,) for setting in table if setting.key not in placed)):
                rows[keys] = _row(table, keys, tab, unseen, components)
    _connect_presets(presets, components)
    recipes.connect(components["enabled"], components["control_guides"])
    _connect_visibility([setting for setting in table if setting.key not in unseen], components, rows, unseen)
    for key in ("start_step", "end_step", "start_layer"):
        components[key].change(fn=None, _js=f"() => masactrlDescribeWindow('{tab}')")
    return [(setting, components[setting.key]) for setting in table]


def _row(
    table: Collection[Setting], keys: tuple[str, ...], tab: str, unseen: Collection[str], components: dict[str, Any]
) -> Any:
    """Settings side by side, or below each other where the window is narrow."""
    defaults = {setting.key: setting.default for setting in table}
    seen = [s.key for s in table if s.key in keys and s.key not in unseen and s.applies(defaults)]
    with gr.Row(visible=bool(seen), elem_classes=["masactrl-row"]) as row:
        for setting in (setting for key in keys for setting in table if setting.key == key):
            components[setting.key] = _component(setting, tab, setting.key in seen)
    return row


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
    if isinstance(setting, CountSetting):
        return gr.Slider(**common, minimum=0, maximum=setting.maximum or setting.usual, step=1)
    return gr.Textbox(**common, lines=2)


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
    model = chosen_model()
    layer = start_layer(preset, model.layers if model else None)
    return preset.start_step, "" if layer is None else str(layer)


def _connect_visibility(
    seen: Collection[Setting],
    components: Mapping[str, Any],
    rows: Mapping[tuple[str, ...], Any],
    unseen: Collection[str],
) -> None:
    for other in dict.fromkeys(setting.acts_with[0] for setting in seen if setting.acts_with):
        depending = {setting.key: setting for setting in seen if setting.acts_with and setting.acts_with[0] == other}
        emptied = [row for row in rows if not {*row} <= {*unseen} and {*row} <= {*depending, *unseen}]
        groups = [*([key] for key in depending), *emptied]
        components[other].change(
            fn=functools.partial(
                _visible, other, [[depending[key] for key in keys if key in depending] for keys in groups]
            ),
            inputs=[components[other]],
            outputs=[*(components[key] for key in depending), *(rows[row] for row in emptied)],
            show_progress="hidden",
        )


def _visible(other: str, groups: Collection[Collection[Setting]], value: str) -> list[Any]:
    return [gr.update(visible=any(setting.applies({other: value}) for setting in group)) for group in groups]


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
