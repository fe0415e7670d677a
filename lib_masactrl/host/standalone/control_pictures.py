"""Control pictures on the standalone host: units of a T2I-Adapter and its pictures, each kept to its branches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import T2IAdapter
from torch import Tensor

from lib_masactrl.branches import Branch
from lib_masactrl.guidance import Guidance
from lib_masactrl.host.standalone.adapter import check_fits, load_adapter
from lib_masactrl.host.standalone.checkpoint import DiffusionModel
from lib_masactrl.host.standalone.reading import fitted, read_picture, to_tensor
from lib_masactrl.host.standalone.sampling import SamplingPlan
from lib_masactrl.settings import MasaCtrlSettings


@dataclass(frozen=True, eq=False)
class ControlUnit:
    """An adapter with its control pictures (pictures, channels, height, width) in 0..1, and whom it guides."""

    adapter: T2IAdapter
    pictures: Tensor
    guidance: Guidance

    @torch.no_grad()
    def features(self, branches: Sequence[Branch]) -> list[Tensor]:
        """What the unit adds for each branch, level by level: (branches, channels, h, w)."""
        count = len(self.pictures)
        # Several pictures share the unit's weight, as in the ControlNet extension.
        weights = [[self.guidance.weight(b.target, i, count) / count for i in range(count)] for b in branches]
        levels = self.adapter(self.pictures)
        return [torch.einsum("bp,pchw->bchw", level.new_tensor(weights), level) for level in levels]


@dataclass(frozen=True)
class ControlFiles:
    """The files of all units: their pictures, and their adapters, of which the last serves all further units."""

    pictures: Sequence[Sequence[Path]] = ()
    adapters: Sequence[Path] = ()

    def read(self, model: DiffusionModel, settings: MasaCtrlSettings, plan: SamplingPlan) -> list[ControlUnit]:
        """The units, their pictures scaled and cropped to the size of ``plan``.

        Raises:
            SettingsError: a picture cannot be read.
            UnsupportedModelError: an adapter cannot be read, or is none for this checkpoint.
        """
        units = []
        for number, paths in enumerate(self.pictures):
            file = self.adapters[min(number, len(self.adapters) - 1)]
            adapter = load_adapter(file)
            check_fits(adapter, model.unet, file)
            pictures = torch.cat([to_tensor(fitted(read_picture(path), plan.width, plan.height)) for path in paths])
            if adapter.config.in_channels == 1:
                pictures = pictures.mean(dim=1, keepdim=True)
            units.append(ControlUnit(adapter, pictures, settings.guidance_of_unit(number)))
        return units

    def entries(self) -> dict[str, str]:
        """The infotext's entry about them; the settings say whom they guide."""
        units = ("+".join(path.name for path in paths) for paths in self.pictures)
        return {"MasaCtrl control images": ", ".join(units)} if self.pictures else {}


def features_of(units: Sequence[ControlUnit], branches: Sequence[Branch]) -> tuple[Tensor, ...]:
    """What all units together add for each branch, level by level: (branches, channels, h, w)."""
    return tuple(torch.stack(level).sum(dim=0) for level in zip(*(unit.features(branches) for unit in units)))
