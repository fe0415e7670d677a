"""The control window: which (step, layer) is controlled. Integers only."""

from __future__ import annotations

from dataclasses import dataclass

from lib_masactrl.errors import SettingsError

#: The paper controls layers >= 10 of the 16 of SD 1.x; its authors try 44 of the 70 of SDXL. Both are this share.
DEFAULT_START_LAYER_SHARE = 10 / 16


def default_start_layer(layer_count: int) -> int:
    """Start layer L for a U-Net with ``layer_count`` self-attention layers: 10 of 16 (SD 1, SD 2), 44 of 70 (SDXL)."""
    return round(layer_count * DEFAULT_START_LAYER_SHARE)


@dataclass(frozen=True)
class ControlWindow:
    """The half-open window of denoising steps [S, end) and the self-attention layers >= L that are controlled.

    ``start_step`` (S), ``end_step`` and ``start_layer`` (L) are zero-based; ``end_step=None`` means "to the last
    step". An empty window is allowed and controls nothing. Source: MasaCtrl, eq. 4 and Algorithm 1.

    Raises:
        SettingsError: a bound is negative, or the window ends before it starts.

    >>> ControlWindow(start_step=4, end_step=None, start_layer=10).covers(step=4, layer=10)
    True
    """

    start_step: int
    end_step: int | None
    start_layer: int

    def __post_init__(self) -> None:
        for name in ("start_step", "end_step", "start_layer"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise SettingsError(f"{name} is {value}, but counting starts at 0; give 0 or more.")
        if self.end_step is not None and self.end_step < self.start_step:
            raise SettingsError(
                f"end_step is {self.end_step}, before start_step {self.start_step}; "
                f"give an end_step of {self.start_step} or more, or leave it empty for the last step."
            )

    def covers(self, step: int, layer: int) -> bool:
        """Whether self-attention layer ``layer`` is controlled in denoising step ``step`` (both zero-based)."""
        return layer >= self.start_layer and self.covers_step(step)

    def covers_step(self, step: int) -> bool:
        """Whether any layer at or above the start layer is controlled in denoising step ``step``."""
        return step >= self.start_step and (self.end_step is None or step < self.end_step)

    def step_count(self, steps: int) -> int:
        """How many of ``steps`` denoising steps lie in the window."""
        end = steps if self.end_step is None else min(self.end_step, steps)
        return max(0, end - self.start_step)

    def layer_count(self, layers: int) -> int:
        """How many of ``layers`` self-attention layers lie in the window."""
        return max(0, layers - self.start_layer)

    def continued(self, steps: int) -> ControlWindow:
        """The window of a pass that goes on from this one's result, which took ``steps`` steps (hires fix).

        The first S steps are left alone so that the target can form its layout. The second pass starts from a finished
        layout, so it is controlled from its first step if control was on when the first pass ended, else not at all.
        """
        return ControlWindow(0, None if self.covers_step(steps - 1) else 0, self.start_layer)
