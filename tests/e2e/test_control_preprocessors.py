"""Beside ControlNet: preprocessors without a network, those that are one, and one whose network cannot be had.

To be run as ``test_control_branches.py``, by itself: once a network is there, nothing fails for the lack of it.
"""

from __future__ import annotations

from typing import Any

import pytest

from .client import Client, HttpError, largest_difference, request, same, with_script
from .control_requests import MOVED, NO_CONTROL, Sampled, asked, equal, preprocessor, unit

pytestmark = pytest.mark.usefixtures("model")

#: Those of the extension's preprocessors that work without a network, but for inpainting and references.
PREPROCESSORS = [
    *("none", "canny", "invert", "threshold", "scribble_xdog", "lineart_standard", "shuffle", "tile_resample"),
    *("blur_gaussian", "t2ia_color_grid"),
]


def check_target_alone(client: Client, guided: dict[str, Any]) -> None:
    without = Sampled(client, asked(**NO_CONTROL))
    target = Sampled(client, asked("target", **NO_CONTROL), guided)
    assert equal(target.row(1), without.row(1))
    assert largest_difference(target.row(0), without.row(0)) > MOVED


@pytest.mark.parametrize("module", PREPROCESSORS)
def test_a_preprocessor_of_the_user_s(client: Client, model: str, module: str) -> None:
    check_target_alone(client, unit(model, module=preprocessor(client, module)))


@pytest.mark.parametrize("module", ["softedge_hed", "t2ia_sketch_pidi", "openpose", "depth_midas"])
def test_a_network_that_cannot_be_downloaded(client: Client, model: str, module: str) -> None:
    """One message that names the unit, nothing left behind, and the next plain picture is the same.

    After a unit that worked, too: nothing of it may stand in for the one that failed.
    """
    plain, before = client.txt2img(request()), Sampled(client, asked(), unit(model))
    with pytest.raises(HttpError) as refusal:
        client.txt2img(with_script(asked(), "ControlNet", [unit(model, module=module)]))
    assert refusal.value.status == 422
    assert f"ControlNet made nothing of unit 0 ({module}), and said why" in refusal.value.message
    left = client.get("/fault/hooks")
    assert (left["ours"], left["control_signals"]) == (0, 0)
    assert same(client.txt2img(request()).images, plain.images)
    assert equal(Sampled(client, asked(), unit(model)).latents, before.latents)


@pytest.mark.parametrize(
    ("module", "package", "network"),
    [("softedge_hed", "hed", "ControlNetHED_Apache2"), ("t2ia_sketch_pidi", "pidinet", "pidinet")],
)
def test_a_preprocessor_that_is_a_network(client: Client, model: str, module: str, package: str, network: str) -> None:
    """Of random weights, so that it draws no edges, but it runs where the trained one would."""
    if missing := client.post("/fault/preprocessor", {"package": package, "network": network}):
        pytest.skip(f"NOT TESTED HERE: {module} needs the module {missing}, which this WebUI has not.")
    check_target_alone(client, unit(model, module=module))
