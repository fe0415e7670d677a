"""The paper's equations written out in float64, sharing no code with the product: the oracle of the tests."""

from __future__ import annotations

import math

import torch
from ldm.modules.attention import CrossAttention
from torch import Tensor


def attention(module: CrossAttention, queries_from: Tensor, keys_from: Tensor) -> Tensor:
    """``softmax(Q K^T / sqrt(d)) V`` of one row, head by head. Shapes (tokens, channels); returns float64."""
    q = queries_from.double() @ module.to_q.weight.double().T
    k = keys_from.double() @ module.to_k.weight.double().T
    v = keys_from.double() @ module.to_v.weight.double().T
    d = q.shape[-1] // module.heads
    heads = []
    for h in range(module.heads):
        part = slice(h * d, (h + 1) * d)
        scores = q[:, part] @ k[:, part].T / math.sqrt(d)
        heads.append(torch.softmax(scores, dim=-1) @ v[:, part])
    output = module.to_out[0]
    return torch.cat(heads, dim=-1) @ output.weight.double().T + output.bias.double()


def mutual(module: CrossAttention, source: Tensor, target: Tensor) -> Tensor:
    """MasaCtrl, eq. 3: the target's queries, the source's keys and values."""
    return attention(module, target, source)


def union(module: CrossAttention, source: Tensor, target: Tensor) -> Tensor:
    """The authors' Union: the target's queries see the source's tokens and its own."""
    return attention(module, target, torch.cat([source, target], dim=0))


def masked(
    module: CrossAttention, source: Tensor, target: Tensor, source_mask: Tensor, target_mask: Tensor, *, own: bool
) -> Tensor:
    """Section 3.3: ``f_fg * M_t + f_bg * (1 - M_t)``, each by a score of minus infinity on what is not to be seen.

    Masks are bool (tokens,). With ``own``, the target also sees those of its own tokens that are in the same region.
    A region that is empty in the source falls back to the whole source.
    """
    keys_from = torch.cat([source, target]) if own else source

    def seeing(region_of_source: Tensor, region_of_target: Tensor) -> Tensor:
        allowed = region_of_source if region_of_source.any() else torch.ones_like(region_of_source)
        return _attention_to(module, target, keys_from, torch.cat([allowed, region_of_target]) if own else allowed)

    fg, bg, m = seeing(source_mask, target_mask), seeing(~source_mask, ~target_mask), target_mask.double()[:, None]
    # A region without queries may also have no keys of its own; its rows count for nothing.
    return torch.where(m > 0, fg, 0.0) * m + torch.where(m < 1, bg, 0.0) * (1 - m)


def _attention_to(module: CrossAttention, queries_from: Tensor, keys_from: Tensor, allowed: Tensor) -> Tensor:
    q = queries_from.double() @ module.to_q.weight.double().T
    k = keys_from.double() @ module.to_k.weight.double().T
    v = keys_from.double() @ module.to_v.weight.double().T
    q, k, v = (x.unflatten(-1, (module.heads, -1)).transpose(0, 1) for x in (q, k, v))
    scores = q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])
    scores = scores.masked_fill(~allowed, -math.inf)
    output = module.to_out[0]
    joined = (torch.softmax(scores, dim=-1) @ v).transpose(0, 1).flatten(1)
    return joined @ output.weight.double().T + output.bias.double()


def word_map(module: CrossAttention, hidden: Tensor, context: Tensor, positions: tuple[int, ...]) -> Tensor:
    """The probability that each token of one row gives to words, averaged over heads. Returns float64 (tokens,)."""
    q = (hidden.double() @ module.to_q.weight.double().T).unflatten(-1, (module.heads, -1))
    k = (context.double() @ module.to_k.weight.double().T).unflatten(-1, (module.heads, -1))
    scores = torch.einsum("ihd,jhd->hij", q, k) / math.sqrt(q.shape[-1])
    return sum(torch.softmax(scores, dim=-1).mean(dim=0)[:, position] for position in positions)
