"""``python -m bench.quality.table``: what control does to identity, background and layout, in numbers.

Paints what ``.snapshots/rows`` does not hold yet, measures everything, writes ``docs/proving-ground.md`` and the
pictures beside it. It may be cut off at any time: what was painted is not painted again.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from pathlib import Path

import torch

from bench.quality.__main__ import cached_classifier
from bench.quality.calibration import calibration
from bench.quality.figures import figures
from bench.quality.page import sheet_of, table
from bench.quality.pairs import Pair, lots
from bench.quality.rows import Row, Store
from bench.quality.sections import SECTIONS, STEPS, Section
from lib_masactrl.host.standalone.checkpoint import load_checkpoint

log = logging.getLogger("bench.quality.table")

Job = tuple[Row, tuple[Pair, ...]]


def paint(store: Store, job: Job) -> str:
    """Paint one lot of one row and keep it."""
    torch.set_num_threads(1)
    row, lot = job
    store.save(row, lot, row.paint(_model(store.checkpoint), lot))
    return f"{row.name}, pairs from {lot[0].seed} on"


_model = cache(partial(load_checkpoint, device="cpu"))


def wanted(sections: Sequence[Section], options: argparse.Namespace, store: Store) -> list[Job]:
    """What is to be painted: lots that are not kept, or that shall be painted anew; every row's first lot first."""
    if options.write_only:
        return []
    chosen = [section for section in sections if not options.sections or section.name in options.sections]
    jobs = dict.fromkeys((row, lot) for s in chosen for row in s.rows for lot in lots(s.pairs(options.pairs)))
    again = set(options.again)
    missing = [job for job in jobs if not store.path(*job).exists() or again & {"all", job[0].name}]
    return sorted(missing, key=lambda job: job[1][0].seed)


def write_page(sections: Sequence[Section], store: Store, options: argparse.Namespace) -> None:
    """Measure every row that is kept, and write page and pictures."""
    classifier = cached_classifier(options.work)
    lines = ["# The proving ground: what control does, in numbers", "", *introduction(options.pairs)]
    for section in sections:
        pairs = section.pairs(options.pairs)
        kept = {row: store.load(row, pairs) for row in section.rows}
        painted = {row: pictures for row, pictures in kept.items() if pictures is not None}
        for row in kept.keys() - painted.keys():
            log.info("not on the page, as it is not painted yet: %s", row.name)
        measured = {row: figures(pairs, pictures, classifier) for row, pictures in painted.items()}
        lines += ["", f"## {section.title}", "", section.text, "", *table(section, measured)]
        if sheet := sheet_of(section, painted):
            picture, caption = sheet
            name = f"proving-ground-{section.name}.png"
            picture.save(options.out / name)
            lines += ["", f"![{section.title}]({name})", "", caption]
    (options.out / "proving-ground.md").write_text("\n".join([*lines, ""]), encoding="utf-8")
    log.info("written: %s", options.out / "proving-ground.md")


def introduction(count: int) -> list[str]:
    """What was measured, how, and on what scale."""
    return [
        f"Written by `python -m bench.quality.table --pairs {count}`: {count} pairs of captions, one noise seed each, "
        f"DDIM, {STEPS} steps, CFG 7.5, on the tiny checkpoint of `demo/checkpoint`. Means with 95% confidence "
        "intervals.",
        "",
        *calibration(count),
    ]


def main() -> None:
    """Make the page."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    parser = argparse.ArgumentParser(prog="python -m bench.quality.table", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=Path("demo/checkpoint/creatures.safetensors"))
    parser.add_argument("--work", type=Path, default=Path(".snapshots"), help="data for the classifier; painted rows")
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("docs"))
    names = [section.name for section in SECTIONS]
    parser.add_argument("--sections", nargs="*", default=[], choices=names, help="paint rows of these only")
    parser.add_argument("--again", nargs="*", default=[], metavar="ROW", help="paint these rows anew, or all of them")
    parser.add_argument("--write-only", action="store_true", help="paint nothing; write what is kept")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    store = Store(options.work / "rows", options.checkpoint, STEPS)
    with ProcessPoolExecutor(options.processes) as pool:
        for name in pool.map(partial(paint, store), wanted(SECTIONS, options, store)):
            log.info("painted: %s", name)
    write_page(SECTIONS, store, options)


if __name__ == "__main__":
    main()
