"""Law 9: mutual and union attention equal the paper's equations, through the host's own attention."""

from __future__ import annotations

import pytest
import torch
from ldm.modules.attention import CrossAttention

from lib_masactrl.attention import mutual, union
from lib_masactrl.branches import BatchLayout, branches_in_batch
from lib_masactrl.control import METHODS
from lib_masactrl.settings import METHOD_NAMES
from tests import paper

TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture(scope="module")
def module() -> CrossAttention:
    torch.manual_seed(0)
    return CrossAttention(query_dim=16, heads=4, dim_head=8).eval()


@pytest.mark.parametrize("tokens", [1, 35, 64])
@pytest.mark.parametrize(("groups", "targets", "passes"), [(1, 1, 1), (1, 1, 2), (1, 3, 2), (2, 2, 2), (1, 1, 3)])
@pytest.mark.parametrize("name", METHOD_NAMES)
def test_equals_the_papers_equation(module, name, groups, targets, passes, tokens):
    branches = branches_in_batch(groups, targets)
    layout = BatchLayout(branches, passes)
    hidden = torch.randn(layout.rows, tokens, 16, generator=torch.Generator().manual_seed(tokens)) * 3

    with torch.no_grad():
        got = METHODS[name](hidden, layout, module)

    for row in range(layout.rows):
        branch = branches[row % len(branches)]
        source = row - row % len(branches) + branches.index(type(branch)(branch.group))
        if branch.is_source:
            expected = paper.attention(module, hidden[row], hidden[row])
        else:
            expected = getattr(paper, name)(module, hidden[source], hidden[row])
        torch.testing.assert_close(got[row].double(), expected, **TOLERANCE)


@pytest.mark.parametrize("method", [mutual, union])
def test_source_rows_keep_the_hosts_bits(module, method):
    layout = BatchLayout(branches_in_batch(1, 2), passes=2)
    hidden = torch.randn(layout.rows, 64, 16)
    with torch.no_grad():
        assert torch.equal(method(hidden, layout, module)[[2, 5]], module(hidden)[[2, 5]])


def test_identical_tokens_make_union_equal_to_mutual(module):
    """With the target's tokens equal to the source's, seeing them twice changes no softmax-weighted mean."""
    layout = BatchLayout(branches_in_batch(1, 1))
    hidden = torch.randn(1, 10, 16).repeat(2, 1, 1)
    with torch.no_grad():
        torch.testing.assert_close(union(hidden, layout, module), mutual(hidden, layout, module), rtol=1e-5, atol=1e-6)


def test_hidden_states_are_not_written_to(module):
    layout = BatchLayout(branches_in_batch(1, 1))
    hidden = torch.randn(2, 10, 16)
    before = hidden.clone()
    for method in METHODS.values():
        with torch.no_grad():
            method(hidden, layout, module)
        assert torch.equal(hidden, before)


def test_every_method_name_is_implemented():
    assert tuple(METHODS) == METHOD_NAMES
