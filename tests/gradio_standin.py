"""A minimal stand-in for Gradio and for the host's settings page: everything keeps what it was made of."""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

from tests.webui_standin import StandIn

COMPONENTS = (
    "Accordion",
    "Button",
    "Checkbox",
    "Column",
    "Dropdown",
    "HTML",
    "InputAccordion",
    "Radio",
    "Row",
    "Slider",
    "State",
    "Textbox",
)


class Component:
    """One component, or a block of them. ``listeners`` has ``(event, function, outputs)``."""

    made: list[Component]

    def __init__(self, *args: Any, **given: Any) -> None:
        vars(self).update(value=args[0] if args else None, visible=True, children=[], listeners=[], given=given)
        vars(self).update(given)
        self.made.append(self)

    def __enter__(self) -> Component:
        self.first = len(self.made)
        return self

    def __exit__(self, *_: Any) -> None:
        self.children = self.made[self.first :]

    def __getattr__(self, event: str) -> Callable[..., None]:
        if event not in ("change", "click", "blur"):
            raise AttributeError(event)

        def listen(fn: Any = None, outputs: Any = (), **_: Any) -> None:
            self.listeners.append((event, fn, outputs))

        return listen

    def texts(self) -> Iterator[str]:
        """What it says; not its choices, which are words of the API and stay as they are in every language."""
        yield from (self.given[name] for name in ("label", "info", "placeholder", "tooltip") if name in self.given)
        if type(self).__name__ in ("Accordion", "Button", "HTML"):
            yield from texts_of_html(self.value or "")


class Option:
    """``OptionInfo`` of the host's settings; ``OptionHTML`` has its text as the label."""

    def __init__(self, default: Any, label: str, **given: Any) -> None:
        self.texts = [label]

    def info(self, text: str) -> Option:
        self.texts.append(f"({text})")  # as the page shows it
        return self


def texts_of_html(html: str) -> list[str]:
    """The texts between the tags: the host translates each by itself."""
    return [text.strip() for text in re.split(r"<[^>]*>", html) if text.strip()]


def install(host: StandIn) -> tuple[list[Component], dict[str, Option]]:
    """Put it in its place inside ``installed()``; returns what will be made: components, and options by name."""
    made: list[Component] = []
    options: dict[str, Option] = {}
    kinds = {name: type(name, (Component,), {"made": made}) for name in COMPONENTS}
    vars(sys.modules["gradio"]).update(kinds, update=lambda **changes: changes)
    vars(sys.modules["modules.ui_components"]).update(kinds)
    vars(sys.modules["modules.sd_models"]).update(model_data=types.SimpleNamespace(sd_model=None))
    host.shared.opts.add_option = options.__setitem__
    vars(host.shared).update(OptionInfo=Option, OptionHTML=lambda text: Option(None, text))
    return made, options
