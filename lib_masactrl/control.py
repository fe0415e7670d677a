"""The one stateful object: mutual self-attention control over one sampling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import torch
from torch import nn

from lib_masactrl.attention import Attend, Attention, masked, mutual, union
from lib_masactrl.branches import BatchLayout
from lib_masactrl.errors import BatchLayoutError
from lib_masactrl.masks import ForegroundMasks
from lib_masactrl.schedule import ControlWindow

#: Ways to let the target see the source, by the name users choose. Further methods are added here.
METHODS: Mapping[str, Attention] = MappingProxyType({"mutual": mutual, "union": union})


@dataclass
class ControlRecord:
    """What a run really did, for the report: which steps and layers were evaluated under control."""

    steps: set[int] = field(default_factory=set)
    layers: set[int] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.steps)


class MutualSelfAttentionControl:
    """Decides, for each self-attention call, whether targets attend to their source. Lives for one sampling.

    The host adapter announces every U-Net call with :meth:`begin_call`; the hooks that
    :func:`lib_masactrl.patching.attached` installs then pass each self-attention through :meth:`self_attention`.

    Args:
        window: the controlled steps and layers.
        attention: how targets see their source, one of :data:`METHODS`.
        masks: keep foreground and background apart by these; ``None``: every target sees its whole source.
    """

    def __init__(
        self, window: ControlWindow, attention: Attention = mutual, masks: ForegroundMasks | None = None
    ) -> None:
        self.window = window
        self.attention = attention
        self.masks = masks
        self.record = ControlRecord()
        self._layout: BatchLayout | None = None
        self._step = 0
        self._layers_of_call: set[int] = set()
        self._sources_alone: dict[tuple[int, torch.Size], bool] = {}

    def begin_call(self, layout: BatchLayout, step: int, latent: tuple[int, int] = (0, 0)) -> None:
        """Announce a U-Net call. To be called before every U-Net call.

        Args:
            layout: its rows.
            step: its zero-based denoising step.
            latent: height and width of its latents; masks need them.
        """
        self._layout = layout
        self._step = step
        self._layers_of_call = set()
        if self.masks:
            self.masks.begin_call(layout, latent)

    def missed_layers(self, layers: int) -> tuple[int, ...]:
        """Of a U-Net's ``layers``, those that the announced call should have controlled and has not, at its end.

        Something else computes their attention then, whatever it is: a model whose modules are bypassed, or a patch of
        another extension (SAG replaces one layer, StyleAlign all of them).
        """
        return tuple(
            layer
            for layer in range(layers)
            if self.window.covers(self._step, layer) and layer not in self._layers_of_call
        )

    def cross_attention(self, layer: int, module: nn.Module, hidden: torch.Tensor, context: torch.Tensor) -> None:
        """Look at what enters cross-attention layer ``layer``; see :meth:`ForegroundMasks.capture`."""
        if self.masks and self.window.covers_step(self._step):
            self.masks.capture(layer, module, hidden, context)

    def self_attention(self, layer: int, hidden: torch.Tensor, attend: Attend) -> torch.Tensor:
        """Output of self-attention layer ``layer`` for ``hidden`` (rows, tokens, channels); same shape.

        Outside the window this is ``attend(hidden, None)``, the host's own call, bit for bit.

        Raises:
            BatchLayoutError: no call was announced, or ``hidden`` has other rows than were announced.
        """
        if not self.window.covers(self._step, layer):
            return attend(hidden, None)
        layout = self._announced(hidden)
        self._layers_of_call.add(layer)
        self.record.steps.add(self._step)
        self.record.layers.add(layer)
        regions = self.masks.regions(layer, hidden) if self.masks else None
        if regions is None:
            return self.attention(hidden, layout, attend)
        return masked(hidden, layout, attend, regions, self.attention, self._with_sources(layer, hidden, attend))

    def _with_sources(self, layer: int, hidden: torch.Tensor, attend: Attend) -> torch.Tensor:
        """A tensor like ``hidden`` whose source rows are the host's plain self-attention, bit for bit.

        The host's bits come from a call over all rows. A call over the sources alone is cheaper, and has the same
        bits unless the batch's size makes a library choose another kernel. So the first time both are made and
        compared, for every layer and shape, and the cheaper one is kept only where it was exact.
        """
        sources = list(self._announced(hidden).source_rows)
        key = (layer, hidden.shape)
        if self._sources_alone.get(key):
            alone = attend(hidden[sources], None)
            output = alone.new_empty(hidden.shape)
            output[sources] = alone
            return output
        output = attend(hidden, None)
        if key not in self._sources_alone:
            self._sources_alone[key] = torch.equal(attend(hidden[sources], None), output[sources])
        return output

    def _announced(self, hidden: torch.Tensor) -> BatchLayout:
        if self._layout is None:
            raise BatchLayoutError(
                "A self-attention layer ran before its U-Net call was announced; call begin_call(layout, step) first."
            )
        if hidden.shape[0] != self._layout.rows:
            raise BatchLayoutError(
                f"A self-attention layer received {hidden.shape[0]} rows where the U-Net call has {self._layout.rows}. "
                "Another extension reshapes the batch (Hypertile, reference-only ControlNet); switch it off."
            )
        return self._layout
