from __future__ import annotations

import pytest

from lib_masactrl.branches import BatchLayout, Branch, branches_in_batch
from lib_masactrl.errors import BatchLayoutError


def test_targets_come_first_and_sources_last():
    assert branches_in_batch(groups=2, targets=2) == (
        Branch(0, 0),
        Branch(0, 1),
        Branch(1, 0),
        Branch(1, 1),
        Branch(0),
        Branch(1),
    )


def test_each_row_finds_its_own_groups_source_in_its_own_guidance_pass():
    layout = BatchLayout(branches_in_batch(2, 2), passes=2)
    assert layout.source_row_of == (4, 4, 5, 5, 4, 5, 10, 10, 11, 11, 10, 11)
    assert layout.target_rows == (0, 1, 2, 3, 6, 7, 8, 9)


def test_any_order_of_branches_is_followed():
    layout = BatchLayout((Branch(0), Branch(0, 0), Branch(0, 1)))
    assert layout.source_row_of == (0, 0, 0)
    assert layout.target_rows == (1, 2)


@pytest.mark.parametrize(("rows", "passes"), [(2, 1), (4, 2), (6, 3)])
def test_the_number_of_passes_follows_from_the_rows_of_a_call(rows, passes):
    assert BatchLayout.of_call(branches_in_batch(1, 1), rows).passes == passes


@pytest.mark.parametrize("rows", [0, 1, 3, 5])
def test_calls_that_cut_through_a_batch_are_refused(rows):
    with pytest.raises(BatchLayoutError, match=f"{rows} rows for a batch of 2 images"):
        BatchLayout.of_call(branches_in_batch(1, 1), rows)


def test_a_target_without_its_source_is_refused():
    with pytest.raises(BatchLayoutError, match="No source branch"):
        BatchLayout((Branch(0, 0), Branch(1)))


def test_a_repeated_branch_is_refused():
    with pytest.raises(BatchLayoutError, match="must differ"):
        BatchLayout((Branch(0), Branch(0)))
