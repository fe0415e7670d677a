"""The laws of the method on the real `ldm` U-Net, judged on its output: random weights hide effects in pictures."""

from __future__ import annotations

import itertools

import pytest
import torch

from lib_masactrl.branches import BatchLayout, branches_in_batch
from lib_masactrl.control import METHODS, MutualSelfAttentionControl
from lib_masactrl.errors import BatchLayoutError
from lib_masactrl.layers import self_attention_layers
from lib_masactrl.schedule import ControlWindow
from tests.unets import controlled, inputs, plain, small_unet

PAIR = branches_in_batch(1, 1)
TARGET, SOURCE = 0, 1
EVERYTHING = ControlWindow(0, None, 0)


@pytest.fixture(scope="module")
def unet():
    return small_unet()


@pytest.fixture(params=sorted(METHODS))
def attention(request):
    return METHODS[request.param]


@pytest.mark.parametrize("window", [ControlWindow(1, None, 0), ControlWindow(0, 0, 0), ControlWindow(0, None, 16)])
def test_law_1_a_window_that_covers_nothing_changes_no_bit(unet, attention, window):
    call = inputs(2)
    assert torch.equal(controlled(unet, MutualSelfAttentionControl(window, attention), PAIR, call), plain(unet, call))


def test_law_1_detached_changes_no_bit(unet):
    call = inputs(2)
    before = plain(unet, call)
    controlled(unet, MutualSelfAttentionControl(EVERYTHING), PAIR, call)
    assert torch.equal(plain(unet, call), before)


def test_law_2_the_source_row_is_the_hosts_whatever_the_target_does(unet, attention):
    call = inputs(2)
    got = controlled(unet, MutualSelfAttentionControl(EVERYTHING, attention), PAIR, call)
    assert torch.equal(got[SOURCE], plain(unet, call)[SOURCE])
    assert not torch.equal(got[TARGET], plain(unet, call)[TARGET])


def test_law_5_identical_prompts_give_identical_rows(unet, attention):
    call = tuple(tensor[:1].repeat(2, *[1] * (tensor.dim() - 1)) for tensor in inputs(1))
    got = controlled(unet, MutualSelfAttentionControl(EVERYTHING, attention), PAIR, call)
    torch.testing.assert_close(got[TARGET], got[SOURCE], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("targets", [1, 3])
def test_law_6_cond_and_uncond_together_equal_separate_calls(unet, attention, targets):
    branches = branches_in_batch(1, targets)
    images = len(branches)
    together = inputs(2 * images)
    control = MutualSelfAttentionControl(EVERYTHING, attention)
    got = controlled(unet, control, branches, together)
    for first in (0, images):
        apart = controlled(unet, control, branches, tuple(t[first : first + images] for t in together))
        torch.testing.assert_close(got[first : first + images], apart, rtol=1e-4, atol=1e-5)


def test_targets_do_not_see_each_other(unet, attention):
    """A target's picture must not depend on which other targets share its batch."""
    three, two = inputs(3), inputs(3)
    two = tuple(tensor[[0, 2]] for tensor in two)
    control = MutualSelfAttentionControl(EVERYTHING, attention)
    together = controlled(unet, control, branches_in_batch(1, 2), three)
    alone = controlled(unet, control, PAIR, two)
    torch.testing.assert_close(together[[0, 2]], alone, rtol=1e-4, atol=1e-5)


def test_groups_do_not_see_each_other(unet, attention):
    branches = branches_in_batch(2, 1)  # targets 0 and 1, then sources 2 and 3
    call = inputs(4)
    got = controlled(unet, MutualSelfAttentionControl(EVERYTHING, attention), branches, call)
    for target, source in ((0, 2), (1, 3)):
        pair = tuple(tensor[[target, source]] for tensor in call)
        alone = controlled(unet, MutualSelfAttentionControl(EVERYTHING, attention), PAIR, pair)
        torch.testing.assert_close(got[[target, source]], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (16, 8), (8, 24), (24, 16)])
def test_law_7_every_latent_size_that_the_unet_takes(unet, attention, height, width):
    call = inputs(2, height, width)
    got = controlled(unet, MutualSelfAttentionControl(EVERYTHING, attention), PAIR, call)
    assert torch.equal(got[SOURCE], plain(unet, call)[SOURCE])
    assert not torch.equal(got[TARGET], plain(unet, call)[TARGET])


def test_each_controlled_layer_matters_and_the_record_names_it(unet):
    """Control from layer L and from L + 1 differ for every L: no layer is skipped, none is counted twice."""
    call = inputs(2)
    layers = len(self_attention_layers(unet))
    assert layers == 16
    outputs = []
    for start in range(layers + 1):
        control = MutualSelfAttentionControl(ControlWindow(0, None, start))
        outputs.append(controlled(unet, control, PAIR, call)[TARGET])
        assert control.record.layers == set(range(start, layers))
    assert all(not torch.equal(one, other) for one, other in itertools.pairwise(outputs))


def test_steps_outside_the_window_are_plain(unet):
    call = inputs(2)
    control = MutualSelfAttentionControl(ControlWindow(2, 4, 0))
    changed = [not torch.equal(controlled(unet, control, PAIR, call, step), plain(unet, call)) for step in range(6)]
    assert changed == [False, False, True, True, False, False]
    assert control.record.steps == {2, 3}


def test_rows_that_were_not_announced_are_refused(unet):
    control = MutualSelfAttentionControl(EVERYTHING)
    with pytest.raises(BatchLayoutError, match="3 rows for a batch of 2 images"):
        controlled(unet, control, PAIR, inputs(3))
    with pytest.raises(BatchLayoutError, match="before its U-Net call was announced"):
        control.self_attention(0, torch.zeros(2, 4, 8), lambda hidden, context: hidden)


def test_a_layer_that_receives_other_rows_than_announced_is_refused():
    """Hypertile cuts each row into tiles between the U-Net call and its attention layers."""
    control = MutualSelfAttentionControl(EVERYTHING)
    control.begin_call(BatchLayout(PAIR, passes=2), step=0)
    with pytest.raises(BatchLayoutError, match="received 8 rows where the U-Net call has 4"):
        control.self_attention(0, torch.zeros(8, 4, 8), lambda hidden, context: hidden)
