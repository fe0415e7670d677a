"""A real image as the source, beside what else the img2img tab offers."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest
from PIL import Image

from .client import Client, HttpError, Pixels, controlled, encoded, largest_difference, same
from .real_images import KEPT, TARGET, asked, decibels, edit, inversion_calls, said


@pytest.mark.parametrize("mode", [0, 1, 2, 3])
def test_resize_modes(client: Client, photograph: Pixels, mode: int) -> None:
    """The tiny VAE knows 64x64 pictures with a frame, and does badly on others; 8 dB are those of any two pictures."""
    result = edit(client, asked(photograph, width=96, height=64, resize_mode=mode))
    assert [image.shape for image in result.images] == [(64, 96, 3)] * 2
    assert decibels(result) > 14


@pytest.mark.parametrize(("width", "height"), [(104, 72), (72, 120)])
def test_odd_multiples_of_eight(client: Client, photograph: Pixels, width: int, height: int) -> None:
    result = edit(client, asked(photograph, width=width, height=height))
    assert [image.shape for image in result.images] == [(height, width, 3)] * 2
    assert decibels(result) > 14


@pytest.mark.parametrize("whole", [True, False])
def test_inpainting_limits_the_edit(client: Client, photograph: Pixels, whole: bool) -> None:
    mask = numpy.zeros((64, 64, 3), numpy.uint8)
    mask[:, 32:] = 255
    base = asked(photograph, mask=encoded(mask), mask_blur=0, inpainting_fill=1, inpaint_full_res=not whole)
    result = edit(client, base, source_prompt="inpaint")
    assert largest_difference(result.images[0][:, :30], photograph[:, :30]) <= 1
    assert abs(result.images[0][:, 34:] - photograph[:, 34:]).mean() > 5
    assert abs(result.images[1] - photograph).mean() < 3
    with pytest.raises(HttpError, match="masked content is not 'original'"):
        edit(client, {**base, "inpainting_fill": 0})


def test_color_correction_and_hidden_sources(client: Client, photograph: Pixels) -> None:
    base = asked(photograph, override_settings={"img2img_color_correction": True})
    shown, hidden = edit(client, base), edit(client, base, show_source=False)
    assert len(hidden.images) == 1 and same(hidden.images, shown.images[:1])


def test_loopback_takes_each_result_as_the_next_picture(client: Client, photograph: Pixels) -> None:
    base = controlled(asked(photograph), source_prompt="loop")
    client.get("/fault/rows")
    result = client.img2img({**base, "script_name": "loopback", "script_args": [2, 0.9, "Linear", "None"]})
    assert len(result.images) >= 2
    assert inversion_calls(client) > 8  # the second loop's picture is another one
    again = [edit(client, asked(image, denoising_strength=0.9), source_prompt="loop") for image in result.images]
    assert KEPT in [said(edited, "inversion") for edited in again]


def test_batch_mode_edits_each_file_from_itself(
    client: Client, photograph: Pixels, another: Pixels, tmp_path: Path
) -> None:
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for name, picture in (("a", photograph), ("b", another)):
        Image.fromarray(picture.astype(numpy.uint8)).save(folder / f"{name}.png")
    wanted = {
        "request": {"prompt": TARGET, "steps": 8, "width": 64, "height": 64, "denoising_strength": 1.0, "seed": 1},
        "settings": {"enabled": True, "source_prompt": "batch", "start_step": 2},
        "input": str(folder),
        "output": str(output),
    }
    wanted["request"]["sampler_name"] = "Euler"
    answer = client.post("/fault/batch", wanted)
    assert answer["batch_size"] == 1
    found = {path.name: numpy.asarray(Image.open(path)).astype(int) for path in output.rglob("*.png")}
    assert len(found) == 4, sorted(found)
    for name, picture in (("a", photograph), ("b", another)):
        distances = [abs(image - picture).mean() for path, image in found.items() if path.endswith(f"-{name}.png")]
        assert len(distances) == 2 and min(distances) < 3, (sorted(found), distances)


def test_a_source_from_a_prompt_is_still_there(client: Client, photograph: Pixels) -> None:
    edit(client, asked(photograph, denoising_strength=0.6), source="prompt", source_prompt="a cat sitting")
    assert inversion_calls(client) == 0
