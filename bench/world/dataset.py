"""Pre-rendered pictures on disk, so that training does not wait for drawing."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from bench.world.duet import all_duets, random_halves, render_duet
from bench.world.layout import all_layouts
from bench.world.render import random_scene, render

CHUNK = 2000


def _chunk(job: tuple[int, int, int, int, bool]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    seed, index, count, size, duets = job
    # Each chunk has its own stream: the data do not depend on the number of processes.
    rng = np.random.default_rng([seed, index])
    numbers = rng.integers(len(all_duets() if duets else all_layouts()), size=count).astype(np.int16)
    if duets:
        rendered = [render_duet(random_halves(all_duets()[number], rng), size) for number in numbers]
    else:
        rendered = [render(random_scene(all_layouts()[number], rng), size) for number in numbers]
    pictures, masks = zip(*rendered)
    return np.stack(pictures), np.packbits(np.stack(masks), axis=-1), numbers


def write_dataset(folder: Path, count: int, seed: int, size: int, processes: int, duets: bool = False) -> None:
    """Write a data set.

    `pictures.npy`, uint8 (count, size, width, 3); `masks.npy`, the foreground as packed bits, uint8 (count,
    size, width / 8); and `layouts.npy`, the index into `all_layouts()`, which is written last. The width is the size;
    of `duets` twice the size, and the indices are those into `all_duets()`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    starts = range(0, count, CHUNK)
    jobs = [(seed, start // CHUNK, min(CHUNK, count - start), size, duets) for start in starts]
    width = 2 * size if duets else size
    pictures = np.lib.format.open_memmap(
        folder / "pictures.npy", mode="w+", dtype=np.uint8, shape=(count, size, width, 3)
    )
    masks = np.empty((count, size, width // 8), dtype=np.uint8)
    numbers = np.empty(count, dtype=np.int16)
    with ProcessPoolExecutor(processes) as pool:
        for start, (drawn, packed, layouts) in zip(starts, pool.map(_chunk, jobs)):
            rows = slice(start, start + len(drawn))
            pictures[rows], masks[rows], numbers[rows] = drawn, packed, layouts
    pictures.flush()
    np.save(folder / "masks.npy", masks)
    np.save(folder / "layouts.npy", numbers)
