"""The procedural world: the same seed gives the same picture, masks are exact, captions say only the layout."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from bench.quality.measures import covering_mask, expected_mask
from bench.world import (
    Duet,
    Layout,
    Scene,
    all_captions,
    all_duet_captions,
    all_duets,
    all_layouts,
    random_caption,
    random_duet_caption,
    random_halves,
    random_identity,
    random_scene,
    render,
    render_duet,
)
from bench.world.identity import MIN_BACKGROUND_DISTANCE, lab_distance

CAT = Layout("cat", "standing", "left")


def test_same_seed_same_picture() -> None:
    first, second = (render(random_scene(CAT, np.random.default_rng(5))) for _ in range(2))
    assert np.array_equal(first[0], second[0])
    assert np.array_equal(first[1], second[1])


@pytest.mark.parametrize("size", [64, 128])
@pytest.mark.parametrize("layout", all_layouts(), ids=lambda layout: layout.caption)
def test_creature_is_large_and_on_its_side(layout: Layout, size: int) -> None:
    picture, mask = render(Scene(random_identity(np.random.default_rng(0)), layout), size)
    assert picture.shape == (size, size, 3)
    assert picture.dtype == np.uint8
    assert 0.14 < mask.mean() < 0.36
    centre = np.nonzero(mask)[1].mean() / size
    assert centre < 0.47 if layout.place == "left" else centre > 0.53


def test_mask_is_where_the_identity_shows() -> None:
    """Changing only the body's colour changes pixels inside the mask and on its anti-aliased edge, nowhere else."""
    scene = random_scene(CAT, np.random.default_rng(1))
    plain = dataclasses.replace(scene.identity, pattern="plain", body=(255, 0, 0))
    other = dataclasses.replace(plain, body=(0, 0, 255))
    first, mask = render(dataclasses.replace(scene, identity=plain))
    second, _ = render(dataclasses.replace(scene, identity=other))
    changed = (first.astype(int) != second).any(axis=-1)
    assert (np.abs(first.astype(int) - second).max(axis=-1)[mask] > 100).mean() > 0.93  # all but the eye
    edge = changed & ~mask
    near = np.zeros_like(mask)
    for shift_y in (-1, 0, 1):
        for shift_x in (-1, 0, 1):
            near |= np.roll(mask, (shift_y, shift_x), axis=(0, 1))
    assert not (edge & ~near).any()


def test_silhouettes_differ_between_layouts() -> None:
    identity = random_identity(np.random.default_rng(0))
    masks = [render(Scene(identity, layout))[1] for layout in all_layouts()]
    for index, first in enumerate(masks):
        for second in masks[:index]:
            assert (first & second).sum() / (first | second).sum() < 0.75


def test_creatures_stand_out() -> None:
    for seed in range(50):
        identity = random_identity(np.random.default_rng(seed))
        for colour in (identity.body, identity.pattern_colour):
            for background in (identity.sky, identity.ground):
                assert lab_distance(colour, background) >= MIN_BACKGROUND_DISTANCE


def test_captions() -> None:
    assert CAT.caption == "a cat standing on the left"
    captions = all_captions()
    assert captions[0] == ""
    assert len(set(captions)) == len(captions)
    rng = np.random.default_rng(0)
    drawn = [random_caption(CAT, rng) for _ in range(500)]
    assert set(drawn) == {"", CAT.caption, *CAT.partial_captions}
    assert 0.05 < drawn.count("") / len(drawn) < 0.15


def test_unknown_word_is_refused() -> None:
    with pytest.raises(ValueError, match="dog"):
        Layout("dog", "standing", "left")


DUET = Duet(CAT, Layout("bird", "lying", "right"))


def test_a_duet_has_a_creature_in_each_half() -> None:
    halves = random_halves(DUET, np.random.default_rng(2))
    picture, mask = render_duet(halves)
    assert picture.shape == (64, 128, 3)
    assert mask.shape == (64, 128)
    assert halves[0].identity.sky == halves[1].identity.sky
    assert halves[0].identity.ground == halves[1].identity.ground
    for side, half, species in ((slice(0, 64), halves[0], "cat"), (slice(64, 128), halves[1], "bird")):
        assert (np.abs(picture[:, side][mask[:, side]].astype(int) - half.identity.body).max(axis=-1) < 8).mean() > 0.3
        found = expected_mask(DUET, species, margin=0)
        assert found[:, side].any()
        assert (found & mask).sum() / (found | (mask & covering_mask(DUET, species))).sum() > 0.75


def test_the_edges_of_the_world_are_seen_once() -> None:
    """The sun in the left half alone, the post in the right half alone."""
    picture, _ = render_duet(random_halves(DUET, np.random.default_rng(2)))
    single, _ = render(random_scene(CAT, np.random.default_rng(2)))
    assert np.array_equal(picture[4:8, 6:12], single[4:8, 6:12])
    assert not np.array_equal(picture[4:8, 70:76], single[4:8, 6:12])
    assert np.array_equal(picture[16:38, 120:124], single[16:38, 56:60])
    assert not np.array_equal(picture[16:38, 56:60], single[16:38, 56:60])


def test_a_duets_captions() -> None:
    both = (
        "a cat standing on the left and a bird lying on the right",
        "a bird lying on the right and a cat standing on the left",
    )
    assert DUET.captions == both
    assert DUET.caption == both[0]
    assert "a bird and a cat" in DUET.partial_captions
    assert len(all_duets()) == 54
    assert all(duet.left.species != duet.right.species for duet in all_duets())
    rng = np.random.default_rng(0)
    drawn = [random_duet_caption(DUET, rng) for _ in range(800)]
    assert set(drawn) == {"", *both, *DUET.partial_captions}
    assert set(drawn) <= set(all_duet_captions())
    assert 0.6 < sum(caption in both for caption in drawn) / len(drawn) < 0.8
