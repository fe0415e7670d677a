"""The words of ``control_guides``, and what they mean for each branch."""

from __future__ import annotations

import pytest

from lib_masactrl.branch_guidance import Guidance, first_targets, parse_guidance, with_target_first
from lib_masactrl.errors import SettingsError
from lib_masactrl.settings import MasaCtrlSettings

MEANINGS = {
    "target": Guidance(1, 0),
    "source": Guidance(0, 1),
    "both": Guidance(1, 1),
    "each": Guidance(1, 0, each=True),
    " Target  0.5 ": Guidance(0.5, 0),
    "source .25": Guidance(0, 0.25),
    "both 2": Guidance(2, 2),
    "target 1 + source 0.3": Guidance(1, 0.3),
    "each 0.5+source 0": Guidance(0.5, 0, each=True),
}


@pytest.mark.parametrize("text", MEANINGS)
def test_the_words_for_one_unit(text):
    assert parse_guidance(text) == (MEANINGS[text],)


def test_units_in_order_and_the_last_for_all_further_ones():
    settings = MasaCtrlSettings(control_guides="target, both 0.5, source")
    guided = [settings.guidance_of_unit(number) for number in range(5)]
    assert guided == [Guidance(1, 0), Guidance(0.5, 0.5), Guidance(0, 1), Guidance(0, 1), Guidance(0, 1)]


WRONG = [
    "nobody",
    "target,",
    "target + target",
    "both + source",
    "each + target",
    "target -1",
    "target 2.1",
    "target nan",
]


@pytest.mark.parametrize("text", [*WRONG, "target 0.5 0.5", "target source", "+", "target +", "target; source"])
def test_anything_else_is_refused_by_name(text):
    with pytest.raises(SettingsError, match="control_guides"):
        MasaCtrlSettings(control_guides=text)


FIRST = {
    "": "target",
    "target": "target",
    "source": "target, source",
    "target 0.5": "target, target 0.5",
    "source, both": "target, both",
    "both, target": "target",
    "each , source,target 2": "target, source, target 2",
}


@pytest.mark.parametrize("text", FIRST)
def test_the_first_unit_is_given_to_the_target_and_the_others_stay(text):
    assert with_target_first(text) == FIRST[text]
    before, after = (MasaCtrlSettings(control_guides=words) for words in (text, FIRST[text]))
    assert after.guidance_of_unit(0) == Guidance(1, 0)
    assert [after.guidance_of_unit(n) for n in (1, 2, 3)] == [before.guidance_of_unit(n) for n in (1, 2, 3)]


@pytest.mark.parametrize("nothing", ["", "  "])
def test_nothing_said_is_the_default(nothing):
    assert MasaCtrlSettings(control_guides=nothing) == MasaCtrlSettings()


def test_a_picture_per_target_has_the_whole_weight_of_the_unit():
    """The extension runs a unit of three pictures as three units of a third of its weight."""
    each = Guidance(target=0.5, source=0.3, each=True)
    weights = [[each.weight(target, picture, 3) for picture in range(3)] for target in (0, 1, 2, None)]
    assert weights == [[1.5, 0, 0], [0, 1.5, 0], [0, 0, 1.5], [0.3, 0.3, 0.3]]


def test_without_each_every_picture_guides_every_target():
    assert [Guidance(1, 0).weight(target, 1, 2) for target in (0, 1, None)] == [1, 1, 0]


IN_ORDER = [
    ({}, 2, {}),
    ({3: 2}, 2, {3: 0}),
    ({0: 1, 2: 1}, 2, {0: 0, 2: 1}),
    ({0: 1, 1: 3, 2: 1, 5: 1}, 3, {0: 0, 1: 0, 2: 1, 5: 2}),
    ({0: 1, 1: 1, 2: 1, 3: 1}, 2, {0: 0, 1: 1, 2: 0, 3: 1}),
    ({0: 1, 1: 1}, 1, {0: 0, 1: 0}),
]


@pytest.mark.parametrize(("pictures", "targets", "first"), IN_ORDER)
def test_pictures_of_a_unit_or_of_several_are_for_the_targets_in_order(pictures, targets, first):
    assert first_targets(pictures, targets) == first


@pytest.mark.parametrize(
    ("pictures", "said"), [({0: 2}, 2), ({0: 1, 1: 1}, 2), ({0: 4}, 4), ({0: 3, 1: 1}, 1), ({0: 0}, 0)]
)
def test_pictures_that_do_not_come_out_even_are_refused(pictures, said):
    with pytest.raises(SettingsError, match=f"but there are {said} control pictures for 3 targets"):
        first_targets(pictures, 3)
