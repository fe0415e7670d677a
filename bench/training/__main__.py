"""`python -m bench.training SUBCOMMAND`: each stage of making the checkpoint; every stage resumes."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import torch

from bench.training.timed import usable_cores

log = logging.getLogger("bench.training")
STAGES = ("data", "vae", "latents", "unet", "export", "adapter", "all")


def parse_arguments() -> argparse.Namespace:
    """The command line; minutes left out take each stage's default."""
    parser = argparse.ArgumentParser(prog="python -m bench.training", description=__doc__)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--work", type=Path, default=Path(".snapshots"), help="data sets and snapshots")
    parser.add_argument("--out", type=Path, default=Path("demo/checkpoint"), help="where `export` writes")
    parser.add_argument("--count", type=int, default=48_000, help="pictures in the data set")
    parser.add_argument("--minutes", type=float, help="length of the stage (default: vae 25, unet 70)")
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def make_data(options: argparse.Namespace) -> None:
    """The training pictures and 512 held-out ones from another seed."""
    from bench.world.dataset import write_dataset

    if not (options.work / "world" / "masks.npy").exists():
        write_dataset(options.work / "world", options.count, options.seed, 64, options.threads)
        write_dataset(options.work / "heldout", 512, options.seed + 1, 64, options.threads)


def train_vae_stage(options: argparse.Namespace) -> None:
    """The autoencoder."""
    from bench.training.vae import VaeRun, train_vae

    train_vae(VaeRun(options.work / "world", options.work / "vae.pt", options.minutes or 25.0, seed=options.seed))


def make_latents(options: argparse.Namespace) -> None:
    """Fold the latent scale into the autoencoder and encode the data set once."""
    from bench.training.latents import write_latents

    write_latents(options.work)


def train_unet_stage(options: argparse.Namespace) -> None:
    """The U-Net and the text encoder, jointly."""
    from bench.training.unet import UnetRun, train_unet

    train_unet(UnetRun(options.work, options.minutes or 70.0, seed=options.seed))


def export_stage(options: argparse.Namespace) -> None:
    """The checkpoint, its yaml and its tokenizer."""
    from bench.training.export import export

    export(options.work, options.out)


def train_adapter_stage(options: argparse.Namespace) -> None:
    """The T2I-Adapter, for the exported checkpoint."""
    from bench.training.adapter import AdapterRun, export_adapter, train_adapter

    train_adapter(AdapterRun(options.work, options.out, seed=options.seed))
    export_adapter(options.work, options.out)


def main() -> None:
    """Run one stage, or all of them in order."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    options = parse_arguments()
    torch.set_num_threads(options.threads)
    stages = {
        "data": make_data,
        "vae": train_vae_stage,
        "latents": make_latents,
        "unet": train_unet_stage,
        "export": export_stage,
        "adapter": train_adapter_stage,
    }
    for name in stages if options.stage == "all" else (options.stage,):
        log.info("stage %s", name)
        stages[name](options)


if __name__ == "__main__":
    main()
