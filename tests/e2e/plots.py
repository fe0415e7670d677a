"""X/Y/Z plots over the API."""

from __future__ import annotations

from typing import Any

from .client import Client, Pixels

#: The plot's arguments, where they differ from the UI's defaults.
CELLS_ONLY = {"Draw legend": False, "Include Sub Images": True, "Keep -1 for seeds": True}


def plot(
    client: Client, base: dict[str, Any], tab: str = "txt2img", **axes: tuple[str, str | list[str]]
) -> list[Pixels]:
    """The cells of a plot; ``X=("Start step", "2,4")``. A list is what the user picks from an axis's choices."""
    labels = client.get("/fault/axes")[tab]
    entries = client.script_info()
    entry = next(e for e in entries if e["name"] == "x/y/z plot" and e["is_img2img"] == (tab == "img2img"))
    given: dict[tuple[str, int], Any] = {(label, 0): value for label, value in CELLS_ONLY.items()}
    for axis in "XYZ":
        label, values = axes.get(axis, ("Nothing", ""))
        given[f"{axis} type", 0] = labels.index(label if label == "Nothing" else f"[MasaCtrl] {label}")
        given[f"{axis} values", 0] = values if isinstance(values, str) else ""
        given[f"{axis} values", 1] = [] if isinstance(values, str) else values
    args, seen = [], dict.fromkeys((argument["label"] for argument in entry["args"]), 0)
    for argument in entry["args"]:
        label = argument["label"]
        args.append(given.get((label, seen[label]), argument["value"]))
        seen[label] += 1
    asked = {**base, "script_name": "X/Y/Z plot", "script_args": args}
    result = client.txt2img(asked) if tab == "txt2img" else client.img2img(asked)
    return result.images[1:]  # the grid comes first
