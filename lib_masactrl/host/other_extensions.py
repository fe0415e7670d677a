"""What other extensions do to a request, where it changes what its lists or its object mean.

They are known by the names that they show and mark their own requests with; none of them is imported.
"""

from __future__ import annotations

from typing import Any


def is_inner_request(p: Any) -> bool:
    """Whether ADetailer repaints a part of a finished picture by this request of its own.

    It hands our arguments on if its setting "Apply only selected scripts to ADetailer" is off.
    """
    return bool(getattr(p, "_ad_inner", False))


def makes_every_variant(p: Any) -> bool:
    """Whether Dynamic Prompts fills the request's lists with one entry per variant (combinatorial generation)."""
    for script in getattr(getattr(p, "scripts", None), "alwayson_scripts", ()):
        if script.title().startswith("Dynamic Prompts"):
            enabled, combinatorial = p.script_args[script.args_from : script.args_from + 2]
            return bool(enabled and combinatorial)
    return False
