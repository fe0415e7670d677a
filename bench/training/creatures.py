"""The stages of the checkpoint that paints one creature, 64x64."""

from __future__ import annotations

import argparse
from pathlib import Path

from bench.training.adapter import AdapterRun, export_adapter, train_adapter
from bench.training.export import export
from bench.training.latents import write_latents
from bench.training.unet import Examples, UnetRun, train_unet
from bench.training.vae import VaeRun, train_vae
from bench.world import all_captions, all_layouts, random_caption
from bench.world.dataset import write_dataset


def make_data(options: argparse.Namespace) -> None:
    """The training pictures and 512 held-out ones from another seed."""
    if not (options.work / "world" / "layouts.npy").exists():
        write_dataset(options.work / "heldout", 512, options.seed + 1, 64, options.threads)
        write_dataset(options.work / "world", options.count or 48_000, options.seed, 64, options.threads)


def train_autoencoder(options: argparse.Namespace) -> None:
    """The autoencoder."""
    run = VaeRun((options.work / "world",), options.work / "vae.pt", options.minutes or 25.0, seed=options.seed)
    train_vae(run)


def train_painter(options: argparse.Namespace) -> None:
    """The U-Net and the text encoder, jointly."""
    data = examples(options.work / "latents.npy", options.work / "world")
    captions = tuple(all_captions())
    train_unet(UnetRun(options.work / "unet.pt", (data,), captions, options.minutes or 70.0, seed=options.seed))


def examples(latents: Path, data: Path) -> Examples:
    """Batches of pictures of one creature."""
    layouts = all_layouts()
    return Examples(latents, data / "layouts.npy", lambda number, rng: random_caption(layouts[number], rng), 96)


def train_sketch_adapter(options: argparse.Namespace) -> None:
    """The T2I-Adapter, for the exported checkpoint."""
    train_adapter(AdapterRun(options.work, options.out, seed=options.seed))
    export_adapter(options.work, options.out)


STAGES = {
    "data": make_data,
    "vae": train_autoencoder,
    "latents": lambda options: write_latents(options.work),
    "unet": train_painter,
    "export": lambda options: export(options.work, options.out, "creatures"),
    "adapter": train_sketch_adapter,
}
