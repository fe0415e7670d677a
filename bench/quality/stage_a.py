"""``python -m bench.quality.stage_a``: how far control moves a picture, on 20 pairs that differ in the pose alone."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import numpy as np
import torch

from bench.quality.figures import interval
from bench.quality.measures import expected_mask
from bench.quality.painting import controlled, plain
from bench.quality.pairs import Pair
from bench.world import all_layouts
from lib_masactrl.host.standalone.checkpoint import load_checkpoint

log = logging.getLogger("bench.quality.stage_a")


def pairs_of_poses(count: int = 20, first_seed: int = 5000) -> tuple[Pair, ...]:
    """Pairs of one species at one place in two poses, no pair twice."""
    layouts = all_layouts()
    possible = [(s, t) for s in layouts for t in layouts if s.pose != t.pose]
    possible = [(s, t) for s, t in possible if (s.species, s.place) == (t.species, t.place)]
    chosen = np.random.default_rng(7).permutation(len(possible))[:count]
    return tuple(Pair(*possible[number], first_seed + noise) for noise, number in enumerate(chosen))


def main() -> None:
    """Paint with and without control, and say the difference."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(prog="python -m bench.quality.stage_a", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=Path("demo/checkpoint/creatures.safetensors"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, pairs = load_checkpoint(options.checkpoint, "cpu"), pairs_of_poses()
    without, under = plain(model, pairs), controlled(model, pairs, start_step=4, start_layer=10)
    moved = np.abs(without.targets.astype(float) - under.targets)
    foreground = np.array([one[expected_mask(pair.target)].mean() for one, pair in zip(moved, pairs)])
    log.info("mean difference over the target's foreground: %s grey levels", interval(foreground))
    log.info("of one pair: %.1f to %.1f; over 10 in %d of %d", *_range(foreground), (foreground > 10).sum(), len(pairs))
    log.info("sources unchanged: %s", np.array_equal(without.sources, under.sources))


def _range(values: np.ndarray) -> tuple[float, float]:
    return float(values.min()), float(values.max())


if __name__ == "__main__":
    main()
