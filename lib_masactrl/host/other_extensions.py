"""What other scripts do to a request, where it changes what its lists, its pictures or its object mean.

They are known by the titles that they show and by how they mark their own requests; none of them is imported.
"""

from __future__ import annotations

from typing import Any

#: Scripts of the hosts' own that lay the pictures of a request side by side by their number, one for each of theirs.
#: (Outpainting mk2, Loopback and X/Y/Z plot take the first ones, which are targets.)
_BY_NUMBER = {"sd upscale", "poor man's outpainting", "prompt matrix"}


def is_inner_request(p: Any) -> bool:
    """Whether ADetailer repaints a part of a finished picture by this request of its own.

    It hands our arguments on if its setting "Apply only selected scripts to ADetailer" is off.
    """
    return bool(getattr(p, "_ad_inner", False))


def makes_every_variant(p: Any) -> bool:
    """Whether Dynamic Prompts fills the request's lists with one entry per variant (combinatorial generation)."""
    enabled, combinatorial = (*_arguments(p, "Dynamic Prompts"), False, False)[:2]
    return bool(enabled and combinatorial)


def shares_regions(p: Any) -> bool:
    """Whether Forge Couple paints every picture of a batch by the regions of the first prompt."""
    return bool(next(iter(_arguments(p, "Forge Couple")), False))


def _arguments(p: Any, title: str) -> tuple[Any, ...]:
    """What the request gives to the always visible script whose title begins so; nothing if there is none."""
    for script in getattr(getattr(p, "scripts", None), "alwayson_scripts", ()):
        if script.title().startswith(title):
            return tuple(p.script_args[script.args_from : script.args_to])
    return ()


def script_by_number(p: Any) -> str | None:
    """The title of the script chosen in the tab's *Script* menu, if it takes the request's pictures by their number."""
    chosen = next(iter(p.script_args or ()), 0)  # the host's `ScriptRunner.run`: 0 is none
    scripts = getattr(getattr(p, "scripts", None), "selectable_scripts", ())
    if not isinstance(chosen, int) or not 0 < chosen <= len(scripts):
        return None
    title = str(scripts[chosen - 1].title())
    return title if title.lower() in _BY_NUMBER else None
