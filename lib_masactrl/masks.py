"""Foreground masks, from cross-attention maps of prompt words or from a picture, on any token grid.

Where a prompt's word attracts a picture's queries, there is what the word says. The map of a branch's words is the
probability of their tokens, averaged over heads and over the layers nearest to a quarter of the latent's sides (16x16
at 512 pixels), scaled to 0..1 and cut at a threshold. Source: MasaCtrl, section 3.3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from lib_masactrl.attention import Region, regions_of
from lib_masactrl.branches import BatchLayout, Branch
from lib_masactrl.errors import BatchLayoutError
from lib_masactrl.layers import token_grid
from lib_masactrl.setting_kinds import AUTOMATIC

#: The positions of a branch's foreground words in the context that the U-Net call now running has for it.
WordPositions = Callable[[Branch], tuple[int, ...]]

#: Maps are taken where the latent's sides are divided by this, as the paper does.
_DIVISOR = 4

_LEVELS = 256
"""Histogram bins of :func:`otsu_threshold`."""


def word_map(queries: Tensor, keys: Tensor, heads: int, positions: tuple[tuple[int, ...], ...]) -> Tensor:
    """How much each token of a picture attends to words: the sum of their probabilities, averaged over heads.

    Args:
        queries: (rows, tokens, heads * d), what the layer's ``to_q`` made of the hidden states.
        keys: (rows, context tokens, heads * d), what its ``to_k`` made of the prompts.
        positions: for each row, the words' context tokens; none gives a map of zeros.

    Returns:
        (rows, tokens), float32, 0..1.
    """
    rows, tokens, inner = queries.shape
    q = queries.float().view(rows, tokens, heads, inner // heads).transpose(1, 2)
    k = keys.float().view(rows, keys.shape[1], heads, inner // heads).transpose(1, 2)
    probabilities = (q @ k.transpose(2, 3) / math.sqrt(inner // heads)).softmax(dim=-1).mean(dim=1)
    return torch.stack([of_row[:, list(words)].sum(dim=-1) for of_row, words in zip(probabilities, positions)])


def normalised(values: Tensor) -> Tensor:
    """A map scaled so that its lowest value is 0 and its highest 1; a flat one says nothing and becomes zeros."""
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else torch.zeros_like(values)


def otsu_threshold(values: Tensor) -> float:
    """The threshold on values in 0..1 that splits them into two groups of the least variance.

    Source: Otsu, "A Threshold Selection Method from Gray-Level Histograms", 1979.
    """
    counts = torch.histc(values.double().cpu().flatten(), _LEVELS, 0, 1)
    levels = (torch.arange(_LEVELS, dtype=torch.float64) + 0.5) / _LEVELS
    below, below_sum = counts.cumsum(0)[:-1], (counts * levels).cumsum(0)[:-1]
    above, above_sum = counts.sum() - below, (counts * levels).sum() - below_sum
    between = below * above * (below_sum / below.clamp(min=1) - above_sum / above.clamp(min=1)) ** 2
    # Where a gap separates the groups, every level in it is as good; its middle is furthest from both.
    best = (between >= between.max() * (1 - 1e-9)).nonzero().flatten()
    return float((best[0] + best[-1]) / 2 + 1) / _LEVELS


def foreground(values: Tensor, threshold: float | str) -> Tensor:
    """Which cells of a normalised map are foreground: those above 0 that reach ``threshold``; bool, same shape."""
    cut = otsu_threshold(values) if threshold == AUTOMATIC else float(threshold)
    return (values >= cut) & (values > 0)


def resized(values: Tensor, grid: tuple[int, int]) -> Tensor:
    """A map (height, width) on another grid: bilinear, and averaging where that is coarser."""
    if tuple(values.shape) == grid:
        return values
    return functional.interpolate(values[None, None], grid, mode="bilinear", antialias=True)[0, 0]


def dimmed(picture: Tensor, mask: Tensor) -> Tensor:
    """A picture (3, height, width) in 0..1 with all but the foreground, bool (h, w), dimmed."""
    whole = functional.interpolate(mask.to(picture)[None, None], picture.shape[-2:], mode="nearest")[0]
    return picture * (0.25 + 0.75 * whole)


@dataclass
class ForegroundMasks:
    """The foreground of every branch in one sampling; the part of the control that looks at cross-attention.

    Attributes:
        given: branches whose foreground is known from a picture: (height, width) in 0..1 in any size.
        words: for all other branches, where their words are; ``None`` if there are none.
        threshold: on the normalised map, or ``auto`` for :func:`otsu_threshold`.
        averaged: average the maps over the evaluations so far instead of taking the latest alone.
    """

    given: Mapping[Branch, Tensor] = field(default_factory=dict)
    words: WordPositions | None = None
    threshold: float | str = 0.1
    averaged: bool = False
    _layout: BatchLayout | None = field(default=None, init=False)
    _latent: tuple[int, int] = field(default=(0, 0), init=False)
    _maps: dict[int, Tensor] = field(default_factory=dict, init=False)  # by layer, (branches, tokens)
    _evaluations: dict[int, int] = field(default_factory=dict, init=False)  # by layer, how many its map averages
    _sizes: set[int] = field(default_factory=set, init=False)  # token counts of all layers seen
    _all_sizes_seen: bool = field(default=False, init=False)
    _cached: dict[tuple[int, int], Mapping[Branch, tuple[Region, ...]] | None] = field(default_factory=dict, init=False)

    def begin_call(self, layout: BatchLayout, latent: tuple[int, int]) -> None:
        """Announce a U-Net call on latents of (height, width). One with cond rows replaces the maps."""
        if latent != self._latent or (self._layout and layout.branches != self._layout.branches):
            self._forget()
            self._sizes.clear()
        self._layout, self._latent, self._all_sizes_seen = layout, latent, bool(self._sizes)
        if layout.cond_rows and not self.averaged:
            self._forget()

    def capture(self, layer: int, module: Any, hidden: Tensor, context: Tensor) -> None:
        """Take the words' map from cross-attention layer ``layer``, if it is one of those to look at.

        Args:
            module: the host's ``CrossAttention``, of which ``to_q``, ``to_k`` and ``heads`` are used; calling them as
                modules keeps LoRA in force.
            hidden: (rows, tokens, channels) that enter it.
            context: (rows, context tokens, channels), the prompts.
        """
        if self._layout is None or self.words is None:
            return
        self._sizes.add(hidden.shape[1])
        rows = list(self._layout.cond_rows)
        if not rows or not self._is_wanted(hidden.shape[1]):
            return
        positions = tuple(() if b in self.given else self.words(b) for b in self._layout.branches)
        queries, keys = module.to_q(hidden[rows]), module.to_k(context[rows])
        count = self._evaluations.get(layer, 0)
        latest = word_map(queries, keys, module.heads, positions)
        self._maps[layer] = latest if not count else self._maps[layer] + (latest - self._maps[layer]) / (count + 1)
        self._evaluations[layer] = count + 1
        self._cached.clear()

    def regions(self, layer: int, hidden: Tensor) -> Mapping[Branch, tuple[Region, ...]] | None:
        """The regions of every target in self-attention layer ``layer``, on ``hidden`` (rows, tokens, channels).

        The maps of the layers before it count, the same whether the host evaluates cond and uncond together or apart.
        ``None`` while there is no map to tell regions by.

        Raises:
            BatchLayoutError: the tokens form no grid over the latent (token merging), or no call was announced.
        """
        if self._layout is None:
            raise BatchLayoutError("Masks were asked for before their U-Net call was announced; announce it first.")
        key = (sum(captured < layer for captured in self._maps), hidden.shape[1])
        if key not in self._cached:
            grid = token_grid(hidden.shape[1], *self._latent)
            self._cached[key] = self._regions(self._layout, layer, grid, hidden.device)
        return self._cached[key]

    def on_grid(self, branch: Branch, grid: tuple[int, int], layer: int | None = None) -> Tensor | None:
        """The foreground of ``branch`` on a grid, bool (height, width) on the CPU; ``None`` while nothing tells it.

        Args:
            layer: only cross-attention layers before this one count; ``None``: all that were captured.
        """
        if branch in self.given:
            return resized(self.given[branch].float().cpu(), grid) >= 0.5
        maps = [value for captured, value in self._maps.items() if layer is None or captured < layer]
        if not maps or self._layout is None:
            return None
        mean = torch.stack([of_layer[self._layout.branches.index(branch)] for of_layer in maps]).mean(dim=0).cpu()
        if not mean.any():  # the branch has no such word just now (prompt editing)
            return None
        square = normalised(mean).view(token_grid(mean.numel(), *self._latent))
        return foreground(resized(square, grid), self.threshold)

    def of_result(self, branch: Branch) -> Tensor | None:
        """The last foreground of ``branch``, bool in the latent's (height, width); ``None`` if none was found."""
        return self.on_grid(branch, self._latent) if self._layout else None

    def _regions(
        self, layout: BatchLayout, layer: int, grid: tuple[int, int], device: torch.device
    ) -> Mapping[Branch, tuple[Region, ...]] | None:
        masks = {branch: self.on_grid(branch, grid, layer) for branch in layout.branches}
        found = {}
        for branch in (branch for branch in layout.branches if not branch.is_source):
            target, source = masks[branch], masks[Branch(branch.group)]
            if target is not None and source is not None:
                found[branch] = regions_of(target.flatten().to(device), source.flatten().to(device))
        if not found:
            return None
        everything = torch.arange(grid[0] * grid[1], device=device)
        return {b: found.get(b, (Region(everything, everything),)) for b in layout.branches if not b.is_source}

    def _is_wanted(self, tokens: int) -> bool:
        """Whether a layer of that size is one of the nearest to a quarter of the latent's sides.

        Until a whole call has shown which sizes there are, only one that nothing can be nearer than.
        """
        wanted = self._latent[0] * self._latent[1] / _DIVISOR**2

        def distance(size: int) -> float:
            return abs(math.log2(size / wanted))

        nearest = min(distance(size) for size in self._sizes)
        return distance(tokens) == nearest and (self._all_sizes_seen or nearest < 1)

    def _forget(self) -> None:
        self._maps.clear()
        self._evaluations.clear()
        self._cached.clear()
