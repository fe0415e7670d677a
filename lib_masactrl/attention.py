"""Mutual self-attention as a choice of context; attention itself stays the host's.

Keys and values are computed per token from the context, so "queries of the target, keys and values of the source" is
the host's own attention called with ``context = source tokens``. Every function takes that attention as ``attend``.

Shapes: ``hidden`` is (rows, tokens, channels), the normalised hidden states that enter a self-attention layer.
"""

from __future__ import annotations

from typing import Protocol

import torch

from lib_masactrl.branches import BatchLayout


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


def _rows(rows: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.long, device=like.device)
