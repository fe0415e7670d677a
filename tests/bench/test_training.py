"""Parts of the training that are cheap to check: rates over time, snapshots, schedule, tokenizer, measures."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.training.schedule import schedule_buffers
from bench.training.timed import Clock, learning_rate, load_snapshot, save_snapshot, usable_cores


def test_rate_rises_then_reaches_zero() -> None:
    assert learning_rate(1.0, 0.0, step=0) == pytest.approx(0.01)
    assert learning_rate(1.0, 0.0, step=500) == 1.0
    assert learning_rate(1.0, 0.5, step=500) == pytest.approx(0.5)
    assert learning_rate(1.0, 1.3, step=500) == pytest.approx(0.0)


def test_cores_are_counted_on_every_system(monkeypatch: pytest.MonkeyPatch) -> None:
    assert usable_cores() >= 1
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert usable_cores() == os.cpu_count()


def test_clock_counts_earlier_sessions() -> None:
    assert Clock(minutes=2, spent=60).progress == pytest.approx(0.5, abs=1e-3)


def test_snapshot_restores_the_random_state(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    assert load_snapshot(path) is None
    torch.manual_seed(3)
    save_snapshot(path, {"step": 7, "seconds": 1.0})
    expected = torch.rand(4)
    state = load_snapshot(path)
    assert state is not None and state["step"] == 7
    assert torch.equal(torch.rand(4), expected)


def test_schedule_is_stable_diffusions() -> None:
    buffers = schedule_buffers()
    assert all(values.shape == (1000,) and values.dtype == torch.float32 for values in buffers.values())
    assert buffers["alphas_cumprod"][0] == pytest.approx(0.99915, abs=1e-5)
    assert buffers["alphas_cumprod"][-1] == pytest.approx(0.00466, abs=1e-5)


@pytest.mark.skipif(find_spec("open_clip") is None, reason="open_clip ships CLIP's merges")
def test_tokenizer_is_a_prefix_of_clips(tmp_path: Path) -> None:
    from bench.training.tokenizer import VOCABULARY, write_tokenizer

    write_tokenizer(tmp_path, {"model_type": "clip_text_model"})
    vocabulary = json.loads((tmp_path / "vocab.json").read_text(encoding="utf-8"))
    # Numbers of CLIP itself: the prefix keeps them.
    assert (vocabulary["!"], vocabulary[",</w>"], vocabulary["a</w>"], vocabulary["cat</w>"]) == (0, 267, 320, 2368)
    assert (vocabulary["<|startoftext|>"], vocabulary["<|endoftext|>"]) == (VOCABULARY - 2, VOCABULARY - 1)


def test_distance_of_shifted_colours() -> None:
    from bench.quality.measures import sliced_wasserstein

    cloud = np.random.default_rng(0).normal(size=(500, 3))
    assert sliced_wasserstein(cloud, cloud) == 0
    assert sliced_wasserstein(cloud, cloud + np.array([10, 0, 0])) == pytest.approx(10, rel=0.2)


def test_identity_distance_sees_identity_not_layout() -> None:
    from bench.quality.measures import background_distance, identity_distance
    from bench.world import Layout, Scene, random_identity, render

    rng = np.random.default_rng(0)
    standing, lying = Layout("cat", "standing", "left"), Layout("cat", "lying", "left")
    same, different, near, far = [], [], [], []
    for _ in range(20):
        own, other = random_identity(rng), random_identity(rng)
        source = render(Scene(own, standing))
        for identity, identities, backgrounds in ((own, same, near), (other, different, far)):
            target = render(Scene(identity, lying))
            identities.append(identity_distance(*source, *target))
            backgrounds.append(background_distance(*source, *target))
    # Not zero for the same identity: another pose shows other shares of its stripes and spots.
    assert np.mean(same) < 0.3 * np.mean(different)
    assert np.mean(near) < 0.1 * np.mean(far)
