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

from lib_masactrl.guidance import with_target_first

#: Each button with the unit's control type.
CONTROL_TYPES = {"sketch": "Scribble", "canny": "Canny", "pose": "OpenPose", "depth": "Depth"}

_NOTE = "Each sets up ControlNet's first unit to guide the target alone; give it a picture of the new layout there."

#: The first unit's components by the end of their ids, with what a button sets each to. In img2img a unit without a
#: picture of its own takes that of the tab.
_SET_TO = {"enable_checkbox": True, "pixel_perfect_checkbox": True, "same_img2img_checkbox": True}
_CONTROL_TYPE = "type_filter_radio"
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

    def connect(self, enabled: Any, control_guides: Any) -> None:
        """Let the buttons also switch MasaCtrl on, and set whom the units guide."""
        self._ours = (enabled, control_guides)
        self._connect()

    def _connect(self) -> None:
        control_type = self._found.get((self._tab, _CONTROL_TYPE))
        if control_type is None or not self._ours:
            return
        enabled, control_guides = self._ours
        parts = {part: self._found.get((self._tab, part)) for part in _SET_TO}
        settings = {component: _SET_TO[part] for part, component in parts.items() if component is not None}
        opened = dict(self._opened)
        if self._unit_accordion is not None:  # its checkbox, which Forge's own script does not let open it
            opened |= {self._unit_accordion: True, self._unit_accordion.accordion: gr.update(open=True)}
        offered = {choice if isinstance(choice, str) else choice[0] for choice in control_type.choices}
        for name, button in self._buttons.items():
            button.visible = CONTROL_TYPES[name] in offered
            values = {enabled: True, **settings, **opened, control_type: CONTROL_TYPES[name]}
            button.click(
                fn=functools.partial(_set_up, tuple(values.values())),
                inputs=[control_guides],
                outputs=[control_guides, *values],
                show_progress="hidden",
            )
        self._row.visible, self._ours = True, ()


def _set_up(values: tuple[Any, ...], guides: str | None) -> list[Any]:
    return [with_target_first(guides or ""), *values]  # an emptied dropdown has no value
