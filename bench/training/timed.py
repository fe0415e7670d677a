"""Runs of a fixed length in time: the learning rate follows the clock, and a run goes on from its last snapshot."""

from __future__ import annotations

import logging
import math
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

log = logging.getLogger(__name__)


@dataclass
class Clock:
    """How far a run of `minutes` has come; `spent` seconds were used before the last resume."""

    minutes: float
    spent: float = 0.0
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Training time so far, earlier sessions included."""
        return self.spent + time.monotonic() - self.started

    @property
    def progress(self) -> float:
        """0 at the start, 1 (or a little more) at the end."""
        return self.seconds / (60 * self.minutes)


def learning_rate(peak: float, progress: float, step: int, warmup: int = 100) -> float:
    """Linear warm-up over `warmup` steps, then a cosine that reaches zero when the time is over."""
    return peak * min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Assign one rate to every group."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def save_snapshot(path: Path, state: dict[str, Any]) -> None:
    """Write atomically: a run that is killed while saving leaves the old snapshot whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save({**state, "torch_rng": torch.get_rng_state()}, partial)
    os.replace(partial, path)


def load_snapshot(path: Path) -> dict[str, Any] | None:
    """The snapshot at `path`, the random state restored; None if there is none."""
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=False)
    torch.set_rng_state(state["torch_rng"])
    log.info("resuming %s at step %d after %.1f minutes", path.name, state["step"], state["seconds"] / 60)
    return state


def usable_cores() -> int:
    """Those that this process may use: two threads pinned to one core wait for each other most of the time."""
    if hasattr(os, "sched_getaffinity"):  # not on Windows and macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
