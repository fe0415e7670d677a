"""SDXL beside the real ControlNet extension: its ControlNets in their three sizes, and a T2I-Adapter.

Asked for by ``MASACTRL_E2E_FAMILIES=sdxl`` with ``MASACTRL_E2E_CONTROLNET`` on AUTOMATIC1111. The U-Net has SDXL's own
width, without which no ControlNet fits it; with the largest, the WebUI takes 10 GB of memory.
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
from .control_requests import HIRES, MOVED, NO_CONTROL, SOURCE, STEPS, TARGET, Sampled, asked, equal, unit
from .host import HostPaths, is_forge, running

#: Transformer blocks at the deepest level of a ControlNet.
CONTROLNETS = {"small": 0, "mid": 1, "full": 10}


@pytest.fixture(scope="module")
def client(host_paths: HostPaths, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    if "sdxl" not in os.environ.get("MASACTRL_E2E_FAMILIES", "").split():
        pytest.skip("NOT TESTED: put sdxl into MASACTRL_E2E_FAMILIES.")
    if is_forge(host_paths.checkout) or host_paths.controlnet is None:
        pytest.skip("NOT TESTED: this is for AUTOMATIC1111 with MASACTRL_E2E_CONTROLNET.")
    data, checkpoint = tmp_path_factory.mktemp("webui"), tmp_path_factory.mktemp("sdxl") / "wide.safetensors"
    maker: list[str | Path] = [host_paths.python, family_checkpoints.__file__, host_paths.checkout]
    subprocess.run([*maker, family_checkpoints.WIDE, checkpoint], check=True, cwd=checkpoint.parent)
    for size, depth in CONTROLNETS.items():
        write_sdxl_controlnet(depth, data / "models" / "ControlNet" / f"{size}.safetensors")
    try:
        with running(replace(host_paths, checkpoint=checkpoint), data) as client:
            client.post("/sdapi/v1/options", {"live_previews_enable": False})  # SDXL's would download a model
            yield client
    finally:
        checkpoint.unlink()


@pytest.fixture(scope="module", params=[*CONTROLNETS, "sketch-canny"])
def model(request: pytest.FixtureRequest, client: Client) -> str:
    """Each control model; the last is the T2I-Adapter that is written for every checkpoint that takes one."""
    (name,) = [n for n in client.get("/controlnet/model_list")["model_list"] if n.startswith(request.param)]
    return str(name)


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
