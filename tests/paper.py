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
