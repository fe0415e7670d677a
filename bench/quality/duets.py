"""The figures of two creatures that change places: how much of its own identity each one keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from bench.quality.classifier import classifier_of_halves, halves, layout_targets, numbers_of_halves
from bench.quality.figures import interval, share
from bench.quality.measures import background_distance, covering_mask, expected_mask, identity_distance
from bench.quality.pairs import DuetPair
from bench.quality.rows import Pictures, Row
from bench.training.vae import to_tensor

HEAD = (
    "| target | subject: identity distance | against {first} | companion: identity distance | against {first} "
    "| background: all but the subject | sky and ground | layout right |",
    "| --- | --- | --- | --- | --- | --- | --- | --- |",
)


def duet_table(pairs: Sequence[DuetPair], painted: Mapping[Row, Pictures]) -> list[str]:
    """A line per row; the first is what the others are compared with. Then each masked row against the unmasked one."""
    measured = {
        row: np.array([*map(_of_pair, pairs, pictures.sources, pictures.targets)]) for row, pictures in painted.items()
    }
    first, unmasked, *masked = measured
    baseline = measured[first][:, :2].mean(axis=0)
    lines = [HEAD[0].format(first=first.name), HEAD[1]]
    for row, values in measured.items():
        subject, companion, background, scenery = (interval(column) for column in values.T)
        against = [f"{change:+.0f}%" for change in 100 * (values[:, :2].mean(axis=0) / baseline - 1)]
        right = share(layout_right(pairs, painted[row].targets))
        cells = (row.name, subject, against[0], companion, against[1], background, scenery, right)
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", f"| pair by pair, less *{unmasked.name}* | subject | companion | background | sky and ground |"]
    lines.append("| --- | --- | --- | --- | --- |")
    for row in masked:
        changes = (interval(column) for column in (measured[row] - measured[unmasked]).T)
        lines.append(f"| {row.name} | {' | '.join(changes)} |")
    return lines


def layout_right(pairs: Sequence[DuetPair], targets: np.ndarray) -> np.ndarray:
    """Whether both creatures of each target are, as the classifier sees them, what and where the caption says."""
    judge = classifier_of_halves()
    with torch.no_grad():
        answers = torch.stack([part.argmax(dim=1) for part in judge(to_tensor(halves(targets)))], dim=1)
    wanted = layout_targets(numbers_of_halves([pair.target for pair in pairs]))
    right: np.ndarray = (answers == wanted).reshape(len(pairs), -1).all(dim=1).numpy()
    return right


def _of_pair(pair: DuetPair, source: np.ndarray, target: np.ndarray) -> tuple[float, ...]:
    """Identity distances of subject and companion, then those of what is not the subject, and of what is neither."""
    subjects, companions = (
        [covering_mask(drawn, species) for drawn in (pair.source, pair.target)]
        for species in (pair.subject, pair.companion)
    )
    before, after = (subject | companion for subject, companion in zip(subjects, companions))
    return (
        *creature_distances(pair, source, target),
        identity_distance(source, ~subjects[0], target, ~subjects[1]),
        background_distance(source, before, target, after),
    )


def creature_distances(pair: DuetPair, source: np.ndarray, target: np.ndarray) -> tuple[float, float]:
    """Identity distances of subject and companion, each between its places in the source and in the target."""

    def moved(species: str) -> float:
        before, after = expected_mask(pair.source, species), expected_mask(pair.target, species)
        return identity_distance(source, before, target, after)

    return moved(pair.subject), moved(pair.companion)
