"""Real images of every kind, and what is no real image or cannot be edited: one clear message each."""

from __future__ import annotations

import base64
import io
import re
from typing import Any

import numpy
import pytest
from PIL import Image

from .client import Client, HttpError, Pixels, controlled, encoded, request, same
from .real_images import KEPT, asked, decibels, edit, said


def picture_file(mode: str, kind: str = "PNG", **options: Any) -> str:
    """The base64 of a 64x64 picture in some mode and format."""
    ramp = numpy.linspace(0, 255, 64 * 64).reshape(64, 64)
    if mode == "I;16":
        image = Image.fromarray(ramp.astype(numpy.uint16) * 257)
    else:
        image = Image.fromarray(ramp.astype(numpy.uint8)).convert("RGB").convert(mode)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return base64.b64encode(file.getvalue()).decode("ascii")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "I;16"])
def test_every_kind_of_picture(client: Client, mode: str) -> None:
    result = edit(client, asked(picture_file(mode)))
    assert len(result.images) == 2 and decibels(result) > 5


def test_sixteen_bits_are_scaled_not_clipped(client: Client) -> None:
    """By itself the host makes such a picture white."""
    edit(client, asked(picture_file("L")), source_prompt="grey")
    deep = edit(client, asked(picture_file("I;16")), source_prompt="grey")
    assert said(deep, "inversion") == KEPT  # the very pixels
    assert deep.images[-1].std() > 20


def test_an_animation_gives_its_first_frame(client: Client) -> None:
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    source = edit(client, asked(base64.b64encode(file.getvalue()).decode())).images[-1]
    assert source[..., 0].mean() > source[..., 2].mean() + 50


def test_one_pixel(client: Client) -> None:
    pixel = numpy.full((1, 1, 3), 200, numpy.uint8)
    assert len(edit(client, asked(pixel)).images) == 2


@pytest.mark.parametrize(
    ("pictures", "status", "message"),
    [
        (None, 404, "Init image not found"),
        ([], 422, "img2img was given no picture"),
        ([""], 500, "Invalid encoded image"),
        (["no picture"], 500, "Invalid encoded image"),
        ([None], 500, "'NoneType' object has no attribute 'startswith'"),
    ],
    ids=["none", "empty", "empty-text", "text", "null"],
)
def test_no_picture(client: Client, pictures: list[Any] | None, status: int, message: str) -> None:
    """The host reads the request first, and answers all but the empty list itself, in words of its own."""
    for settings in (
        {},
        {"source_prompt": "a cat"},
        {"source": "image"},
        {"source": "prompt", "source_prompt": "a cat"},
    ):
        with pytest.raises(HttpError) as refusal:
            edit(client, {**asked(""), "init_images": pictures}, **settings)
        assert refusal.value.status == status
        assert message in refusal.value.body


def test_a_truncated_file(client: Client, photograph: Pixels) -> None:
    broken = base64.b64encode(base64.b64decode(encoded(photograph))[:200]).decode()
    with pytest.raises(HttpError, match=r"truncated|Invalid encoded image"):
        edit(client, asked(broken))


@pytest.mark.parametrize(
    ("changes", "settings", "message"),
    [
        ({"denoising_strength": 0}, {}, "denoising strength is 0"),
        ({"denoising_strength": 0.05, "sampler_name": "DDIM"}, {}, "takes no step"),
        ({"steps": 20}, {"inversion_steps": 10}, "fewer than the 20 sampling steps"),
        ({"override_settings": {"img2img_extra_noise": 0.1}}, {}, "Extra noise"),
    ],
    ids=["strength-0", "no-step", "inversion-steps", "extra-noise"],
)
def test_what_cannot_be_edited(
    client: Client, photograph: Pixels, changes: dict[str, Any], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(HttpError, match=re.escape(message)):
        edit(client, {**asked(photograph), **changes}, **settings)


def test_txt2img_has_no_picture(client: Client) -> None:
    with pytest.raises(HttpError, match="there is no picture here"):
        client.txt2img(controlled(request(), source="image"))


@pytest.mark.parametrize("name", ["inpainting", "pix2pix"])
def test_a_checkpoint_that_reads_a_picture_is_refused(
    client: Client, paints: bool, photograph: Pixels, name: str
) -> None:
    if name == "pix2pix" and not paints:
        pytest.skip("NOT TESTED HERE: no InstructPix2Pix checkpoint is written for the Forge family.")
    other = {"override_settings": {"sd_model_checkpoint": f"{name}.safetensors"}}
    with pytest.raises(HttpError, match="reads a picture besides its latents"):
        edit(client, asked(photograph, **other))
    assert len(client.img2img(asked(photograph, **other)).images) == 1


def test_what_is_transparent_becomes_the_hosts_background(client: Client, photograph: Pixels) -> None:
    alpha = numpy.full((64, 64, 1), 255)
    alpha[:, 32:] = 0
    flat = numpy.where(alpha == 0, 255, photograph)
    wanted = edit(client, asked(flat), source_prompt="transparent")
    seen = edit(client, asked(encoded(numpy.concatenate([photograph, alpha], axis=2))), source_prompt="transparent")
    assert said(seen, "inversion") == KEPT and same(seen.images, wanted.images)
