"""`python -m bench.training STAGE`: each stage of making a checkpoint; every stage resumes."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import torch

from bench.training import creatures, duets
from bench.training.timed import usable_cores

log = logging.getLogger("bench.training")
CHECKPOINTS = {"creatures": creatures.STAGES, "duets": duets.STAGES}


def parse_arguments() -> argparse.Namespace:
    """The command line; what is left out takes each stage's default."""
    parser = argparse.ArgumentParser(prog="python -m bench.training", description=__doc__)
    parser.add_argument("stage", choices=(*creatures.STAGES, "all"))
    parser.add_argument("--checkpoint", choices=tuple(CHECKPOINTS), default="creatures", help="duets needs creatures")
    parser.add_argument("--work", type=Path, default=Path(".snapshots"), help="data sets and snapshots")
    parser.add_argument("--out", type=Path, default=Path("demo/checkpoint"), help="where `export` writes")
    parser.add_argument("--count", type=int, help="pictures in the data set")
    parser.add_argument("--minutes", type=float, help="length of the stage")
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if options.stage not in (*CHECKPOINTS[options.checkpoint], "all"):
        parser.error(f"{options.checkpoint} has no stage {options.stage!r}")
    return options


def main() -> None:
    """Run one stage, or all of them in order."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    options = parse_arguments()
    torch.set_num_threads(options.threads)
    stages = CHECKPOINTS[options.checkpoint]
    for name in stages if options.stage == "all" else (options.stage,):
        log.info("stage %s", name)
        stages[name](options)


if __name__ == "__main__":
    main()
