"""Parts of the tables that are cheap to check: what a row is kept under, silhouettes, intervals."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from bench.quality.figures import share
from bench.quality.measures import ghost_distance, overlap, silhouette
from bench.quality.pairs import lots, random_pairs
from bench.quality.rows import Pictures, Row, Store
from bench.world import Layout, Scene, random_identity, random_scene, render


def no_paint(model: object, pairs: object) -> Pictures:
    raise AssertionError("kept rows are not painted")


def test_a_row_is_kept_by_name_pairs_steps_and_checkpoint(tmp_path: Path) -> None:
    checkpoint, pairs, row = tmp_path / "model", random_pairs(2), Row("mutual, S=4", no_paint)
    checkpoint.write_bytes(b"weights")
    store = Store(tmp_path / "rows", checkpoint, 50)
    lot = lots(pairs)[0]
    assert not store.path(row, lot).exists()
    painted = Pictures(np.zeros((2, 64, 64, 3), np.uint8), np.ones((2, 64, 64, 3), np.uint8))
    store.save(row, lot, painted)
    kept = store.load(row, pairs)
    assert np.array_equal(kept.targets, painted.targets)
    assert not store.path(Row("mutual, S=5", no_paint), lot).exists()
    assert not store.path(row, random_pairs(3)).exists()
    assert not dataclasses.replace(store, steps=20).path(row, lot).exists()
    checkpoint = tmp_path / "another"
    checkpoint.write_bytes(b"others")
    assert not dataclasses.replace(store, checkpoint=checkpoint).path(row, lot).exists()


def test_pairs_come_back_from_their_lots_in_order(tmp_path: Path) -> None:
    checkpoint, pairs, row = tmp_path / "model", random_pairs(50), Row("plain", no_paint)
    checkpoint.write_bytes(b"weights")
    store = Store(tmp_path / "rows", checkpoint, 50)
    for lot in lots(pairs):
        seeds = np.array([pair.seed for pair in lot], np.uint8)
        store.save(row, lot, Pictures(seeds, 2 * seeds))
    assert store.load(row, pairs).sources.tolist() == list(range(50))


def test_the_first_pairs_of_more_pairs_are_the_same() -> None:
    assert random_pairs(200)[:20] == random_pairs(20)


def test_a_silhouette_is_found_where_the_creature_is() -> None:
    layouts = (Layout("cat", "jumping", "right"), Layout("cat", "standing", "left"))
    picture = render(random_scene(layouts[0], np.random.default_rng(3)))[0]
    found = silhouette(picture, layouts)
    assert overlap(found, layouts[0]) > 0.8
    assert overlap(found, layouts[1]) < 0.4


def test_a_ghost_is_a_creature_in_the_place_of_another() -> None:
    drawn, elsewhere = Layout("cat", "standing", "right"), Layout("cat", "standing", "left")
    identity = random_identity(np.random.default_rng(5))
    assert ghost_distance(render(Scene(identity, drawn))[0], drawn, elsewhere) == 0
    assert ghost_distance(render(Scene(identity, elsewhere))[0], drawn, elsewhere) > 30
    assert np.isnan(ghost_distance(render(Scene(identity, drawn))[0], drawn, drawn))


def test_a_share_of_all_is_not_certain() -> None:
    assert share(np.ones(200, bool)) == "100.0% (98.1 to 100.0)"
