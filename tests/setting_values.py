"""What stands in the accordion's fields, for property-based tests: every value that each kind of setting can have."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from lib_masactrl.setting_kinds import (
    ChoiceSetting,
    CountSetting,
    FlagSetting,
    GuidanceSetting,
    OptionalCountSetting,
    Setting,
    TextSetting,
    ThresholdSetting,
)
from lib_masactrl.settings import SETTINGS

#: Pieces that mean something to an infotext, beside any letter there is.
PIECES = [
    *('"', "\\", "\\n", ",", ":", "\n", "\r\n", "\t", " ", "　", "'", "<lora:nudge:0.5>", "[", "]", '["', "(a:1.2)"),
    *("Negative prompt: blurry", "Steps: 20, Sampler: Euler, CFG scale: 7", "MasaCtrl enabled: True", "512x512"),
    *("MasaCtrl source prompt", "a cat, sitting", "猫が座っている", "кошка", "🐈‍⬛", "é", "None", "auto", "False"),
]
#: Phrases that stand as they are in a prompt that begins with them, whatever else it says.
PHRASES = ["cat", "Red  Hat", "猫", "café", "it's", "512x512", "None", "кошка", '"big" dog', "(bird:1.2)", "a 🐈‍⬛ b"]

_characters = st.characters(blacklist_categories=("Cs",))
texts = st.lists(st.sampled_from(PIECES) | st.text(_characters, max_size=5), max_size=8).map("".join)


def values(setting: Setting) -> st.SearchStrategy[Any]:
    """Any value that a setting's component can hold."""
    if isinstance(setting, FlagSetting):
        return st.booleans()
    if isinstance(setting, ChoiceSetting):
        return st.sampled_from(setting.choices)
    if isinstance(setting, OptionalCountSetting):
        return st.sampled_from(["", "auto", " 7 ", "07"]) | st.integers(0, 16).map(str)
    if isinstance(setting, CountSetting):
        return st.integers(0, 100)
    if isinstance(setting, GuidanceSetting):
        return st.sampled_from([*setting.suggestions, "target 0.8, source", "target 1 + source .3", ""])
    if isinstance(setting, TextSetting):
        return texts
    if isinstance(setting, ThresholdSetting):
        return st.sampled_from(["auto", " AUTO", ".5", "1e-3"]) | st.floats(0, 1).map(str)
    raise NotImplementedError(f"say here what a {type(setting).__name__} can be")


def _possible(named: dict[str, Any]) -> dict[str, Any]:
    """Enabled, and no window that ends before it begins."""
    end = named["end_step"].strip()
    later = str(named["start_step"] + int(end)) if end.isdigit() else end
    return {**named, "enabled": True, "end_step": later}


accordions = st.fixed_dictionaries({s.key: values(s) for s in SETTINGS}).map(_possible)


@st.composite
def accordions_and_prompts(draw: st.DrawFn) -> tuple[dict[str, Any], str]:
    """What a tab can hold; where the mask needs words, they are in the prompts."""
    named, prompt = draw(accordions), draw(texts)
    if named["mask"] == "none":
        return named, prompt
    phrases = draw(st.lists(st.sampled_from(PHRASES), min_size=1, max_size=3, unique=True))
    front = " , ".join(phrases) + " , "
    words = draw(st.sampled_from([", ", ",", " ,\n", "\n"])).join(phrases)
    named_for = draw(st.sampled_from([("source_words",), ("target_words",), ("source_words", "target_words")]))
    targets = [front + line for line in named["more_targets"].splitlines() if line.strip()]
    return {
        **named,
        "source_prompt": front + named["source_prompt"],
        "more_targets": "\n".join(targets),
        "source_words": words if "source_words" in named_for else "",
        "target_words": words if "target_words" in named_for else "",
    }, front + prompt


def held(named: dict[str, Any]) -> dict[str, Any]:
    """By infotext key, what the components hold after a paste: texts as they were, numbers in one spelling."""
    held = {}
    for setting in SETTINGS:
        value = setting.parse(named[setting.key])
        spelt = isinstance(setting, (OptionalCountSetting, ThresholdSetting))
        held[setting.infotext_key] = ("" if value is None else str(value)) if spelt else value
    return held
