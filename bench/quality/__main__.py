"""`python -m bench.quality`: sample every layout from a checkpoint, save a contact sheet, let the classifier judge."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import torch

from bench.quality.classifier import accuracy, classifier
from bench.training.load import load_checkpoint
from bench.training.sample import sample_layouts, save_grid
from bench.training.vae import to_tensor
from bench.world import all_layouts

log = logging.getLogger("bench.quality")


def main() -> None:
    """Sample, save, judge."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    parser = argparse.ArgumentParser(prog="python -m bench.quality", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=Path("demo/checkpoint"))
    parser.add_argument("--work", type=Path, default=Path(".snapshots"))
    parser.add_argument("--sheet", type=Path, default=Path(".snapshots/sheet.png"))
    parser.add_argument("--per-layout", type=int, default=4)
    parser.add_argument("--guidance", type=float, default=7.5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    checkpoint = load_checkpoint(options.checkpoint)
    pictures, numbers = sample_layouts(checkpoint, options.per_layout, options.seed, options.guidance)
    save_grid(pictures, len(all_layouts()), options.sheet)
    log.info("contact sheet, one column per layout: %s", options.sheet)
    judge = classifier(options.work)
    log.info(
        "samples judged at guidance %s: %s", options.guidance, accuracy(judge, to_tensor(pictures.numpy()), numbers)
    )


if __name__ == "__main__":
    main()
