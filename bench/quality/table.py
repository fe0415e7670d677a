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
from itertools import chain
from pathlib import Path

import torch

from bench.quality.calibration import calibration
from bench.quality.page import sheet_of
from bench.quality.painting import PLAN
from bench.quality.pairs import Lot, lots
from bench.quality.rows import Pictures, Row, Store
from bench.quality.sections import SECTIONS, Section
from lib_masactrl.host.standalone.checkpoint import load_checkpoint

log = logging.getLogger("bench.quality.table")

Job = tuple[Store, Row, Lot]


def paint(job: Job) -> str:
    """Paint one lot of one row and keep it."""
    torch.set_num_threads(1)
    store, row, lot = job
    store.save(row, lot, row.paint(_model(store.checkpoint), lot))
    return f"{row.name}, pairs from {lot[0].seed} on"


_model = cache(partial(load_checkpoint, device="cpu"))


def store_of(section: Section, options: argparse.Namespace) -> Store:
    """Where the pictures of the section's checkpoint are kept."""
    return Store(options.work / "rows", options.checkpoints / f"{section.checkpoint}.safetensors", PLAN.steps)


def wanted(sections: Sequence[Section], options: argparse.Namespace) -> list[Job]:
    """What is to be painted: lots that are not kept, or that shall be painted anew; every row's first lot first."""
    if options.write_only:
        return []
    chosen = [section for section in sections if not options.sections or section.name in options.sections]
    jobs = dict.fromkeys(
        (store_of(s, options), row, lot) for s in chosen for row in s.rows for lot in lots(s.pairs(options.pairs))
    )
    again = set(options.again)
    missing = [
        (store, row, lot) for store, row, lot in jobs if not store.path(row, lot).exists() or again & {"all", row.name}
    ]
    return sorted(missing, key=lambda job: job[2][0].seed)


def write_page(sections: Sequence[Section], options: argparse.Namespace) -> None:
    """Measure what is kept, and write page and pictures."""
    lines = ["# The proving ground: what control does, in numbers", "", *introduction()]
    for section in sections:
        pairs, painted = kept(section, store_of(section, options), options.pairs)
        if not painted:
            continue
        lines += ["", f"## {section.title}", "", f"{section.text} {len(pairs)} pairs.", ""]
        lines += section.table(pairs, painted)
        if sheet := sheet_of(section.shown, painted):
            picture, caption = sheet
            name = f"proving-ground-{section.name}.png"
            picture.save(options.out / name)
            lines += ["", f"![{section.title}]({name})", "", caption]
        if section.chart:
            name = f"proving-ground-{section.name}-chart.png"
            section.chart(pairs, painted).save(options.out / name)
            lines += ["", f"![{section.title}, drawn]({name})"]
    (options.out / "proving-ground.md").write_text("\n".join([*lines, ""]), encoding="utf-8")
    log.info("written: %s", options.out / "proving-ground.md")


def kept(section: Section, store: Store, count: int) -> tuple[Lot, dict[Row, Pictures]]:
    """As many pairs as every row of a section has been painted on, and the rows' pictures; none, if one has none."""
    asked = lots(section.pairs(count))
    done = {row: store.painted(row, asked) for row in section.rows}
    for row, number in done.items():
        if number < len(asked):
            log.info("%s: %d of %d lots are painted", row.name, number, len(asked))
    pairs = tuple(chain.from_iterable(asked[: min(done.values())]))
    return pairs, {row: store.load(row, pairs) for row in done} if pairs else {}


def introduction() -> list[str]:
    """What was measured, how, and on what scale."""
    return [
        "Written by `python -m bench.quality.table`: pairs of captions of one species in another pose or place, "
        f"one noise seed per pair, {PLAN.sampler}, {PLAN.steps} steps, CFG {PLAN.cfg_scale}, on the tiny checkpoint of "
        "`demo/checkpoint`. Means with 95% confidence intervals; shares with Wilson's. Every line of a table has the "
        "same pairs and seeds; a section says how many.",
        "",
        "It is a model of 64x64 pictures of a procedural world; one section says where another one was used. The "
        "numbers tell whether the code does what the method says, and which way a setting pulls; they do not tell how "
        "well it works on photographs or on a larger model.",
        "",
        "## The measures, on true renders",
        "",
        *calibration(),
        "",
        "*Layout right* is the share of targets in which a classifier finds species, pose and place of the caption; "
        "it finds them in 512 of 512 held-out renders. *PSNR outside* is that of target and source where neither "
        "caption puts a creature. Identity is measured where the captions put the creatures: a target that merely "
        "repeats the source's picture, with the wrong layout, has a high distance. It compares colours "
        "and their shares and cannot see a pattern's kind: on the contact sheets the colours come over, while "
        "stripes may become spots.",
    ]


def main() -> None:
    """Make the page."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    parser = argparse.ArgumentParser(prog="python -m bench.quality.table", description=__doc__)
    parser.add_argument("--checkpoints", type=Path, default=Path("demo/checkpoint"), help="folder of the checkpoints")
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
    with ProcessPoolExecutor(options.processes) as pool:
        for name in pool.map(paint, wanted(SECTIONS, options)):
            log.info("painted: %s", name)
    write_page(SECTIONS, options)


if __name__ == "__main__":
    main()
