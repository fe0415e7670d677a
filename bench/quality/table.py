"""``python -m bench.quality.table``: what control does to identity, background and layout, in numbers.

Pairs of captions of one species (another pose, place or both) are sampled with the product's own control; one noise
seed per pair, the same for every row of the table. Writes ``docs/proving-ground.md`` and a contact sheet beside it.
"""

from __future__ import annotations

import argparse
import logging
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from bench.quality.__main__ import cached_classifier
from bench.quality.classifier import layout_targets
from bench.quality.measures import background_distance, covering_mask, expected_mask, identity_distance
from bench.training.vae import to_tensor
from bench.world import Layout, all_layouts, random_identity, random_scene, render
from lib_masactrl.branches import branches_in_batch
from lib_masactrl.host.standalone.checkpoint import DiffusionModel, load_checkpoint
from lib_masactrl.host.standalone.sampling import BranchPrompts, SamplingPlan, control_for, sample_latents
from lib_masactrl.settings import MasaCtrlSettings

log = logging.getLogger("bench.quality.table")

STEPS = 50
PLAN = SamplingPlan("DDIM", STEPS, 7.5, 64, 64)
GROUPS_AT_ONCE = 40


@dataclass(frozen=True)
class Method:
    """A row of the table: a way to let the target see the source, from step S and layer L on."""

    name: str
    start_step: int
    start_layer: int

    @property
    def label(self) -> str:
        return "no control" if self.start_step >= STEPS else f"{self.name}, S={self.start_step}, L={self.start_layer}"

    @property
    def settings(self) -> MasaCtrlSettings:
        window = {"start_step": self.start_step, "start_layer": self.start_layer}
        return MasaCtrlSettings(enabled=True, source_prompt="x", method=self.name, **window)


METHODS = (
    Method("mutual", STEPS, 10),
    Method("mutual", 25, 10),
    Method("mutual", 10, 10),
    Method("mutual", 4, 10),
    Method("mutual", 0, 0),
    Method("union", 4, 10),
)
SHOWN = (METHODS[0], METHODS[1], METHODS[3], METHODS[4])


@dataclass(frozen=True)
class Judged:
    """One row's figures, one entry per pair: Lab distances, whether the layout is right, and the first pictures."""

    identity: np.ndarray
    background: np.ndarray
    right: np.ndarray
    pictures: np.ndarray


def random_pairs(count: int, seed: int = 0) -> list[tuple[Layout, Layout]]:
    """(source, target) layouts of one species that differ in pose, in place or in both."""
    layouts = all_layouts()
    possible = [(s, t) for s in layouts for t in layouts if s.species == t.species and s != t]
    chosen = np.random.default_rng(seed).integers(len(possible), size=count)
    return [possible[number] for number in chosen]


def sample_pairs(
    model: DiffusionModel, pairs: list[tuple[Layout, Layout]], first_seed: int, method: Method
) -> np.ndarray:
    """Pictures uint8 (2, pairs, 64, 64, 3): targets, then sources."""
    captions = [target.caption for _, target in pairs] + [source.caption for source, _ in pairs]
    seeds = tuple(range(first_seed, first_seed + len(pairs)))
    batch = BranchPrompts(branches_in_batch(len(pairs), 1), tuple(captions), seeds)
    latents = sample_latents(model, batch, PLAN, control_for(model, method.settings, STEPS))
    decoded = model.decode(latents).clamp(0, 1).permute(0, 2, 3, 1)
    return (decoded * 255).round().to(torch.uint8).numpy().reshape(2, len(pairs), 64, 64, 3)


def judge(checkpoint: Path, work: Path, count: int, method: Method) -> Judged:
    """Sample every pair with one method and measure it."""
    torch.set_num_threads(1)
    model, pairs = load_checkpoint(checkpoint, "cpu"), random_pairs(count)
    parts = [
        sample_pairs(model, pairs[first : first + GROUPS_AT_ONCE], first, method)
        for first in range(0, count, GROUPS_AT_ONCE)
    ]
    targets, sources = np.concatenate(parts, axis=1)
    numbers = torch.tensor([all_layouts().index(target) for _, target in pairs])
    with torch.no_grad():
        answers = torch.stack([part.argmax(dim=1) for part in cached_classifier(work)(to_tensor(targets))], dim=1)
    identity, background = zip(*map(_distances, pairs, sources, targets))
    right = (answers == torch.as_tensor(layout_targets(numbers.numpy()))).all(dim=1).numpy()
    log.info("%s: identity %.2f, layout %.3f", method.label, np.mean(identity), right.mean())
    return Judged(np.array(identity), np.array(background), right, np.stack([sources, targets], axis=1)[:8])


def _distances(pair: tuple[Layout, Layout], source: np.ndarray, target: np.ndarray) -> tuple[float, float]:
    """Identity and background distance of a pair of pictures, within the places that their captions name."""
    inner, outer = map(expected_mask, pair), map(covering_mask, pair)
    (source_inner, target_inner), (source_outer, target_outer) = inner, outer
    return (
        identity_distance(source, source_inner, target, target_inner),
        background_distance(source, source_outer, target, target_outer),
    )


def calibrate(count: int, same: bool) -> np.ndarray:
    """Identity distances of `count` pairs of true renders, with the same identity or with two."""
    rng = np.random.default_rng(1)
    distances = []
    for pair in random_pairs(count, seed=1):
        first = random_identity(rng)
        identities = (first, first if same else random_identity(rng))
        source, target = (render(random_scene(la, rng, who))[0] for la, who in zip(pair, identities))
        distances.append(_distances(pair, source, target)[0])
    return np.array(distances)


def interval(values: np.ndarray, digits: int = 1) -> str:
    """Mean and the half-width of its 95% confidence interval."""
    half = 1.96 * values.std(ddof=1) / np.sqrt(len(values))
    return f"{values.mean():.{digits}f} ± {half:.{digits}f}"


def report(results: dict[Method, Judged], count: int) -> str:
    """The page, in Markdown."""
    lines = [
        "# The proving ground: what control does, in numbers",
        "",
        f"Written by `python -m bench.quality.table --pairs {count}`: {count} pairs of captions, one noise seed each, "
        f"DDIM, {STEPS} steps, CFG 7.5, on the tiny checkpoint of `demo/checkpoint`. Means with 95% confidence "
        "intervals. *Identity* is the sliced Wasserstein distance of the foregrounds' colours in CIE Lab, within the "
        "silhouettes that the captions name; *background* the mean Lab distance where neither caption puts a creature; "
        "*layout* the share of targets in which a classifier finds the prompted species, pose and place.",
        "",
        f"For scale, true renders: same identity {interval(calibrate(count, True))}, "
        f"different identities {interval(calibrate(count, False))}.",
        "",
        "| target | identity distance | against no control | background distance | layout right |",
        "| --- | --- | --- | --- | --- |",
    ]
    baseline = results[METHODS[0]]
    for method, row in results.items():
        change = 100 * (row.identity.mean() / baseline.identity.mean() - 1)
        lines.append(
            f"| {method.label} | {interval(row.identity)} | {change:+.0f}% | {interval(row.background)} "
            f"| {interval(100 * row.right.astype(float))}% |"
        )
    shown = ", ".join(method.label for method in SHOWN)
    lines += ["", "![contact sheet](proving-ground.png)", "", f"Columns: source; then the target with {shown}.", ""]
    return "\n".join(lines)


def contact_sheet(results: dict[Method, Judged], scale: int = 2) -> Image.Image:
    """One line per pair: the source, then the target of each method in `SHOWN`."""
    columns = [results[SHOWN[0]].pictures[:, 0], *(results[method].pictures[:, 1] for method in SHOWN)]
    padded = np.pad(np.stack(columns, axis=1), ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)), constant_values=255)
    rows, across, height, width, _ = padded.shape
    sheet = Image.fromarray(padded.transpose(0, 2, 1, 3, 4).reshape(rows * height, across * width, 3))
    return sheet.resize((sheet.width * scale, sheet.height * scale), Image.Resampling.NEAREST)


def main() -> None:
    """Make the table and the contact sheet."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    parser = argparse.ArgumentParser(prog="python -m bench.quality.table", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=Path("demo/checkpoint/creatures.safetensors"))
    parser.add_argument("--work", type=Path, default=Path(".snapshots"), help="data sets for the classifier")
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("docs"))
    options = parser.parse_args()
    cached_classifier(options.work)  # trained once, before the processes ask for it
    with ProcessPoolExecutor(options.processes) as pool:
        rows = pool.map(partial(judge, options.checkpoint, options.work, options.pairs), METHODS)
        results = dict(zip(METHODS, rows))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "proving-ground.md").write_text(report(results, options.pairs), encoding="utf-8")
    contact_sheet(results).save(options.out / "proving-ground.png")
    log.info("written: %s", options.out / "proving-ground.md")


if __name__ == "__main__":
    main()
