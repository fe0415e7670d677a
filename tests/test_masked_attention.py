"""Laws 4 and 9 for masked attention: against the paper written out in float64, and against plain attention."""

from __future__ import annotations

import pytest
import torch
from ldm.modules.attention import CrossAttention

from lib_masactrl.attention import masked, mutual, regions_of, union
from lib_masactrl.branches import BatchLayout, Branch, branches_in_batch
from lib_masactrl.control import MutualSelfAttentionControl
from lib_masactrl.masks import ForegroundMasks
from lib_masactrl.schedule import ControlWindow
from tests import paper

TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}
PAIR = branches_in_batch(1, 1)
TARGET, SOURCE = PAIR
TOKENS = 35

ADVERSARIAL = {
    "all": torch.ones(TOKENS, dtype=torch.bool),
    "none": torch.zeros(TOKENS, dtype=torch.bool),
    "one token": torch.arange(TOKENS) == 17,
    "checkerboard": torch.arange(TOKENS) % 2 == 0,
    "random": torch.rand(TOKENS, generator=torch.Generator().manual_seed(3)) < 0.3,
}


@pytest.fixture(scope="module")
def module() -> CrossAttention:
    torch.manual_seed(0)
    return CrossAttention(query_dim=16, heads=4, dim_head=8).eval()


def hidden_of(layout: BatchLayout, tokens: int = TOKENS) -> torch.Tensor:
    return torch.randn(layout.rows, tokens, 16, generator=torch.Generator().manual_seed(1)) * 3


@pytest.mark.parametrize("attention", [mutual, union])
@pytest.mark.parametrize("target_mask", ADVERSARIAL)
@pytest.mark.parametrize("source_mask", ADVERSARIAL)
def test_law_9_equals_the_papers_equation(module, source_mask, target_mask, attention):
    layout = BatchLayout(PAIR, passes=2)
    hidden, source, target = hidden_of(layout), ADVERSARIAL[source_mask], ADVERSARIAL[target_mask]
    with torch.no_grad():
        got = masked(hidden, layout, module, {TARGET: regions_of(target, source)}, attention, module(hidden))
        for row in layout.target_rows:
            of_source, own = hidden[layout.source_row_of[row]], attention is union
            expected = paper.masked(module, of_source, hidden[row], source, target, own=own)
            torch.testing.assert_close(got[row].double(), expected, **TOLERANCE)
        assert torch.equal(got[list(layout.source_rows)], module(hidden)[list(layout.source_rows)])


@pytest.mark.parametrize("attention", [mutual, union])
def test_each_target_has_its_own_regions(module, attention):
    branches = branches_in_batch(2, 2)
    layout = BatchLayout(branches, passes=3)
    hidden = hidden_of(layout)
    generator = torch.Generator().manual_seed(5)
    masks = {branch: torch.rand(TOKENS, generator=generator) < 0.4 for branch in branches}
    targets = [branch for branch in branches if not branch.is_source]
    regions = {branch: regions_of(masks[branch], masks[Branch(branch.group)]) for branch in targets}
    with torch.no_grad():
        got = masked(hidden, layout, module, regions, attention, module(hidden))
        for row in layout.target_rows:
            branch, source = branches[row % len(branches)], hidden[layout.source_row_of[row]]
            pair = masks[Branch(branch.group)], masks[branch]
            expected = paper.masked(module, source, hidden[row], *pair, own=attention is union)
            torch.testing.assert_close(got[row].double(), expected, **TOLERANCE)


@pytest.mark.parametrize("attention", [mutual, union])
def test_law_4_all_foreground_is_the_unmasked_form(module, attention):
    layout = BatchLayout(PAIR, passes=2)
    hidden, everything = hidden_of(layout), ADVERSARIAL["all"]
    with torch.no_grad():
        got = masked(hidden, layout, module, {TARGET: regions_of(everything, everything)}, attention, module(hidden))
        torch.testing.assert_close(got, attention(hidden, layout, module), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("exact", [True, False])
def test_a_call_over_the_sources_alone_is_only_trusted_where_it_is_exact(module, exact):
    """A host whose rounding depends on the batch's size gets the slower, exact way; any other the cheaper one."""
    rows = []

    def attend(hidden, context):
        rows.append(len(hidden))
        return module(hidden, context) * (1 if exact else 1 + 1e-6 * len(hidden))

    layout, hidden = BatchLayout(PAIR), hidden_of(BatchLayout(PAIR), 64)
    half = (torch.arange(8) < 4).float().expand(8, 8)
    control = MutualSelfAttentionControl(ControlWindow(0, None, 0), masks=ForegroundMasks({TARGET: half, SOURCE: half}))
    with torch.no_grad():
        plain = attend(hidden, None)
        rows.clear()
        for _ in range(3):
            control.begin_call(layout, 0, (8, 8))
            assert torch.equal(control.self_attention(0, hidden, attend)[1], plain[1])
    first, later = [2, 1, 1, 1], [1, 1, 1] if exact else [2, 1, 1]  # the last two are the target's regions
    assert rows == first + 2 * later
