"""Law 10: what the accordion or a caller asked for comes back from the picture, through the host's own code.

The infotext is written by the host's ``create_infotext`` and read by the function behind its paste button (see
``extension/lib_fault/settings.py``); nothing is sampled, so that 500 cases take seconds.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from lib_masactrl.settings import (
    SETTINGS,
    MasaCtrlSettings,
)
from tests.setting_values import accordions_and_prompts, held

from .client import Client

OFTEN = settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)

#: What a mask by words needs of a caller's object.
FOREGROUND = {"source_prompt", "source_words", "target_words"}


def asked(named: dict[str, Any], tab: str) -> MasaCtrlSettings | None:
    """What a caller asks for in ``tab``; None if that is refused."""
    try:
        return MasaCtrlSettings.from_mapping(named).with_source_settled(image_given=tab == "img2img")
    except ValueError:
        return None


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, dict[str, Any], str]:
    """Tab, accordion and prompt; a mask can be painted in img2img only."""
    named, prompt = draw(accordions_and_prompts())
    return "img2img" if named["mask"] == "painted" else draw(st.sampled_from(["txt2img", "img2img"])), named, prompt


@pytest.fixture(scope="module")
def written(client: Client) -> Any:
    """The infotext of the first target that script arguments would make."""

    def infotext(tab: str, prompt: str, args: list[Any], painted: bool) -> str:
        wanted = {"tab": tab, "prompt": prompt, "negative_prompt": "blurry", "args": args, "painted": painted}
        return str(client.post("/fault/infotext", wanted))

    return infotext


@given(requests())
@OFTEN
def test_accordion_to_infotext_to_accordion(
    client: Client, written: Any, drawn: tuple[str, dict[str, Any], str]
) -> None:
    """Whatever stands in the accordion stands there again after a paste; "auto" as what it came to."""
    tab, named, prompt = drawn
    settled = asked(named, tab)
    assume(settled)
    fields = [named[setting.key] for setting in SETTINGS]
    text = written(tab, prompt, fields, named["mask"] == "painted")
    assert client.post("/fault/paste", {"tab": tab, "infotext": text}) == held({**named, "source": settled.source})


@given(requests(), st.sets(st.sampled_from([s.key for s in SETTINGS])))
@OFTEN
def test_object_to_infotext_to_object(
    client: Client, written: Any, drawn: tuple[str, dict[str, Any], str], left_out: set[str]
) -> None:
    """A caller's object, and the infotext of its picture given as ``infotext``, ask for the same."""
    takes_infotext(client)
    tab, named, prompt = drawn
    kept = {"enabled"} if "mask" in left_out or named["mask"] == "none" else {"enabled", *FOREGROUND}
    given = {key: value for key, value in named.items() if key not in left_out - kept}
    settled = asked(given, tab)
    assume(settled)
    args = client.post(
        "/fault/script_args",
        {"tab": tab, "infotext": written(tab, prompt, [given], given.get("mask") == "painted")},
    )
    assert MasaCtrlSettings.from_args(args) == settled


def test_a_plain_picture_switches_control_off_and_leaves_the_rest(client: Client) -> None:
    """As the host does with hires fix and the refiner: unticked, but what was written there is not lost."""
    plain = "a cat\nNegative prompt: blurry\nSteps: 20, Sampler: Euler, CFG scale: 7, Seed: 1, Size: 64x64"
    pasted = client.post("/fault/paste", {"tab": "txt2img", "infotext": plain})
    enabled, *others = (pasted[setting.infotext_key] for setting in SETTINGS)
    assert enabled is False
    assert others == [None] * len(others)


OTHER_VERSIONS = {
    # 0.1.0 knew no other source than a prompt, and did not say so.
    "older": (
        'MasaCtrl enabled: True, MasaCtrl source prompt: "a dog, lying", MasaCtrl start step: 6, '
        "MasaCtrl branch: target 1, MasaCtrl result: 14 of 20 steps; 6 of 16 layers, MasaCtrl version: 0.1.0",
        {"enabled": True, "source": "prompt", "source_prompt": "a dog, lying", "start_step": 6},
    ),
    # Unknown keys are not ours to judge, and unknown values are as if they were not there.
    "newer": (
        'MasaCtrl enabled: True, MasaCtrl source: image, MasaCtrl source prompt: "a dog, lying", MasaCtrl hologram: 3, '
        "MasaCtrl method: telepathy, MasaCtrl start step: soon, MasaCtrl mask: scribbled, MasaCtrl version: 9.0.0",
        {"enabled": True, "source": "image", "source_prompt": "a dog, lying"},
    ),
}


@pytest.mark.parametrize("version", OTHER_VERSIONS)
def test_an_infotext_of_another_version(client: Client, version: str) -> None:
    """Missing keys mean their defaults; in the accordion as in a request."""
    entries, expected = OTHER_VERSIONS[version]
    text = f"a cat\nSteps: 20, Sampler: Euler, CFG scale: 7, Seed: 1, Size: 64x64, {entries}"
    named = {**{s.key: s.default for s in SETTINGS}, **expected}
    assert client.post("/fault/paste", {"tab": "img2img", "infotext": text}) == held(named)
    takes_infotext(client)
    args = client.post("/fault/script_args", {"tab": "img2img", "infotext": text})
    assert MasaCtrlSettings.from_args(args) == MasaCtrlSettings.from_mapping(named)


def takes_infotext(client: Client) -> None:
    schemas = client.get("/openapi.json")["components"]["schemas"]
    if "infotext" not in schemas["StableDiffusionProcessingTxt2Img"]["properties"]:
        pytest.skip("this WebUI's API takes no infotext")
