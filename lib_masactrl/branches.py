"""Which row of a U-Net call belongs to which branch. Told by the host adapter, never guessed by ``chunk(2)``."""

from __future__ import annotations

from dataclasses import dataclass

from lib_masactrl.errors import BatchLayoutError


@dataclass(frozen=True)
class Branch:
    """One image of a batch: the source branch (``target is None``) or target branch number ``target`` of a group.

    A *group* is one source with all its targets: they share seed, noise and negative prompt.
    """

    group: int
    target: int | None = None

    @property
    def is_source(self) -> bool:
        return self.target is None


def branches_in_batch(groups: int, targets: int) -> tuple[Branch, ...]:
    """The branches of a batch of ``groups * (targets + 1)`` images: every target first, then the sources.

    Targets come first because hosts and their scripts (X/Y/Z plot, loopback, grids' infotext) take the first image of
    a batch as its result, and sources last because dropping them from the results then is cutting off the tail, which
    leaves every list that the host indexes by position (overlays, colour corrections, infotext) in step.

    >>> branches_in_batch(groups=1, targets=2)
    (Branch(group=0, target=0), Branch(group=0, target=1), Branch(group=0, target=None))
    """
    in_order = [Branch(group, target) for group in range(groups) for target in range(targets)]
    return (*in_order, *(Branch(group) for group in range(groups)))


@dataclass(frozen=True)
class BatchLayout:
    """The rows of one U-Net call: ``branches``, once per guidance pass (cond, uncond, ...), pass after pass.

    Attributes:
        branches: the images of the batch in the host's order.
        passes: how many guidance passes the call holds. Hosts evaluate cond and uncond together (2) or apart (1);
            InstructPix2Pix has three. Row ``r`` is branch ``r % len(branches)`` of pass ``r // len(branches)``.
        cond_pass: which of them has the branches' prompts as its context; ``None`` if none has.

    Raises:
        BatchLayoutError: a target has no source, a branch stands there twice, or there is no such pass.
    """

    branches: tuple[Branch, ...]
    passes: int = 1
    cond_pass: int | None = None

    def __post_init__(self) -> None:
        if len(set(self.branches)) != len(self.branches):
            raise BatchLayoutError(f"The branches of a batch must differ, but these repeat: {self.branches}.")
        orphans = [branch for branch in self.branches if Branch(branch.group) not in self.branches]
        if orphans:
            raise BatchLayoutError(f"No source branch in the batch for {orphans}; every group needs one.")
        if self.cond_pass is not None and not 0 <= self.cond_pass < self.passes:
            raise BatchLayoutError(f"cond_pass is {self.cond_pass}, but the call has {self.passes} passes, from 0.")

    @classmethod
    def of_call(cls, branches: tuple[Branch, ...], rows: int, cond_pass: int | None = None) -> BatchLayout:
        """The layout of a U-Net call with ``rows`` rows over a batch of these branches.

        Raises:
            BatchLayoutError: ``rows`` is no multiple of the batch, so that a target could be without its source.
        """
        passes, rest = divmod(rows, len(branches))
        if rest or not passes:
            raise BatchLayoutError(
                f"The host called the U-Net with {rows} rows for a batch of {len(branches)} images, so a target cannot "
                "be paired with its source. Another extension or an AND prompt splits the batch; switch it off."
            )
        return cls(branches, passes, cond_pass)

    @property
    def rows(self) -> int:
        return len(self.branches) * self.passes

    @property
    def cond_rows(self) -> tuple[int, ...]:
        """The rows whose context are the branches' prompts, in the order of ``branches``; none if the call has none."""
        images = len(self.branches)
        return () if self.cond_pass is None else tuple(range(self.cond_pass * images, (self.cond_pass + 1) * images))

    @property
    def source_rows(self) -> tuple[int, ...]:
        """The rows of source branches, ascending."""
        return tuple(row for row, source in enumerate(self.source_row_of) if row == source)

    @property
    def source_row_of(self) -> tuple[int, ...]:
        """For each row, the row of its source in the same guidance pass; a source row maps to itself."""
        images = len(self.branches)
        source_at = {branch.group: i for i, branch in enumerate(self.branches) if branch.is_source}
        return tuple(p * images + source_at[b.group] for p in range(self.passes) for b in self.branches)

    @property
    def target_rows(self) -> tuple[int, ...]:
        """The rows of target branches, ascending."""
        return tuple(row for row, source in enumerate(self.source_row_of) if row != source)
