"""Pre-rendered pictures on disk, so that training does not wait for drawing."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from bench.world.layout import all_layouts
from bench.world.render import random_scene, render

CHUNK = 2000


def _chunk(job: tuple[int, int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    seed, index, count, size = job
    # Each chunk has its own stream: the data do not depend on the number of processes.
    rng = np.random.default_rng([seed, index])
    layouts = all_layouts()
    numbers = rng.integers(len(layouts), size=count).astype(np.int16)
    pictures = np.stack([render(random_scene(layouts[number], rng), size)[0] for number in numbers])
    return pictures, numbers


def write_dataset(folder: Path, count: int, seed: int, size: int, processes: int) -> None:
    """Write `pictures.npy`, uint8 (count, size, size, 3), and `layouts.npy`, the index into `all_layouts()`."""
    folder.mkdir(parents=True, exist_ok=True)
    starts = range(0, count, CHUNK)
    jobs = [(seed, start // CHUNK, min(CHUNK, count - start), size) for start in starts]
    pictures = np.lib.format.open_memmap(
        folder / "pictures.npy", mode="w+", dtype=np.uint8, shape=(count, size, size, 3)
    )
    numbers = np.empty(count, dtype=np.int16)
    with ProcessPoolExecutor(processes) as pool:
        for start, (drawn, layouts) in zip(starts, pool.map(_chunk, jobs)):
            pictures[start : start + len(drawn)] = drawn
            numbers[start : start + len(drawn)] = layouts
    pictures.flush()
    np.save(folder / "layouts.npy", numbers)
