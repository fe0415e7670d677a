"""Laws 2, 4, 6 and 7 for masks: maps and foregrounds against the paper written out in float64, and in a U-Net."""

from __future__ import annotations

import pytest
import torch
from ldm.modules.attention import CrossAttention

from lib_masactrl.attention import mutual, union
from lib_masactrl.branches import BatchLayout, branches_in_batch
from lib_masactrl.control import MutualSelfAttentionControl
from lib_masactrl.errors import BatchLayoutError
from lib_masactrl.layers import cross_attention_layers, self_attention_layers, token_grid
from lib_masactrl.masks import (
    ForegroundMasks,
    foreground,
    normalised,
    otsu_threshold,
    resized,
    word_map,
)
from lib_masactrl.patching import attached
from lib_masactrl.schedule import ControlWindow
from lib_masactrl.setting_kinds import AUTOMATIC
from tests import paper
from tests.unets import CONTEXT, inputs, plain, small_unet

TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}
PAIR = branches_in_batch(1, 1)
TARGET, SOURCE = PAIR
PAIR_LAYOUT = BatchLayout(PAIR, cond_pass=0)


@pytest.fixture(scope="module")
def unet():
    return small_unet()


def test_word_maps_are_the_layers_probabilities():
    torch.manual_seed(1)
    layer = CrossAttention(query_dim=16, context_dim=24, heads=4, dim_head=8).eval()
    hidden, context = torch.randn(2, 12, 16), torch.randn(2, 154, 24)
    positions = ((3,), (1, 80, 153))
    with torch.no_grad():
        got = word_map(layer.to_q(hidden), layer.to_k(context), layer.heads, positions)
        for row in range(2):
            expected = paper.word_map(layer, hidden[row], context[row], positions[row])
            torch.testing.assert_close(got[row].double(), expected, rtol=1e-4, atol=1e-6)
    assert not word_map(layer.to_q(hidden), layer.to_k(context), 4, ((), ())).any()


def test_law_4_a_flat_map_has_no_foreground_and_no_nan():
    for value in (0.0, 0.3, 1.0):
        flat = normalised(torch.full((4, 4), value))
        assert torch.equal(flat, torch.zeros(4, 4))
        for threshold in (0.0, 0.1, 1.0, AUTOMATIC):
            assert not foreground(flat, threshold).any()


def test_a_map_is_scaled_to_its_range_and_cut():
    values = normalised(torch.tensor([[2.0, 4.0], [3.0, 12.0]]))
    torch.testing.assert_close(values, torch.tensor([[0.0, 0.2], [0.1, 1.0]]))
    assert foreground(values, 0.15).tolist() == [[False, True], [False, True]]
    assert foreground(values, 1.0).tolist() == [[False, False], [False, True]]


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.1, 0.4), (0.55, 0.6)])
def test_otsu_parts_two_groups(low, high):
    values = torch.cat([torch.full((30,), low), torch.full((9,), high)])
    assert low < otsu_threshold(values) <= high
    generator = torch.Generator().manual_seed(0)
    mixture = torch.cat([0.2 + 0.03 * torch.randn(500, generator=generator), 0.7 + 0.03 * torch.randn(80)])
    assert 0.3 < otsu_threshold(mixture.clamp(0, 1)) < 0.6


def test_otsu_cuts_in_the_middle_between_two_groups():
    """Of 256 levels; even where they are neighbours."""
    assert otsu_threshold(torch.tensor([0.0, 0.0, 1.0])) == 0.5
    assert otsu_threshold(torch.tensor([10.5, 11.5, 11.5]) / 256) == 11 / 256


def test_a_coarser_grid_averages():
    stripes = (torch.arange(16) % 4 == 0).float().expand(16, 16)
    torch.testing.assert_close(resized(stripes, (4, 4)), torch.full((4, 4), 0.25), atol=0.1, rtol=0)


@pytest.mark.parametrize("grid", [(16, 16), (5, 7), (64, 40), (1, 1)])
def test_law_7_maps_fit_every_grid(grid):
    left = (torch.arange(16) < 8).float().expand(16, 16)
    got = resized(left, grid)
    assert got.shape == grid and torch.isfinite(got).all()
    if grid[1] > 1:
        assert (got[:, 0] > 0.9).all() and (got[:, -1] < 0.1).all()


def masks_of_words(**more) -> ForegroundMasks:
    positions = {TARGET: (2,), SOURCE: (3, 4)}
    return ForegroundMasks(words=positions.__getitem__, **more)


def run(unet, control, call, layout, step=0):
    with torch.no_grad(), attached(unet, control):
        control.begin_call(layout, step, tuple(call[0].shape[2:]))
        return unet(call[0], call[1], context=call[2])


@pytest.mark.parametrize("size", [(16, 16), (24, 16), (16, 32)])
def test_maps_are_those_of_the_cond_rows_at_a_quarter_of_the_latent(unet, size):
    call, layout = inputs(4, *size), BatchLayout(PAIR, passes=2, cond_pass=1)
    seen = {}
    hooks = [
        layer.module.register_forward_pre_hook(
            lambda module, args, kwargs, layer=layer: seen.update({layer.index: (module, args[0], kwargs["context"])}),
            with_kwargs=True,
        )
        for layer in cross_attention_layers(unet)
    ]
    masks = masks_of_words(threshold=0.5)
    control = MutualSelfAttentionControl(ControlWindow(0, None, 16), masks=masks)
    run(unet, control, call, layout)
    for hook in hooks:
        hook.remove()
    quarter = (size[0] // 4, size[1] // 4)
    layers = [index for index, (_, hidden, _) in seen.items() if hidden.shape[1] == quarter[0] * quarter[1]]
    assert layers == [4, 5, 7, 8, 9]  # the five of SD 1
    for row, branch, words in ((2, TARGET, (2,)), (3, SOURCE, (3, 4))):
        maps = [paper.word_map(seen[i][0], seen[i][1][row], seen[i][2][row], words) for i in layers]
        mean = torch.stack(maps).mean(dim=0).view(quarter)
        expected = (mean - mean.min()) / (mean.max() - mean.min()) >= 0.5
        assert torch.equal(masks.on_grid(branch, quarter), expected)
        assert masks.on_grid(branch, size).shape == size


def test_where_no_layer_has_a_quarter_the_nearest_size_is_learned(unet):
    """A latent of 8x8 has layers of 64, 16, 4 and 1 tokens; a U-Net of two levels has 64 and 16 only."""
    small, call, layout = small_unet(levels=2), inputs(2), BatchLayout(PAIR, cond_pass=0)
    masks = masks_of_words()
    control = MutualSelfAttentionControl(ControlWindow(0, None, 0), masks=masks)
    run(small, control, call, layout)
    assert masks.on_grid(TARGET, (8, 8)) is None
    run(small, control, call, layout)
    assert masks.on_grid(TARGET, (8, 8)) is not None


def test_maps_are_taken_in_the_window_alone(unet):
    masks = masks_of_words(averaged=True)
    control = MutualSelfAttentionControl(ControlWindow(1, 2, 0), masks=masks)
    seen = []
    for step in range(4):
        run(unet, control, inputs(2, 16, 16, seed=step), BatchLayout(PAIR, cond_pass=0), step)
        seen.append({layer: taken.clone() for layer, taken in masks._maps.items()})
    assert not seen[0] and len(seen[1]) == 5
    for later in seen[2:]:
        assert all(torch.equal(later[layer], seen[1][layer]) for layer in seen[1])


def test_no_mask_yet_is_the_unmasked_form(unet):
    call = inputs(2)
    without_words = BatchLayout(PAIR)  # a call that holds uncond rows only
    masked_control = MutualSelfAttentionControl(ControlWindow(0, None, 0), masks=masks_of_words())
    got = run(unet, masked_control, call, without_words)
    assert torch.equal(got, run(unet, MutualSelfAttentionControl(ControlWindow(0, None, 0)), call, without_words))
    assert masked_control.record.layers == set(range(16))


def given_masks(seed: int = 0, **more) -> ForegroundMasks:
    generator = torch.Generator().manual_seed(seed)
    return ForegroundMasks({b: (torch.rand(8, 8, generator=generator) < 0.5).float() for b in PAIR}, **more)


@pytest.mark.parametrize("attention", [mutual, union])
@pytest.mark.parametrize("masks", [masks_of_words, given_masks])
@pytest.mark.parametrize("size", [(8, 8), (16, 24), (16, 16)])
def test_laws_2_and_7_the_source_keeps_its_bits(unet, masks, attention, size):
    call, layout = inputs(4, *size), BatchLayout(PAIR, passes=2, cond_pass=0)
    control = MutualSelfAttentionControl(ControlWindow(0, None, 2), attention, masks())
    expected, unmasked = (
        plain(unet, call),
        run(unet, MutualSelfAttentionControl(control.window, attention), call, layout),
    )
    for step in range(3):  # the first call checks which way is exact, the second takes it
        got = run(unet, control, call, layout, step)
        assert torch.equal(got[[1, 3]], expected[[1, 3]])
        assert torch.isfinite(got).all()
    assert not torch.allclose(got[[0, 2]], unmasked[[0, 2]], atol=1e-3)


def test_law_6_cond_and_uncond_together_equal_separate_calls(unet):
    call = inputs(4, 16, 16)
    together = MutualSelfAttentionControl(ControlWindow(0, None, 0), masks=masks_of_words())
    apart = MutualSelfAttentionControl(ControlWindow(0, None, 0), masks=masks_of_words())
    for step in range(2):
        got = run(unet, together, call, BatchLayout(PAIR, passes=2, cond_pass=0), step)
        for rows, cond in (([0, 1], 0), ([2, 3], None)):
            half = tuple(tensor[rows] for tensor in call)
            alone = run(unet, apart, half, BatchLayout(PAIR, cond_pass=cond), step)
            torch.testing.assert_close(got[rows], alone, rtol=1e-3, atol=1e-3)


@pytest.fixture
def layer() -> CrossAttention:
    torch.manual_seed(2)
    return CrossAttention(query_dim=16, context_dim=CONTEXT, heads=4, dim_head=8).eval()


def capture(masks, layer, *hidden, index=0, layout=PAIR_LAYOUT, latent=(8, 8)):
    """Let the masks see calls whose layer ``index`` gets these, with one context for all."""
    context = torch.randn(2, 7, CONTEXT, generator=torch.Generator().manual_seed(4))
    for of_call in hidden:
        masks.begin_call(layout, latent)
        with torch.no_grad():
            masks.capture(index, layer, of_call, context)
    return [paper.word_map(layer, of_call[0], context[0], (2,)) for of_call in hidden]


def hidden_states(count: int) -> torch.Tensor:
    """Of so many calls, each (2, 4, 16): the quarter of a latent of 8x8."""
    return torch.randn(count, 2, 4, 16, generator=torch.Generator().manual_seed(3))


def test_maps_are_of_the_latest_step_or_averaged(layer):
    for averaged in (False, True):
        masks = masks_of_words(threshold=0.5, averaged=averaged)
        maps = capture(masks, layer, *hidden_states(3))
        expected = sum(maps) / 3 if averaged else maps[-1]
        torch.testing.assert_close(masks._maps[0][0].double(), expected, rtol=1e-4, atol=1e-6)
        assert torch.equal(masks.on_grid(TARGET, (2, 2)), foreground(normalised(expected), 0.5).view(2, 2))


@pytest.mark.parametrize(
    ("layout", "latent"),
    [(PAIR_LAYOUT, (8, 16)), (BatchLayout(branches_in_batch(1, 2), cond_pass=0), (8, 8))],
    ids=["another size", "other branches"],
)
def test_maps_of_another_pass_or_batch_are_forgotten(layer, layout, latent):
    """Hires fix begins with a larger latent; a batch may be smaller than the one before."""
    masks = masks_of_words(averaged=True)
    capture(masks, layer, *hidden_states(1))
    masks.begin_call(PAIR_LAYOUT, (8, 8))
    assert masks.on_grid(TARGET, (2, 2)) is not None
    masks.begin_call(layout, latent)
    assert masks.on_grid(TARGET, (2, 2)) is None and not masks._sizes


def test_a_layer_is_told_by_the_maps_before_it(layer):
    """As soon as there are any, and by those alone."""
    masks = masks_of_words(threshold=0.5)
    tokens = torch.zeros(2, 4, 16)
    with pytest.raises(BatchLayoutError, match="before their U-Net call was announced"):
        masks.regions(1, tokens)
    capture(masks, layer, *hidden_states(1), index=3)
    assert masks.regions(3, tokens) is None
    after = masks.regions(4, tokens)
    assert set(after) == {TARGET}
    capture(masks, layer, -hidden_states(1)[0], index=3)
    anew = masks.regions(4, tokens)
    assert [region.queries.tolist() for region in anew[TARGET]] != [r.queries.tolist() for r in after[TARGET]]


def test_nothing_is_captured_where_no_words_are(layer):
    masks = ForegroundMasks({branch: torch.tensor([[0.5, 0.49]]) for branch in PAIR})
    capture(masks, layer, *hidden_states(1))
    assert not masks._maps and masks.on_grid(TARGET, (1, 2)).tolist() == [[True, False]]


def test_a_branch_without_its_word_just_now_sees_the_whole_source(unet):
    """Prompt editing: `[cat:dog:0.5]` has no cat in the second half."""
    call, layout = inputs(2, 16, 16), BatchLayout(PAIR, cond_pass=0)
    masks = ForegroundMasks(words=lambda branch: (3,) if branch.is_source else ())
    got = run(unet, MutualSelfAttentionControl(ControlWindow(0, None, 0), masks=masks), call, layout)
    unmasked = run(unet, MutualSelfAttentionControl(ControlWindow(0, None, 0)), call, layout)
    torch.testing.assert_close(got, unmasked, **TOLERANCE)


def test_merged_tokens_are_refused(unet):
    masks = given_masks()
    masks.begin_call(BatchLayout(PAIR), (8, 8))
    with pytest.raises(BatchLayoutError, match="50 tokens are no downsampling of a 8x8 latent"):
        masks.regions(0, torch.zeros(2, 50, 16))


def test_hooks_at_cross_attention_come_and_go(unet):
    control = MutualSelfAttentionControl(ControlWindow(0, None, 0), masks=masks_of_words())
    with pytest.raises(KeyboardInterrupt), attached(unet, control):
        hooked = [name for name, module in unet.named_modules() if "forward" in module.__dict__]
        assert len(hooked) == 32
        raise KeyboardInterrupt
    assert not any("forward" in module.__dict__ for module in unet.modules())
    with attached(unet, MutualSelfAttentionControl(ControlWindow(0, None, 0))):
        assert sum("forward" in module.__dict__ for module in unet.modules()) == len(self_attention_layers(unet))


def test_no_pass_beyond_the_last_has_the_prompts():
    with pytest.raises(BatchLayoutError, match="cond_pass is 2"):
        BatchLayout(PAIR, passes=2, cond_pass=2)
    assert BatchLayout(PAIR, passes=2, cond_pass=1).cond_rows == (2, 3)
    assert token_grid(4, 8, 8) == (2, 2)
