"""The method on the trained checkpoint, judged on pictures: what random weights cannot show."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.quality.duets import creature_distances
from bench.quality.masked import by_truth
from bench.quality.measures import expected_mask, identity_distance
from bench.quality.painting import DUET_PLAN, controlled
from bench.quality.pairs import swapped_pairs
from bench.world import Layout
from lib_masactrl.branches import branches_in_batch
from lib_masactrl.host.standalone.checkpoint import DiffusionModel, load_checkpoint
from lib_masactrl.host.standalone.sampling import BranchPrompts, SamplingPlan, control_for, sample_latents
from lib_masactrl.settings import MasaCtrlSettings

CHECKPOINT = Path(__file__).parent.parent / "demo" / "checkpoint" / "creatures.safetensors"
SOURCE, TARGET = Layout("cat", "standing", "left"), Layout("cat", "jumping", "right")
#: Four pairs whose sources and plain targets have clearly different coats.
SEEDS = (1, 2, 3, 4)
PLAN = SamplingPlan("DDIM", 20, 7.5, 64, 64)


@pytest.fixture(scope="module")
def model() -> DiffusionModel:
    return load_checkpoint(CHECKPOINT, "cpu")


def pictures(model: DiffusionModel, **settings: object) -> tuple[np.ndarray, np.ndarray]:
    """Targets and sources, each uint8 (seeds, 64, 64, 3)."""
    asked = MasaCtrlSettings(enabled=True, source_prompt=SOURCE.caption, **settings)
    branches = branches_in_batch(len(SEEDS), 1)
    prompts = tuple(SOURCE.caption if branch.is_source else TARGET.caption for branch in branches)
    control = control_for(model, asked, PLAN.steps)
    decoded = model.decode(sample_latents(model, BranchPrompts(branches, prompts, SEEDS), PLAN, control))
    both = (decoded.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return both[: len(SEEDS)], both[len(SEEDS) :]


def distances(targets: np.ndarray, sources: np.ndarray) -> np.ndarray:
    """Identity distance (targets, sources) of every target to every source."""
    inside_target, inside_source = expected_mask(TARGET), expected_mask(SOURCE)
    return np.array([[identity_distance(s, inside_source, t, inside_target) for s in sources] for t in targets])


def test_control_brings_the_sources_identity_into_the_targets_layout(model):
    """Keys and values from the wrong row, of the wrong steps or of the wrong layers leave the target its own coat."""
    plain, sources = pictures(model, start_step=PLAN.steps)
    controlled, same_sources = pictures(model, start_step=2)
    assert np.array_equal(same_sources, sources)
    own = distances(controlled, sources).diagonal()
    assert own.mean() < 0.4 * distances(plain, sources).diagonal().mean()
    # Each target has the coat of its own source, not of another group's.
    assert (distances(controlled, sources).argmin(axis=1) == np.arange(len(SEEDS))).sum() >= len(SEEDS) - 1


def test_a_later_start_keeps_less_of_the_source(model):
    own = []
    for start in (2, 10, PLAN.steps):
        targets, sources = pictures(model, start_step=start)
        own.append(distances(targets, sources).diagonal().mean())
    assert own[0] < own[1] < own[2]


def test_early_layers_alone_change_little(model, monkeypatch):
    """Controlling the layers before 10 instead of those from 10 on must not pass for the method."""
    from lib_masactrl.schedule import ControlWindow

    monkeypatch.setattr(ControlWindow, "covers", lambda self, step, layer: self.covers_step(step) and layer < 10)
    early, sources = pictures(model, start_step=2)
    monkeypatch.undo()
    late, _ = pictures(model, start_step=2)
    assert distances(early, sources).diagonal().mean() > 1.5 * distances(late, sources).diagonal().mean()


def test_masks_keep_two_creatures_apart_that_change_places():
    """Masks of the wrong branch, foreground and background swapped or no masks at all leave them mixed."""
    duets, pairs = load_checkpoint(CHECKPOINT.with_stem("duets"), "cpu"), swapped_pairs(6)
    plan = replace(DUET_PLAN, steps=PLAN.steps)
    unmasked, masked = (
        np.array([creature_distances(pair, *each) for pair, *each in zip(pairs, made.sources, made.targets)])
        for made in (
            controlled(duets, pairs, plan, start_step=4, start_layer=10),
            by_truth(duets, pairs, plan=plan),
        )
    )
    assert (masked.mean(axis=0) < 0.8 * unmasked.mean(axis=0)).all()
