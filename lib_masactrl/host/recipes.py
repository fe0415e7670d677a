"""Buttons that set up the first unit of a ControlNet extension to guide the target.

They reach that extension through its own components alone, found by their ids, which are the same in Mikubill's
extension and in the Forge family's (``controlnet_ui_group.py``). A button sets the unit's *control type*, so that it is
the extension that chooses, among those it has, the preprocessor and the model that belong together.
"""

from __future__ import annotations

import functools
import re
from typing import Any

import gradio as gr

from lib_masactrl.branch_guidance import with_target_first

#: Each button with the unit's control type.
CONTROL_TYPES = {"sketch": "Scribble", "canny": "Canny", "pose": "OpenPose", "depth": "Depth"}

#: Preprocessors that an extension may not choose by itself: Forge Classic takes the last by name, "invert" for Canny.
PREPROCESSORS = {"Canny": "canny"}

_NOTE = "Each sets up ControlNet's first unit to guide the target alone; give it a picture of the new layout there."

#: The first unit's components by the end of their ids, with what a button sets each to. In img2img a unit without a
#: picture of its own takes that of the tab.
_SET_TO = {"enable_checkbox": True, "pixel_perfect_checkbox": True, "same_img2img_checkbox": True}
_CONTROL_TYPE, _PREPROCESSOR = "type_filter_radio", "preprocessor_dropdown"
#: With one unit only, Mikubill's extension leaves its number out.
_FIRST_UNIT = re.compile(r"(txt2img|img2img)_controlnet_ControlNet(?:-0)?_controlnet_(\w+)")
#: What has to be open for the unit to be seen: the extension's accordion, and in the Forge family the unit's own.
_ACCORDION, _UNIT_ACCORDION_CLASS = "controlnet", "cnet-unit-enabled-accordion"


class ControlNetRecipes:
    """The buttons of one tab, which work and are shown as soon as ControlNet's components are there too.

    Extensions are built in alphabetical order, so that either may come first.
    """

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], Any] = {}
        self._opened: dict[Any, Any] = {}
        self._unit_accordion: Any = None
        self._tab = ""
        self._row: Any = None
        self._wanted: Any = None
        self._buttons: dict[str, Any] = {}
        self._ours: tuple[Any, ...] = ()

    def notice(self, component: Any) -> None:
        """Hand over every component that the host builds."""
        elem_id = str(getattr(component, "elem_id", "") or "")
        first_unit = _FIRST_UNIT.fullmatch(elem_id)
        if first_unit:
            self._found[first_unit[1], first_unit[2]] = component
            self._connect()
        elif elem_id == _ACCORDION:
            self._opened[component] = gr.update(open=True)
        elif _UNIT_ACCORDION_CLASS in (getattr(component, "elem_classes", None) or ()) and self._unit_accordion is None:
            self._unit_accordion = component

    def build(self, tab: str) -> None:
        """Build the buttons, not shown as yet."""
        self._tab = tab
        with gr.Column(visible=False, elem_id=f"masactrl_{tab}_recipes") as self._row:
            with gr.Row(elem_classes=["masactrl-presets"]):
                gr.HTML("<span>ControlNet</span>")
                self._buttons = {
                    name: gr.Button(name, size="sm", elem_id=f"masactrl_{tab}_recipe_{name}") for name in CONTROL_TYPES
                }
            gr.HTML(f'<p class="masactrl-note">{_NOTE}</p>')
            self._wanted = gr.State("")

    def connect(self, enabled: Any, control_guides: Any) -> None:
        """Let the buttons also switch MasaCtrl on, and set whom the units guide."""
        self._ours = (enabled, control_guides)
        self._connect()

    def _connect(self) -> None:
        control_type = self._found.get((self._tab, _CONTROL_TYPE))
        preprocessor = self._found.get((self._tab, _PREPROCESSOR))
        if control_type is None or preprocessor is None or not self._ours:
            return
        enabled, control_guides = self._ours
        parts = {part: self._found.get((self._tab, part)) for part in _SET_TO}
        settings = {component: _SET_TO[part] for part, component in parts.items() if component is not None}
        opened = dict(self._opened)
        if self._unit_accordion is not None:  # its checkbox, which Forge's own script does not let open it
            opened |= {self._unit_accordion: True, self._unit_accordion.accordion: gr.update(open=True)}
        offered, preprocessors = _choices(control_type), _choices(preprocessor)
        none = next((choice for choice in preprocessors if choice.lower() == "none"), "")
        for name, button in self._buttons.items():
            kind = CONTROL_TYPES[name]
            button.visible = kind in offered
            values = {enabled: True, **settings, **opened, control_type: kind}
            own = PREPROCESSORS.get(kind)
            button.click(
                fn=functools.partial(_set_up, values, kind, own if none and own in preprocessors else None, none),
                inputs=[control_guides, control_type],
                outputs=[control_guides, *values, preprocessor, self._wanted],
                show_progress="hidden",
            )
        preprocessor.change(
            fn=functools.partial(_correct, none),
            inputs=[preprocessor, self._wanted],
            outputs=[preprocessor, self._wanted],
            show_progress="hidden",
        )
        self._row.visible, self._ours = True, ()


def _choices(component: Any) -> list[str]:
    return [choice if isinstance(choice, str) else choice[0] for choice in component.choices]


def _set_up(
    values: dict[Any, Any], kind: str, own: str | None, none: str, guides: str | None, kind_before: str
) -> list[Any]:
    """What a button sets: guides, ``values``, the preprocessor, and which one :func:`_correct` has to choose.

    The extension chooses one when the control type changes. Until then there is ``none``, so that what it chooses is a
    change in any case.
    """
    chooses = own is not None and kind_before != kind
    preprocessor = gr.update() if own is None else none if chooses else own
    return [with_target_first(guides or ""), *values.values(), preprocessor, own if chooses else ""]


def _correct(none: str, chosen: str, wanted: str) -> list[Any]:
    """The preprocessor once the extension has chosen one, and that nothing is wanted any more."""
    if not wanted or chosen == none:
        return [gr.update(), wanted]
    return [gr.update() if chosen == wanted else wanted, ""]
