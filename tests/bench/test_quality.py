"""Parts of the tables that are cheap to check: what a row is kept under, silhouettes, intervals."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from bench.quality.classifier import halves, numbers_of_halves
from bench.quality.duets import duet_table
from bench.quality.figures import correlation, share
from bench.quality.measures import ghost_distance, overlap, silhouette, stance
from bench.quality.pairs import Pair, lots, random_pairs, repeated_pairs, swapped_pairs
from bench.quality.rows import Pictures, Row, Store
from bench.quality.stances import renders, stance_table, stances
from bench.world import Layout, Scene, all_layouts, random_halves, random_identity, random_scene, render, render_duet


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


def test_creatures_change_places_each_in_its_pose() -> None:
    for pair in swapped_pairs(30):
        for species in (pair.subject, pair.companion):
            before, after = pair.source.of(species), pair.target.of(species)
            assert (before.species, before.pose) == (after.species, after.pose)
            assert before.place != after.place


def test_halves_are_named_in_the_order_they_are_cut() -> None:
    pair = swapped_pairs(1)[0]
    drawn = [random_halves(duet, np.random.default_rng(1)) for duet in (pair.source, pair.target)]
    cut = halves(np.stack([render_duet(each)[0] for each in drawn]))
    layouts = [all_layouts()[number] for number in numbers_of_halves([pair.source, pair.target])]
    assert layouts == [pair.source.left, pair.source.right, pair.target.left, pair.target.right]
    assert all(np.array_equal(half, render(scene)[0]) for half, scene in zip(cut, [*drawn[0], *drawn[1]]))


def test_who_has_whose_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Targets whose creatures have taken each other's colours, whose subject alone has, and who keep their own."""
    monkeypatch.setattr("bench.quality.duets.layout_right", lambda pairs, targets: np.ones(len(pairs), bool))
    pairs, sources = swapped_pairs(4), []
    targets: dict[str, list[np.ndarray]] = {"both taken": [], "subject's taken": [], "kept": []}
    for pair in pairs:
        subject, companion = random_halves(pair.source, np.random.default_rng(pair.seed))
        sources.append(render_duet((subject, companion))[0])
        for name, left, right in (
            ("both taken", subject, companion),
            ("subject's taken", companion, companion),
            ("kept", companion, subject),
        ):
            moved = (replace(left, layout=pair.target.left), replace(right, layout=pair.target.right))
            targets[name].append(render_duet(moved)[0])
    painted = {Row(name, no_paint): Pictures(np.stack(sources), np.stack(each)) for name, each in targets.items()}
    lines = [line.split("|") for line in duet_table(pairs, painted)[2:5]]
    found = [[float(cell.split()[0]) for cell in (line[2], line[4], line[6], line[7])] for line in lines]
    far = [[distance > least for distance, least in zip(row, (25, 25, 5, 5))] for row in found]
    assert far == [[True, True, True, False], [True, False, False, False], [False, False, False, False]]
    assert max(found[2]) < 8


def test_a_stance_is_the_creatures_place_and_size() -> None:
    layout, identity = Layout("bird", "lying", "left"), random_identity(np.random.default_rng(2))
    plain = Scene(identity, layout)
    usual, moved, grown = (
        stance(render(scene)[0], layout)
        for scene in (plain, replace(plain, shift=(1.0, -1.0)), replace(plain, scale=1.04))
    )
    assert moved - usual == pytest.approx([1, -1, 0], abs=0.3)
    assert grown[2] / usual[2] == pytest.approx(1.04, abs=0.02)
    assert np.isnan(stance(np.zeros((64, 64, 3), np.uint8), layout)).all()


def test_stances_follow_places_and_sizes_not_identities() -> None:
    pairs = repeated_pairs(60)
    assert all(pair.source == pair.target for pair in pairs) and len({pair.source for pair in pairs}) > 10
    other = renders(pairs)["renders: same identity, another place and size"]
    lines = stance_table(pairs, {Row("unlike", no_paint): other})[2:]
    unlike, coats, places = ([float(cell.split()[0]) for cell in line.split("|")[3:-1:2]] for line in lines)
    assert unlike == coats
    assert max(map(abs, coats)) < 0.35
    assert min(places) > 0.8
    found, _ = stances(pairs, other)
    assert np.abs(found.mean(axis=0)).max() < 0.3  # what the captions say is taken off


def test_pictures_without_a_creature_are_left_out_of_stances() -> None:
    pair = Pair(Layout("cat", "lying", "left"), Layout("cat", "lying", "left"), 0)
    drawn = render(random_scene(pair.source, np.random.default_rng(0)))[0]
    pictures = Pictures(np.stack([drawn, drawn]), np.stack([drawn, np.zeros_like(drawn)]))
    assert [len(each) for each in stances([pair, pair], pictures)] == [1, 1]


def test_a_correlation_has_an_interval() -> None:
    values = np.arange(28.0)
    assert correlation(values, values % 2) == "0.06 (-0.32 to 0.43)"
