"""How far two pictures are apart in identity and in background; colours in CIE Lab."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from PIL import Image, ImageFilter

from bench.world import Duet, Layout, Scene, render
from bench.world.identity import BODY_COLOURS, GROUND_COLOURS, SKY_COLOURS, Identity, srgb_to_lab
from bench.world.render import HORIZON

DIRECTIONS = 64
QUANTILES = 128


def _directions() -> np.ndarray:
    """Fixed unit vectors (DIRECTIONS, 3): the measure has no randomness of its own."""
    vectors = np.random.default_rng(0).normal(size=(DIRECTIONS, 3))
    unit: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def sliced_wasserstein(first: np.ndarray, second: np.ndarray) -> float:
    """Sliced 1-Wasserstein distance of two clouds of Lab colours (n, 3) and (m, 3), in Lab units.

    The mean over directions is doubled: a pure shift by d then gives d, as in three dimensions |cos| averages 1/2.
    """
    levels = (np.arange(QUANTILES) + 0.5) / QUANTILES
    directions = _directions()
    one, two = (np.quantile(cloud @ directions.T, levels, axis=0) for cloud in (first, second))
    return float(2 * np.abs(one - two).mean())


def identity_distance(first: np.ndarray, first_mask: np.ndarray, second: np.ndarray, second_mask: np.ndarray) -> float:
    """Distance of the foregrounds' colour distributions; pictures uint8 (h, w, 3), masks bool (h, w)."""
    return sliced_wasserstein(srgb_to_lab(first[first_mask]), srgb_to_lab(second[second_mask]))


def background_distance(
    first: np.ndarray, first_mask: np.ndarray, second: np.ndarray, second_mask: np.ndarray
) -> float:
    """Mean Lab difference where both pictures show background; pictures uint8 (h, w, 3), foreground masks bool."""
    shared = ~(first_mask | second_mask)
    difference = srgb_to_lab(first[shared]) - srgb_to_lab(second[shared])
    return float(np.linalg.norm(difference, axis=-1).mean())


def ghost_distance(picture: np.ndarray, drawn: Layout, elsewhere: Layout) -> float:
    """What a picture shows of a creature that is not its own: mean Lab distance from the picture's own sky or ground.

    Args:
        picture: uint8 (64, 64, 3), which shows a creature of the layout `drawn`.
        elsewhere: the other creature's layout. Measured is where it alone would stand; `nan` if that is nowhere.
    """
    own, other = covering_mask(drawn), covering_mask(elsewhere)
    place = expected_mask(elsewhere) & ~own & ~_ALWAYS_THERE
    lab, away = srgb_to_lab(picture), []
    for half in (_SKY, ~_SKY):
        background = np.median(lab[half & ~own & ~other & ~_ALWAYS_THERE], axis=0)
        away.append(np.linalg.norm(lab[place & half] - background, axis=-1))
    return float(np.concatenate(away).mean()) if place.any() else np.nan


def psnr(first: np.ndarray, second: np.ndarray, where: np.ndarray | None = None) -> float:
    """Peak signal-to-noise ratio in dB of pictures uint8 (h, w, 3), within the mask `where`; infinite if equal."""
    squared = (first.astype(np.float64) - second) ** 2
    error = (squared if where is None else squared[where]).mean()
    return float(10 * np.log10(255**2 / error)) if error else np.inf


@cache
def expected_mask(drawn: Layout | Duet, species: str | None = None, margin: int = 1) -> np.ndarray:
    """Where a creature must be, bool (64, 64) or (64, 128): the unjittered mask, `margin` pixels narrower.

    Args:
        species: which one, of a duet.
    """
    layout = drawn.of(species or "") if isinstance(drawn, Duet) else drawn
    plain = Identity(BODY_COLOURS[0], "plain", BODY_COLOURS[0], SKY_COLOURS[0], GROUND_COLOURS[0])
    mask = render(Scene(plain, layout, half=isinstance(drawn, Duet)))[1]
    if isinstance(drawn, Duet):
        mask = np.pad(mask, ((0, 0), (0, 64) if layout.place == "left" else (64, 0)))
    picture = Image.fromarray(mask.astype(np.uint8) * 255)
    return np.asarray(picture.filter(ImageFilter.MinFilter(2 * margin + 1))) > 0


@cache
def covering_mask(drawn: Layout | Duet, species: str | None = None, margin: int = 3) -> np.ndarray:
    """Where a creature may be, bool (64, 64) or (64, 128): the unjittered mask, `margin` pixels wider."""
    widened = Image.fromarray(expected_mask(drawn, species, 0).astype(np.uint8) * 255)
    return np.asarray(widened.filter(ImageFilter.MaxFilter(2 * margin + 1))) > 0


def silhouette(picture: np.ndarray, layouts: Sequence[Layout], threshold: float = 18.0) -> np.ndarray:
    """Where a picture shows something else than sky or ground, bool (64, 64): within the reach of any of `layouts`.

    Sky and ground are one colour each, read off where none of the layouts puts a creature. The sun, the post and the
    frame, which every picture has, are left out.
    """
    reach = np.any([covering_mask(layout) for layout in layouts], axis=0)
    lab, found = srgb_to_lab(picture), np.zeros(picture.shape[:2], bool)
    for half in (_SKY, ~_SKY):
        elsewhere = half & ~reach & ~_ALWAYS_THERE
        away = np.linalg.norm(lab - np.median(lab[elsewhere], axis=0), axis=-1) > threshold
        found |= away & half
    return found & reach & ~_ALWAYS_THERE


def stance(picture: np.ndarray, layout: Layout) -> np.ndarray:
    """Where a creature of `layout` stands and how large it is, (3,) in pixels: its silhouette's centre from the left,
    from the top, and the square root of its area; `nan` where the picture shows none."""
    down, across = np.nonzero(silhouette(picture, [layout]))
    if not len(across):
        return np.full(3, np.nan)
    return np.array([across.mean(), down.mean(), np.sqrt(len(across))])


def overlap(found: np.ndarray, layout: Layout) -> float:
    """Intersection over union of a :func:`silhouette` with where a creature of `layout` stands."""
    wanted = expected_mask(layout, margin=0) & ~_ALWAYS_THERE
    return float((found & wanted).sum() / (found | wanted).sum())


def _always_there() -> np.ndarray:
    """Sun, post and frame with a margin of 2 pixels, and the horizon's two lines, bool (64, 64)."""
    mask = np.zeros((64, 64), bool)
    mask[1:17, 1:17] = mask[12:52, 53:63] = mask[41:43] = True
    mask[:, :3] = mask[:, -3:] = True
    return mask


_ALWAYS_THERE = _always_there()
_SKY = np.arange(64)[:, None] < np.full((1, 64), HORIZON)
