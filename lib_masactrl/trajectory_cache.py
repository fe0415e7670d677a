"""Invert once, edit many: a bounded store of source trajectories, in memory and, if asked for, on disk.

The key has to name everything that a trajectory depends on; :func:`cache_key` makes one of such a list.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections import OrderedDict
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lib_masactrl.inversion import SourceTrajectory

log = logging.getLogger(__name__)

#: Changes whenever the meaning of a stored trajectory does, so that files of an older version are never found.
_FORMAT = "1"


def cache_key(parts: Iterable[object]) -> str:
    """A digest of ``parts``: tensors by their values, shape and type, everything else by its ``repr``."""
    digest = hashlib.sha256(_FORMAT.encode())
    for part in parts:
        if isinstance(part, Tensor):
            digest.update(repr((part.dtype, tuple(part.shape))).encode())
            digest.update(part.detach().contiguous().cpu().view(torch.uint8).numpy().tobytes())
        else:
            digest.update(repr(part).encode())
        digest.update(b"\0")
    return digest.hexdigest()


class TrajectoryCache:
    """Source trajectories by key, least recently used first out, on the CPU.

    Args:
        limit: bytes that the latents may take in memory, and as many on disk; 0 keeps nothing.
        folder: where to keep them on disk too; ``None`` keeps them in memory only.
    """

    def __init__(self, limit: int, folder: Path | None = None) -> None:
        self._kept: OrderedDict[str, SourceTrajectory] = OrderedDict()
        self.configure(limit, folder)

    def configure(self, limit: int, folder: Path | None) -> None:
        """Change the bounds; what no longer fits is dropped."""
        self._limit, self._folder = limit, folder
        self._shrink()

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def size(self) -> int:
        """Bytes in memory."""
        return sum(trajectory.size for trajectory in list(self._kept.values()))  # asked for by other threads too

    def get(self, key: str) -> SourceTrajectory | None:
        """The trajectory under ``key``, or ``None``. A damaged file is removed with a warning."""
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        trajectory = self._read(key)
        if trajectory is not None:
            self._keep(key, trajectory)
        return trajectory

    def put(self, key: str, trajectory: SourceTrajectory) -> None:
        """Keep ``trajectory``, unless it alone is over the limit."""
        if trajectory.size > self._limit:
            return
        returned = None if trajectory.returned is None else trajectory.returned.detach().cpu()
        latents = tuple(x.detach().cpu() for x in trajectory.latents)
        trajectory = SourceTrajectory(trajectory.sigmas, latents, returned)
        self._keep(key, trajectory)
        self._write(key, trajectory)

    def clear(self) -> None:
        """Forget what is in memory; files stay."""
        self._kept.clear()

    def _keep(self, key: str, trajectory: SourceTrajectory) -> None:
        self._kept[key] = trajectory
        self._shrink()

    def _shrink(self) -> None:
        while self.size > self._limit:
            self._kept.popitem(last=False)

    def _write(self, key: str, trajectory: SourceTrajectory) -> None:
        if self._folder is None:
            return
        path = self._path(self._folder, key)
        unfinished = path.with_suffix(f".{os.getpid()}.part")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            metadata = {"key": key, "sigmas": json.dumps(trajectory.sigmas)}
            tensors = {"latents": torch.stack(trajectory.latents)}
            if trajectory.returned is not None:
                tensors["returned"] = trajectory.returned
            save_file(tensors, unfinished, metadata)
            unfinished.replace(path)
            self._shrink_folder(self._folder)
        except (OSError, SafetensorError) as error:  # the latter too if the disk is full
            log.warning("The inversion could not be kept on disk in %s: %s.", self._folder, error)
            _remove(unfinished)

    def _read(self, key: str) -> SourceTrajectory | None:
        path = self._folder and self._path(self._folder, key)
        if not path or not path.is_file():
            return None
        try:
            trajectory = _loaded(path, key)
            path.touch()  # least recently used first out, on disk too
        except (OSError, SafetensorError, ValueError, KeyError) as error:
            log.warning("The kept inversion %s is damaged (%s) and is discarded.", path.name, error)
            _remove(path)
            return None
        return trajectory

    def _shrink_folder(self, folder: Path) -> None:
        files = sorted(folder.glob("masactrl-*.safetensors"), key=lambda path: path.stat().st_mtime_ns)
        total = sum(path.stat().st_size for path in files)
        # The newest stays whatever its header adds to the latents' size, which was within the limit.
        for path in files[:-1]:
            if total <= self._limit:
                return
            total -= path.stat().st_size
            _remove(path)

    @staticmethod
    def _path(folder: Path, key: str) -> Path:
        return folder / f"masactrl-{key}.safetensors"


def _remove(path: Path) -> None:
    """Windows keeps a file that is open elsewhere; it is tried again when the folder is next too full."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("The kept inversion %s could not be removed: %s.", path.name, error)


def _loaded(path: Path, key: str) -> SourceTrajectory:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length < path.stat().st_size:
            raise ValueError("it ends too early")
        metadata = json.loads(file.read(length)).get("__metadata__", {})
    sigmas = tuple(float(sigma) for sigma in json.loads(metadata["sigmas"]))
    # Copies: what `load_file` gives is the file itself, mapped, which Windows then neither replaces nor removes.
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    latents, returned = tensors["latents"], tensors.get("returned")
    if metadata["key"] != key:
        raise ValueError("it holds another picture's inversion")
    ascending = all(low < high for low, high in pairwise(sigmas))
    if len(sigmas) != len(latents) or not sigmas or not ascending or not torch.isfinite(latents).all():
        raise ValueError("its contents make no trajectory")
    if returned is not None and (returned.shape != latents[0].shape or not torch.isfinite(returned).all()):
        raise ValueError("its contents were not sampled back")
    return SourceTrajectory(sigmas, tuple(latents), returned)
