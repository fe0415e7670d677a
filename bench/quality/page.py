"""The page that the command writes: Markdown, and contact sheets as pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from bench.quality.classifier import classifier
from bench.quality.figures import Figures, figures, half_width, interval, share
from bench.quality.measures import ghost_distance, psnr
from bench.quality.pairs import Pair
from bench.quality.rows import Pictures, Row

HEAD = (
    "| target | identity distance | against {first} | background distance | PSNR outside | layout right "
    "| silhouette IoU: target | source |",
    "| --- | --- | --- | --- | --- | --- | --- | --- |",
)


def edit_table(pairs: Sequence[Pair], painted: Mapping[Row, Pictures], painted_sources: bool = True) -> list[str]:
    """A line per row; the first is what the others are compared with."""
    judge = classifier()
    measured = {row: figures(pairs, pictures, judge) for row, pictures in painted.items()}
    first = next(iter(measured))
    baseline = measured[first].identity.mean()
    head = HEAD[0].format(first=first.name)
    lines = [head, HEAD[1], *(_line(row, each, baseline) for row, each in measured.items())]
    lines += ["", _best(measured)]
    return lines + _exactly_the_same(painted, painted[first]) if painted_sources else lines


def ghost_table(pairs: Sequence[Pair], painted: Mapping[Row, Pictures]) -> list[str]:
    """`edit_table`, and then what the targets show of the sources' creatures in the place of those."""
    lines = edit_table(pairs, painted)
    lines += ["", "| target | distance from its own background where only the source has a creature |", "| --- | --- |"]
    for row, pictures in painted.items():
        lines.append(f"| {row.name} | {interval(_ghosts(pairs, pictures.targets))} |")
    sources = next(iter(painted.values())).sources
    return [*lines, f"| the source itself | {interval(_ghosts(pairs, sources))} |"]


def _ghosts(pairs: Sequence[Pair], pictures: np.ndarray) -> np.ndarray:
    values = np.array([ghost_distance(picture, p.target, p.source) for picture, p in zip(pictures, pairs)])
    return values[~np.isnan(values)]


def _best(measured: Mapping[Row, Figures]) -> str:
    """The row of the lowest identity distance against the first one, and whether their intervals are apart."""
    first, *others = measured
    best = min(others, key=lambda row: measured[row].identity.mean())
    (low, high), (base_low, base_high) = (_ends(measured[row].identity) for row in (best, first))
    apart = "do not overlap" if high < base_low or base_high < low else "overlap"
    return (
        f"Nearest to the source: *{best.name}*, {low:.1f} to {high:.1f}, where *{first.name}* has {base_low:.1f} to "
        f"{base_high:.1f}: these intervals {apart}. Its layout is right in {share(measured[best].right)} of the "
        f"targets, there in {share(measured[first].right)}."
    )


def _ends(values: np.ndarray) -> tuple[float, float]:
    mean, half = float(values.mean()), half_width(values)
    return mean - half, mean + half


def _exactly_the_same(painted: Mapping[Row, Pictures], first: Pictures) -> list[str]:
    """Which rows changed a source, and which changed no target."""
    worst = {row.name: np.abs(each.sources.astype(int) - first.sources).max() for row, each in painted.items()}
    changed = [f"*{name}* (up to {grey} grey levels apart)" for name, grey in worst.items() if grey]
    same = [row.name for row, each in painted.items() if np.array_equal(each.targets, first.targets)][1:]
    but = f", but for those of {'; '.join(changed)}" if changed else ""
    said = [f"The sources of every line are bit-identical to the first line's{but}."]
    return said + [f"The targets of *{name}* are bit-identical to the first line's." for name in same]


def identity_of(pairs: Sequence[Pair], painted: Mapping[Row, Pictures], row: Row) -> tuple[float, float]:
    """Mean identity distance of a row, and half the width of its interval."""
    values = figures(pairs, painted[row], classifier()).identity
    return float(values.mean()), half_width(values)


def _line(row: Row, figures: Figures, baseline: float) -> str:
    cells = (
        row.name,
        interval(figures.identity),
        f"{100 * (figures.identity.mean() / baseline - 1):+.0f}%",
        interval(figures.background),
        interval(figures.kept_outside),
        share(figures.right),
        interval(figures.shape_of_target, 2),
        interval(figures.shape_of_source, 2),
    )
    return f"| {' | '.join(cells)} |"


def reconstruction_table(pairs: Sequence[Pair], painted: Mapping[Row, Pictures]) -> list[str]:
    """PSNR of each row's targets to its sources, and how far it is at most from the first row's, picture by picture."""
    lines = ["| source branch | PSNR | largest difference to the round trip |", "| --- | --- | --- |"]
    measured = {row: np.array([*map(psnr, each.sources, each.targets)]) for row, each in painted.items()}
    round_trip = next(iter(measured.values()))
    for row, values in measured.items():
        lines.append(f"| {row.name} | {interval(values)} | {np.abs(values - round_trip).max():.2f} |")
    return lines


def contact_sheet(columns: list[np.ndarray], scale: int = 2) -> Image.Image:
    """Columns of pictures, each uint8 (pairs, 64, 64, 3), side by side: one line per pair."""
    padded = np.pad(np.stack(columns, axis=1), ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)), constant_values=255)
    rows, across, height, width, _ = padded.shape
    sheet = Image.fromarray(padded.transpose(0, 2, 1, 3, 4).reshape(rows * height, across * width, 3))
    return sheet.resize((sheet.width * scale, sheet.height * scale), Image.Resampling.NEAREST)


def sheet_of(shown: Sequence[Row], painted: Mapping[Row, Pictures], lines: int = 8) -> tuple[Image.Image, str] | None:
    """The contact sheet of the shown rows and what its columns are; `None` if nothing is there to show."""
    rows = [row for row in shown if row in painted]
    if not rows:
        return None
    columns = [painted[rows[0]].sources[:lines], *(painted[row].targets[:lines] for row in rows)]
    return contact_sheet(columns), f"Columns: source; then {'; '.join(row.name for row in rows)}."
