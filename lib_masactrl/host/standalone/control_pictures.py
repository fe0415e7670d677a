"""Control pictures on the standalone host: units of a network and its pictures, each kept to its branches."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import ControlNetModel, T2IAdapter
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lib_masactrl.branch_guidance import Guidance
from lib_masactrl.branches import Branch
from lib_masactrl.host.standalone.checkpoint import DiffusionModel
from lib_masactrl.host.standalone.controlnet import HINT, WeightedControlNet, load_controlnet, without_prefix
from lib_masactrl.host.standalone.reading import fitted, read_picture, to_tensor
from lib_masactrl.host.standalone.sampling import BranchPrompts, SamplingPlan
from lib_masactrl.host.standalone.t2i_adapter import check_fits, load_adapter
from lib_masactrl.settings import MasaCtrlSettings


@dataclass(frozen=True, eq=False)
class ControlUnit:
    """A network with its control pictures (pictures, channels, height, width) in 0..1, and whom it guides.

    If that is ``each``, the first picture is for the target ``first_target``.
    """

    network: T2IAdapter | ControlNetModel
    pictures: Tensor
    guidance: Guidance
    first_target: int = 0

    def weights(self, branches: Sequence[Branch]) -> Tensor:
        """(branches, pictures). Several pictures share the unit's weight, as in the ControlNet extension."""
        count = len(self.pictures)
        return torch.tensor(
            [
                [self.guidance.weight(b.target, self.first_target + i, count) / count for i in range(count)]
                for b in branches
            ]
        )

    @torch.no_grad()
    def features(self, branches: Sequence[Branch]) -> list[Tensor]:
        """What a T2I-Adapter adds for each branch, level by level: (branches, channels, h, w)."""
        weights = self.weights(branches)
        return [torch.einsum("bp,pchw->bchw", weights, level) for level in self.network(self.pictures)]


@dataclass(frozen=True)
class ControlFiles:
    """The files of all units: their pictures, and their networks, of which the last serves all further units."""

    pictures: Sequence[Sequence[Path]] = ()
    adapters: Sequence[Path] = ()

    def read(self, model: DiffusionModel, settings: MasaCtrlSettings, plan: SamplingPlan) -> list[ControlUnit]:
        """The units, their pictures scaled and cropped to the size of ``plan``.

        Raises:
            SettingsError: a picture cannot be read, or targets have not one each.
            UnsupportedModelError: a network cannot be read, or is none for this checkpoint.
        """
        first = settings.first_targets({number: len(paths) for number, paths in enumerate(self.pictures)})
        units = []
        for number, paths in enumerate(self.pictures):
            file = self.adapters[min(number, len(self.adapters) - 1)]
            network = _network(file, model)
            pictures = torch.cat([to_tensor(fitted(read_picture(path), plan.width, plan.height)) for path in paths])
            if isinstance(network, T2IAdapter) and network.config.in_channels == 1:
                pictures = pictures.mean(dim=1, keepdim=True)
            units.append(ControlUnit(network, pictures, settings.guidance_of_unit(number), first.get(number, 0)))
        return units

    def entries(self) -> dict[str, str]:
        """The infotext's entry about them; the settings say whom they guide."""
        units = ("+".join(path.name for path in paths) for paths in self.pictures)
        return {"MasaCtrl control images": ", ".join(units)} if self.pictures else {}


def _network(path: Path, model: DiffusionModel) -> T2IAdapter | ControlNetModel:
    try:
        tensors = without_prefix(load_file(path))
    except (OSError, SafetensorError):
        tensors = {}
    if HINT in tensors:
        return load_controlnet(path, tensors, model.config).to(model.device)
    adapter = load_adapter(path)
    check_fits(adapter, model.unet, path)
    return adapter


def with_units(batch: BranchPrompts, units: Sequence[ControlUnit]) -> BranchPrompts:
    """The batch with all units."""
    adapters = [unit.features(batch.branches) for unit in units if isinstance(unit.network, T2IAdapter)]
    controlnets = (
        WeightedControlNet(unit.network, unit.pictures, unit.weights(batch.branches))
        for unit in units
        if isinstance(unit.network, ControlNetModel)
    )
    features = tuple(torch.stack(level).sum(dim=0) for level in zip(*adapters))
    return dataclasses.replace(batch, features=features, controlnets=tuple(controlnets))
