"""Beside the scripts of the tabs' *Script* menu that make several requests, or lay pictures out by their number."""

from __future__ import annotations

from typing import Any

import numpy
import pytest

from .client import Client, HttpError, Pixels, controlled, encoded, request, same


@pytest.fixture
def tiled(client: Client) -> dict[str, Any]:
    """SD upscale without overlap, upscaler and scale; some hosts give it a text as its first argument."""
    entry = next(e for e in client.script_info() if e["name"] == "sd upscale" and e["is_img2img"])
    return {"script_name": "sd upscale", "script_args": [None] * (len(entry["args"]) - 3) + [0, 0, 1.0]}


def tiles(picture: Pixels) -> list[Pixels]:
    return [part for row in numpy.split(picture, 2) for part in numpy.split(row, 2, axis=1)]


def test_sd_upscale_edits_each_tile(client: Client, photograph: Pixels, another: Pixels, tiled: dict[str, Any]) -> None:
    """Each tile is the source of its own edit, whichever batch it is in, and every tile has its place."""
    picture = numpy.block([[[photograph], [another]], [[another], [photograph]]])
    hidden = controlled(request("a cat, standing", denoising_strength=0.8), show_source=False)
    whole = {**hidden, "init_images": [encoded(picture)]}
    result = client.img2img({**whole, **tiled})
    assert result.images[0].shape == (128, 128, 3)
    for number, (edited, tile) in enumerate(zip(tiles(result.images[0]), tiles(picture))):
        alone = client.img2img({**hidden, "init_images": [encoded(tile)], "seed": hidden["seed"] + number})
        assert same([edited], alone.images)


def test_prompt_matrix_controls_every_cell(client: Client) -> None:
    matrix = {"script_name": "prompt matrix", "script_args": [False, False, "positive", "comma", 0]}
    hidden = controlled(request("a cat|standing"), show_source=False)
    result = client.txt2img({**hidden, **matrix})
    cells = [client.txt2img({**hidden, "prompt": prompt}) for prompt in ("a cat", "a cat, standing")]
    assert same(result.images[-2:], [cell.images[0] for cell in cells])


@pytest.mark.parametrize("settings", [{}, {"show_source": False, "more_targets": "a dog"}])
def test_what_would_be_laid_out_wrongly_is_refused(
    client: Client, photograph: Pixels, settings: dict[str, Any], tiled: dict[str, Any]
) -> None:
    whole = controlled(request("a cat, standing", init_images=[encoded(photograph)]), **settings)
    with pytest.raises(HttpError, match=r"(?i)the script 'SD upscale' puts the pictures together.*'Show source'"):
        client.img2img({**whole, **tiled})
