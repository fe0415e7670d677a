"""Classifier-free guidance of a batch with a scale per row."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lib_masactrl.host.standalone.checkpoint import DiffusionModel


class GuidedPrediction:
    """Uncond and cond of all rows of a batch in one U-Net call (where every scale is 1, cond alone is enough).

    Args:
        prompts: one per row.
        scales: guidance scale of each row.
    """

    def __init__(
        self, model: DiffusionModel, prompts: Sequence[str], negative_prompt: str, scales: Sequence[float]
    ) -> None:
        self._model = model
        self._scales = torch.tensor(scales, device=model.device).view(-1, 1, 1, 1)
        self._passes = 1 if all(scale == 1 for scale in scales) else 2
        texts = [*[negative_prompt] * len(prompts) * (self._passes - 1), *prompts]
        # Per distinct prompt, so that equal prompts have equal bits whatever else is in the batch.
        contexts = {text: model.text_encoder([text]) for text in dict.fromkeys(texts)}
        self._context = torch.cat([contexts[text] for text in texts])

    @property
    def rows(self) -> int:
        """Rows of each U-Net call."""
        return len(self._context)

    @property
    def cond_pass(self) -> int:
        """Which pass of each U-Net call has the prompts: the last, after uncond."""
        return self._passes - 1

    def __call__(self, latents: Tensor, timestep: Tensor) -> Tensor:
        """What the U-Net predicts for ``latents`` (rows, channels, h, w), guided; same shape, float32."""
        with torch.autocast("cuda", torch.float16, enabled=self._model.half):
            predicted: Tensor = self._model.unet(
                latents.repeat(self._passes, 1, 1, 1), timestep.expand(self.rows), context=self._context
            )
        if self._passes == 1:
            return predicted.float()
        uncond, cond = predicted.float().chunk(2)
        return uncond + self._scales * (cond - uncond)
