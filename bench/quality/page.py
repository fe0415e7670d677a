"""The page that the command writes: Markdown, and contact sheets as pictures."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from PIL import Image

from bench.quality.figures import Figures, interval, share
from bench.quality.rows import Pictures, Row
from bench.quality.sections import Section

HEAD = (
    "| target | identity distance | against {first} | background distance | layout right | silhouette IoU |",
    "| --- | --- | --- | --- | --- | --- |",
)


def table(section: Section, measured: Mapping[Row, Figures]) -> list[str]:
    """The section's rows that were measured, in Markdown; the first of them is the baseline."""
    rows = [row for row in section.rows if row in measured]
    if not rows:
        return []
    baseline = measured[rows[0]].identity.mean()
    return [HEAD[0].format(first=rows[0].name), *HEAD[1:], *(_line(row, measured[row], baseline) for row in rows)]


def _line(row: Row, figures: Figures, baseline: float) -> str:
    change = 100 * (figures.identity.mean() / baseline - 1)
    cells = (
        row.name,
        interval(figures.identity),
        f"{change:+.0f}%",
        interval(figures.background),
        share(figures.right),
        interval(figures.shape_of_target, 2),
    )
    return f"| {' | '.join(cells)} |"


def contact_sheet(columns: list[np.ndarray], scale: int = 2) -> Image.Image:
    """Columns of pictures, each uint8 (pairs, 64, 64, 3), side by side: one line per pair."""
    padded = np.pad(np.stack(columns, axis=1), ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)), constant_values=255)
    rows, across, height, width, _ = padded.shape
    sheet = Image.fromarray(padded.transpose(0, 2, 1, 3, 4).reshape(rows * height, across * width, 3))
    return sheet.resize((sheet.width * scale, sheet.height * scale), Image.Resampling.NEAREST)


def sheet_of(section: Section, painted: Mapping[Row, Pictures], lines: int = 8) -> tuple[Image.Image, str] | None:
    """The contact sheet of a section's shown rows and what its columns are; `None` if nothing is there to show."""
    rows = [row for row in section.shown if row in painted]
    if not rows:
        return None
    columns = [painted[rows[0]].sources[:lines], *(painted[row].targets[:lines] for row in rows)]
    return contact_sheet(columns), f"Columns: source; then {'; '.join(row.name for row in rows)}."
