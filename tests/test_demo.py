"""The demo on the small checkpoint with random weights: that it runs and puts each picture where its caption says."""

from __future__ import annotations

from PIL import Image

from demo.__main__ import main
from demo.sheet import CELL, GAP, HEADER, MARGIN, Column, Row, draw_sheet


def flat(colour):
    return Image.new("RGB", (64, 64), colour)


def test_each_picture_stands_in_its_column_and_row():
    colours = [["red", "lime", "blue"], ["black", "white", "yellow"]]
    rows = [Row(str(i), [flat(colour) for colour in row]) for i, row in enumerate(colours)]
    sheet = draw_sheet(rows, [Column("A", "a"), Column("B", "b " * 40), Column("C")])
    assert sheet.size == (MARGIN + 3 * (CELL + GAP), HEADER + 2 * (CELL + GAP))
    for line, row in enumerate(colours):
        for column, colour in enumerate(row):
            middle = (MARGIN + column * (CELL + GAP) + CELL // 2, HEADER + line * (CELL + GAP) + CELL // 2)
            assert sheet.getpixel(middle) == flat(colour).getpixel((0, 0))


def test_the_demo_writes_its_sheet_and_says_what_to_look_at(checkpoint, tmp_path, capsys):
    path = tmp_path / "made" / "demo.png"
    small = [
        "--checkpoint",
        str(checkpoint),
        "--duets",
        str(checkpoint),
        "--steps",
        "3",
        "--start-step",
        "1",
        "--rows",
        "2",
        "--device",
        "cpu",
        "--size",
        "128",
    ]
    assert main([*small, "--output", str(path)]) == 0
    out = capsys.readouterr().out
    assert str(path) in out and "Each row is one seed" in out
    with Image.open(path) as sheet:
        assert sheet.size == (MARGIN + 3 * (CELL + GAP), HEADER + 2 * (CELL + GAP))
    edit = tmp_path / "made" / "demo-edit.png"
    assert str(edit) in out
    with Image.open(edit) as sheet:
        assert sheet.size == (MARGIN + 4 * (CELL + GAP), HEADER + 2 * (CELL + GAP))
    masks = tmp_path / "made" / "demo-masks.png"
    assert str(masks) in out
    with Image.open(masks) as sheet:
        assert sheet.size == (MARGIN + 5 * (2 * CELL + GAP), HEADER + 2 * (CELL + GAP))


def test_a_mistake_is_told_in_one_line(checkpoint, capsys):
    for arguments in (["--checkpoint", "none.safetensors"], ["--rows", "0"], ["--seed", "-1"], ["--start-step", "x"]):
        assert main(["--checkpoint", str(checkpoint), *arguments]) == 2
        assert capsys.readouterr().err.count("\n") == 1
