"""Mutual self-attention as a choice of context; attention itself stays the host's.

Keys and values are computed per token from the context, so "queries of the target, keys and values of the source" is
the host's own attention called with ``context = source tokens``. Every function takes that attention as ``attend``.

Shapes: ``hidden`` is (rows, tokens, channels), the normalised hidden states that enter a self-attention layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple, Protocol

import torch

from lib_masactrl.branches import BatchLayout, Branch


class Attend(Protocol):
    """The host's attention: queries from ``hidden``, keys and values from ``context`` (``None``: from ``hidden``).

    ``hidden`` is (rows, tokens, channels); ``context`` is (rows, context tokens, channels); returns ``hidden``'s shape.
    """

    def __call__(self, hidden: torch.Tensor, context: torch.Tensor | None, /) -> torch.Tensor: ...


class Attention(Protocol):
    """One way to let target rows see the source: :func:`mutual` or :func:`union`."""

    def __call__(self, hidden: torch.Tensor, layout: BatchLayout, attend: Attend, /) -> torch.Tensor: ...


def mutual(hidden: torch.Tensor, layout: BatchLayout, attend: Attend, /) -> torch.Tensor:
    """Mutual self-attention: ``softmax(Q_t K_s^T / sqrt(d)) V_s`` for targets, plain self-attention for sources.

    One call over all rows, so that a source row goes through the very kernels of a plain batch of the same shape.
    Source: MasaCtrl, eq. 3.
    """
    return attend(hidden, hidden[_rows(layout.source_row_of, hidden)])


def union(hidden: torch.Tensor, layout: BatchLayout, attend: Attend, /) -> torch.Tensor:
    """Union: each target sees its source's tokens and its own together, 2N keys and values.

    Sources are computed in a plain call over all rows: in a smaller batch their rounding could differ from the
    host's. Source: ``MutualSelfAttentionControlUnion`` of the authors' code, which crashes there.
    """
    targets = _rows(layout.target_rows, hidden)
    sources = _rows(tuple(layout.source_row_of[row] for row in layout.target_rows), hidden)
    output = attend(hidden, None)
    output[targets] = attend(hidden[targets], torch.cat([hidden[sources], hidden[targets]], dim=1))
    return output


class Region(NamedTuple):
    """A part of a target and the part of its source that it sees, as token indices (n,) and (m,)."""

    queries: torch.Tensor
    keys: torch.Tensor


def regions_of(target: torch.Tensor, source: torch.Tensor) -> tuple[Region, ...]:
    """Foreground sees foreground, background sees background. Foreground masks, bool (tokens,).

    A region of the target whose counterpart in the source is empty sees the whole source.
    """
    regions = []
    for mine, theirs in ((target, source), (~target, ~source)):
        if mine.any():
            seen = theirs if theirs.any() else torch.ones_like(theirs)
            regions.append(Region(mine.nonzero().flatten(), seen.nonzero().flatten()))
    return tuple(regions)


#: By method, the context of a target's region, from its part of the source and from itself, (rows, tokens, channels).
CONTEXTS: Mapping[Attention, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = MappingProxyType(
    {mutual: lambda source, own: source, union: lambda source, own: torch.cat([source, own], dim=1)}
)


def masked(
    hidden: torch.Tensor,
    layout: BatchLayout,
    attend: Attend,
    regions: Mapping[Branch, tuple[Region, ...]],
    attention: Attention,
    output: torch.Tensor,
) -> torch.Tensor:
    """The mask-guided form of :func:`mutual` or :func:`union`: ``f = f_fg * M_t + f_bg * (1 - M_t)``.

    Attending to some tokens equals a mask of minus infinity on the others. So each region is a call on its own
    tokens, scattered back: less work than attention between all tokens, and no mask tensor, which most optimisations
    ignore or refuse. The guidance passes of a target share its regions, so they share the calls.
    Source: MasaCtrl, section 3.3.

    Args:
        regions: those of every target branch; together they hold each of its tokens once.
        attention: the method to restrict.
        output: shaped like ``hidden``, its source rows finished; the target rows are written here.
    """
    images = len(layout.branches)
    for image, branch in enumerate(layout.branches):
        if branch.is_source:
            continue
        rows = [image + images * guidance for guidance in range(layout.passes)]
        target = hidden[rows]
        source = hidden[[layout.source_row_of[row] for row in rows]]
        restored = torch.empty_like(target, dtype=output.dtype)
        for queries, keys in regions[branch]:
            own = target[:, queries]
            restored[:, queries] = attend(own, CONTEXTS[attention](source[:, keys], own))
        output[rows] = restored
    return output


def _rows(rows: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.long, device=like.device)
