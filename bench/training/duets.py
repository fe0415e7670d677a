"""The stages of the checkpoint that paints two creatures, 128x64; it begins with the snapshots of the other one.

Every fourth batch holds pictures of one creature, so that it goes on painting those too.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from bench.training import creatures
from bench.training.export import export
from bench.training.latents import write_latents
from bench.training.unet import Examples, UnetRun, train_unet
from bench.training.vae import VaeRun, train_vae
from bench.world import all_captions, all_duet_captions, all_duets, random_duet_caption
from bench.world.dataset import write_dataset


def make_data(options: argparse.Namespace) -> None:
    """The training pictures and 256 held-out ones from another seed."""
    work = _work(options)
    if not (work / "world" / "layouts.npy").exists():
        write_dataset(work / "heldout", 256, options.seed + 1, 64, options.threads, duets=True)
        write_dataset(work / "world", options.count or 32_000, options.seed, 64, options.threads, duets=True)


def train_autoencoder(options: argparse.Namespace) -> None:
    """The autoencoder, on pictures of both sizes."""
    work = _work(options)
    data = (*[work / "world"] * 3, options.work / "world")
    minutes = options.minutes or 15.0
    train_vae(VaeRun(data, work / "vae.pt", minutes, 12, 6e-4, options.seed, options.work / "vae.pt"))


def train_painter(options: argparse.Namespace) -> None:
    """The U-Net and the text encoder, on pictures of both sizes."""
    work, duets = _work(options), all_duets()
    wide = Examples(
        work / "latents.npy",
        work / "world" / "layouts.npy",
        lambda number, rng: random_duet_caption(duets[number], rng),
        64,
    )
    alone = creatures.examples(work / "latents-besides.npy", options.work / "world")
    captions = tuple(dict.fromkeys([*all_captions(), *all_duet_captions()]))
    run = UnetRun(
        work / "unet.pt",
        (wide, wide, wide, alone),
        captions,
        options.minutes or 92.0,
        rate=9e-4,
        seed=options.seed,
        begin_from=options.work / "unet.pt",
    )
    train_unet(run)


def _work(options: argparse.Namespace) -> Path:
    work: Path = options.work / "duets"
    return work


STAGES = {
    "data": make_data,
    "vae": train_autoencoder,
    "latents": lambda options: write_latents(_work(options), besides=options.work / "world"),
    "unet": train_painter,
    "export": lambda options: export(_work(options), options.out, "duets"),
}
