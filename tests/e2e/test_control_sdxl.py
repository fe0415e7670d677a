"""SDXL beside ControlNet: on AUTOMATIC1111 ControlNets in three sizes and a T2I-Adapter, on Forge a ControlNet.

Asked for by ``MASACTRL_E2E_FAMILIES=sdxl``, on AUTOMATIC1111 with ``MASACTRL_E2E_CONTROLNET``. There the U-Net has
SDXL's own width, without which no ControlNet fits it; with the largest, the WebUI takes 10 GB of memory.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from . import family_checkpoints
from .client import Client, fault, largest_difference, request, with_script
from .control_models import write_sdxl_controlnet
from .control_requests import HIRES, MOVED, NO_CONTROL, SOURCE, STEPS, TARGET, Sampled, asked, equal, named, unit
from .host import HostPaths, is_forge, running
from .wide_checkpoint import sdxl_checkpoint

#: Transformer blocks at the deepest level of a ControlNet.
CONTROLNETS = {"small": 0, "mid": 1, "full": 10}
#: SDXL's would download a model.
NO_PREVIEWS = {"live_previews_enable": False}


@pytest.fixture(scope="module")
def client(host_paths: HostPaths, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    if "sdxl" not in os.environ.get("MASACTRL_E2E_FAMILIES", "").split():
        pytest.skip("NOT TESTED: put sdxl into MASACTRL_E2E_FAMILIES.")
    data, checkpoint = tmp_path_factory.mktemp("webui"), tmp_path_factory.mktemp("sdxl") / "wide.safetensors"
    if is_forge(host_paths.checkout):
        with running(replace(host_paths, checkpoint=sdxl_checkpoint()), data) as client:
            client.post("/sdapi/v1/options", NO_PREVIEWS)
            yield client
        return
    if host_paths.controlnet is None:
        pytest.skip("NOT TESTED: set MASACTRL_E2E_CONTROLNET to the folder of the ControlNet extension.")
    maker: list[str | Path] = [host_paths.python, family_checkpoints.__file__, host_paths.checkout]
    subprocess.run([*maker, family_checkpoints.WIDE, checkpoint], check=True, cwd=checkpoint.parent)
    for size, depth in CONTROLNETS.items():
        write_sdxl_controlnet(depth, data / "models" / "ControlNet" / f"{size}.safetensors")
    try:
        with running(replace(host_paths, checkpoint=checkpoint), data) as client:
            client.post("/sdapi/v1/options", NO_PREVIEWS)
            yield client
    finally:
        checkpoint.unlink()


@pytest.fixture(scope="module", params=[*CONTROLNETS, "sketch-canny"])
def model(request: pytest.FixtureRequest, client: Client) -> str:
    """Each control model; the last is written for every checkpoint: on AUTOMATIC1111 the T2I-Adapter."""
    return named(client, request.param)


@pytest.fixture(autouse=True)
def leaves_no_hook(client: Client) -> Iterator[None]:
    yield
    left = client.get("/fault/hooks")
    assert (left["ours"], left["control_signals"]) == (0, 0)


@pytest.fixture(scope="module")
def without(client: Client) -> Sampled:
    """Target and source without ControlNet, and without control."""
    return Sampled(client, asked(**NO_CONTROL))


@pytest.mark.parametrize(("guides", "moved"), [("target", 0), ("source 0.5", 1)])
def test_a_unit_guides_one_branch(client: Client, model: str, without: Sampled, guides: str, moved: int) -> None:
    guided = Sampled(client, asked(guides, **NO_CONTROL), unit(model))
    assert largest_difference(guided.row(moved), without.row(moved)) > MOVED
    assert equal(guided.row(1 - moved), without.row(1 - moved))


def test_weight_zero_is_off_and_both_is_the_extension_alone(client: Client, model: str, without: Sampled) -> None:
    assert equal(Sampled(client, asked("both 0", **NO_CONTROL), unit(model)).latents, without.latents)
    plain = fault(request(steps=STEPS, batch_size=2), prompts=[TARGET, SOURCE], seeds_of=[0, 0])
    both = Sampled(client, asked("both", **NO_CONTROL), unit(model))
    assert equal(both.latents, Sampled(client, plain, unit(model)).latents)


def test_under_control_and_in_hires_fix(client: Client, model: str) -> None:
    """The default: the source is that of a run without the unit, in both passes."""
    calls = [client.traced(with_script(asked(**HIRES), "ControlNet", units)) for units in ([], [unit(model)])]
    assert len({latents.shape for latents in calls[0]}) == 2
    for alone, guided in zip(*calls):
        assert (alone[1] == guided[1]).all()
        assert largest_difference(alone[0], guided[0]) > MOVED
