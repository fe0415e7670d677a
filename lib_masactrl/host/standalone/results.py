"""What a sampled batch leaves behind: pictures with their settings, and a line about what was really controlled."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from lib_masactrl import infotext_entries as entries_of
from lib_masactrl.branches import Branch
from lib_masactrl.control import MutualSelfAttentionControl
from lib_masactrl.host.foreground import found
from lib_masactrl.host.standalone.checkpoint import DiffusionModel
from lib_masactrl.host.standalone.pictures import infotext, to_pictures, write_numbered
from lib_masactrl.host.standalone.sampling import BranchPrompts, SamplingPlan
from lib_masactrl.layers import self_attention_layers
from lib_masactrl.masks import dimmed
from lib_masactrl.settings import MasaCtrlSettings

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Run:
    """Everything that makes one batch; ``control`` is ``None`` for plain images."""

    model: DiffusionModel
    settings: MasaCtrlSettings
    batch: BranchPrompts
    plan: SamplingPlan
    control: MutualSelfAttentionControl | None

    def write(self, decoded: Tensor, folder: Path, label: str, entries: Mapping[str, Any]) -> Iterator[Path]:
        """Write the pictures ``decoded`` (branches, 3, height, width), in 0..1, and return the path of each.

        Args:
            label: the last part of the file names.
            entries: more for the infotext.

        Raises:
            SettingsError: ``folder`` cannot be written.
        """
        result, pictures = self._result(), to_pictures(decoded)
        for row, name in self._rows_to_write():
            control = self._of_control(self.batch.branches[row], result)
            text = infotext(
                self.batch.prompts[row], self.batch.negative_prompt, {**self._entries(), **entries, **control}
            )
            yield write_numbered(folder, f"{name}-{label}", pictures[row], text)
            shown = self._with_mask(decoded[row], self.batch.branches[row])
            if shown is not None:
                yield write_numbered(folder, f"{name}-mask-{label}", to_pictures(shown[None])[0], text)

    def _with_mask(self, picture: Tensor, branch: Branch) -> Tensor | None:
        masks = self.control.masks if self.control else None
        mask = masks.of_result(branch) if masks and self.settings.show_masks else None
        return None if mask is None else dimmed(picture, mask)

    def _rows_to_write(self) -> Iterator[tuple[int, str]]:
        for row, branch in enumerate(self.batch.branches):
            if branch.target is not None:
                yield row, "target" if self.settings.targets == 1 else f"target-{branch.target + 1}"
            elif self.settings.show_source:
                yield row, "source"

    def _entries(self) -> dict[str, Any]:
        return {
            "Steps": self.plan.steps,
            "Sampler": self.plan.sampler,
            "CFG scale": self.plan.cfg_scale,
            "Size": f"{self.plan.width}x{self.plan.height}",
            "Model": self.model.name,
        }

    def _of_control(self, branch: Branch, result: str | None) -> dict[str, str]:
        """The entries about control of one image; an image of a plain batch has none."""
        if result is None:
            return {}
        # Of a real image's edit the settings are not enabled (see cli.py), but what was changed shall be said.
        said = not self.settings.enabled and not branch.is_source
        changes = self.settings.replace(more_targets="").changes() if said else {}
        masks = self.control.masks if self.control else None
        foreground = {entries_of.FOREGROUND: found(masks, self.batch.branches)} if masks else {}
        return {**entries_of.of_branch(self.settings, branch), **changes, entries_of.RESULT: result, **foreground}

    def _result(self) -> str | None:
        """What was really controlled, in the words of the WebUI's infotext; logged as well."""
        if self.control is None:
            return None
        steps, layers = self.plan.steps, len(self_attention_layers(self.model.unet))
        record, window = self.control.record, self.control.window
        result = entries_of.result(len(record.steps), steps, len(record.layers), layers)
        expected = (window.step_count(steps), window.layer_count(layers))
        log.info("Controlled %s (expected %d steps, %d layers).", result, *expected)
        return result
