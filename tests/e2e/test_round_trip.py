"""Law 10: what the accordion or a caller asked for comes back from the picture, through the host's own code.

The infotext is written by the host's ``create_infotext`` and read by the function behind its paste button (see
``extension/scripts/fault_injection.py``); nothing is sampled, so that 500 cases take seconds.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from lib_masactrl.setting_kinds import (
    ChoiceSetting,
    CountSetting,
    FlagSetting,
    GuidanceSetting,
    OptionalCountSetting,
    Setting,
    TextSetting,
)
from lib_masactrl.settings import (
    SETTINGS,
    MasaCtrlSettings,
)

from .client import Client

OFTEN = settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)

#: Pieces that mean something to an infotext, beside any letter there is.
PIECES = [
    *('"', "\\", "\\n", ",", ":", "\n", "\r\n", "\t", " ", "　", "'", "<lora:nudge:0.5>", "[", "]", '["', "(a:1.2)"),
    *("Negative prompt: blurry", "Steps: 20, Sampler: Euler, CFG scale: 7", "MasaCtrl enabled: True", "512x512"),
    *("MasaCtrl source prompt", "a cat, sitting", "猫が座っている", "кошка", "🐈‍⬛", "é", "None", "auto", "False"),
]
characters = st.characters(blacklist_categories=("Cs",))
prompts = st.lists(st.sampled_from(PIECES) | st.text(characters, max_size=5), max_size=8).map("".join)


def values(setting: Setting) -> st.SearchStrategy[Any]:
    """Any value that a setting's component can hold."""
    if setting.key == "mask":  # any other is judged by the prompts and the picture as well
        return st.just("none")
    if isinstance(setting, FlagSetting):
        return st.booleans()
    if isinstance(setting, ChoiceSetting):
        return st.sampled_from(setting.choices)
    if isinstance(setting, OptionalCountSetting):
        return st.just("") | st.integers(0, 12).map(str)
    if isinstance(setting, CountSetting):
        return st.integers(0, 12)
    if isinstance(setting, GuidanceSetting):
        return st.sampled_from(setting.suggestions)
    if isinstance(setting, TextSetting):
        return prompts
    return st.just(str(setting.default))  # a kind that a text field holds; say here what else it may be


def asked(named: dict[str, Any], tab: str) -> MasaCtrlSettings | None:
    """What a caller asks for in ``tab``; None if that is refused."""
    try:
        return MasaCtrlSettings.from_mapping(named).with_source_settled(image_given=tab == "img2img")
    except ValueError:
        return None


accordions = st.fixed_dictionaries({s.key: values(s) for s in SETTINGS}).map(lambda named: {**named, "enabled": True})
tabs = st.sampled_from(["txt2img", "img2img"])


@pytest.fixture(scope="module")
def written(client: Client) -> Any:
    """The infotext of the first target that script arguments would make."""

    def infotext(tab: str, prompt: str, args: list[Any]) -> str:
        wanted = {"tab": tab, "prompt": prompt, "negative_prompt": "blurry", "args": args}
        return str(client.post("/fault/infotext", wanted))

    return infotext


@given(named=accordions, prompt=prompts, tab=tabs)
@OFTEN
def test_accordion_to_infotext_to_accordion(
    client: Client, written: Any, named: dict[str, Any], prompt: str, tab: str
) -> None:
    """Whatever stands in the accordion stands there again after a paste; "auto" as what it came to."""
    settled = asked(named, tab)
    assume(settled)
    fields = [named[setting.key] for setting in SETTINGS]
    pasted = client.post("/fault/paste", {"tab": tab, "infotext": written(tab, prompt, fields)})
    expected = {**named, "source": settled.source}
    assert pasted == {setting.infotext_key: expected[setting.key] for setting in SETTINGS}


@given(named=accordions, left_out=st.sets(st.sampled_from([s.key for s in SETTINGS])), prompt=prompts, tab=tabs)
@OFTEN
def test_object_to_infotext_to_object(
    client: Client, written: Any, named: dict[str, Any], left_out: set[str], prompt: str, tab: str
) -> None:
    """A caller's object, and the infotext of its picture given as ``infotext``, ask for the same."""
    takes_infotext(client)
    given = {key: value for key, value in named.items() if key not in left_out - {"enabled"}}
    settled = asked(given, tab)
    assume(settled)
    args = client.post("/fault/script_args", {"tab": tab, "infotext": written(tab, prompt, [given])})
    assert MasaCtrlSettings.from_args(args) == settled


def test_a_plain_picture_switches_control_off_and_leaves_the_rest(client: Client) -> None:
    """As the host does with hires fix and the refiner: unticked, but what was written there is not lost."""
    plain = "a cat\nNegative prompt: blurry\nSteps: 20, Sampler: Euler, CFG scale: 7, Seed: 1, Size: 64x64"
    pasted = client.post("/fault/paste", {"tab": "txt2img", "infotext": plain})
    enabled, *others = (pasted[setting.infotext_key] for setting in SETTINGS)
    assert enabled is False
    assert others == [None] * len(others)


def test_an_infotext_of_another_version(client: Client) -> None:
    """Missing keys mean their defaults, unknown ones are not ours to judge, and unknown values fall back."""
    text = (
        "a cat\nSteps: 20, Sampler: Euler, CFG scale: 7, Seed: 1, Size: 64x64, MasaCtrl enabled: True, "
        'MasaCtrl source prompt: "a dog, lying", MasaCtrl hologram: 3, MasaCtrl method: telepathy, '
        "MasaCtrl start step: soon, MasaCtrl version: 0.0.1"
    )
    pasted = client.post("/fault/paste", {"tab": "img2img", "infotext": text})
    defaults = {s.infotext_key: "" if s.default is None else s.default for s in SETTINGS}
    assert pasted == {**defaults, "MasaCtrl enabled": True, "MasaCtrl source prompt": "a dog, lying"}


def takes_infotext(client: Client) -> None:
    schemas = client.get("/openapi.json")["components"]["schemas"]
    if "infotext" not in schemas["StableDiffusionProcessingTxt2Img"]["properties"]:
        pytest.skip("this WebUI's API takes no infotext")
