"""What a checkpoint's file tells before it is loaded. Forge loads none until the first request."""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass
from pathlib import Path

#: The format allows no longer ones (safetensors, ``MAX_HEADER_SIZE``).
_LONGEST_HEADER = 100_000_000

_SELF_ATTENTION = re.compile(r"model\.diffusion_model\..*\.attn1\.to_q\.weight")

#: The text encoders of the families, by the beginning of their names.
_TEXT_ENCODERS = {
    "conditioner.embedders.1.": "SDXL",
    "cond_stage_model.model.": "SD 2",
    "cond_stage_model.transformer.": "SD 1",
}


@dataclass(frozen=True)
class CheckpointFile:
    """A file in the original layout: the family as the host will name it, and its U-Net's self-attention layers."""

    family: str
    layers: int


def read_checkpoint_file(path: Path) -> CheckpointFile | None:
    """What is in the file; ``None`` where that cannot be told without loading it (a pickle, another layout)."""
    try:
        return _read(path, path.stat().st_mtime_ns)
    except (OSError, ValueError):  # gone, or no safetensors: whoever loads it will say so
        return None


@functools.lru_cache(maxsize=16)
def _read(path: Path, _changed: int) -> CheckpointFile | None:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if path.suffix != ".safetensors" or length > _LONGEST_HEADER:
            return None
        names = json.loads(file.read(length))
    layers = sum(bool(_SELF_ATTENTION.fullmatch(name)) for name in names)
    families = (family for start, family in _TEXT_ENCODERS.items() if any(name.startswith(start) for name in names))
    return CheckpointFile(next(families, "unknown"), layers) if layers else None
