"""Pictures that people have: each is read as what it shows, and a broken one is refused in one line."""

from __future__ import annotations

import math
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from lib_masactrl.errors import SettingsError
from lib_masactrl.host.standalone.reading import fitted, fitting_size, read_picture, to_tensor
from lib_masactrl.inversion import psnr

SIZE = (6, 4)
RED, WHITE = (255, 0, 0), (255, 255, 255)


def saved(picture, path, **options):
    picture.save(path, **options)
    return path


def palette(index, **options):
    picture = Image.new("P", SIZE, index)
    picture.putpalette([255, 0, 0, 0, 0, 255])
    return picture


@pytest.mark.parametrize(
    ("picture", "options", "color"),
    [
        (Image.new("RGB", SIZE, RED), {}, RED),
        (Image.new("L", SIZE, 128), {}, (128, 128, 128)),
        (Image.new("1", SIZE, 1), {}, WHITE),
        (palette(0), {}, RED),
        (palette(0), {"transparency": 0}, WHITE),
        (Image.new("RGBA", SIZE, (255, 0, 0, 255)), {}, RED),
        (Image.new("RGBA", SIZE, (255, 0, 0, 0)), {}, WHITE),
        (Image.new("RGBA", SIZE, (255, 0, 0, 128)), {}, (255, 127, 127)),
        (Image.new("LA", SIZE, (0, 0)), {}, WHITE),
        (Image.new("RGB", SIZE, RED), {"transparency": RED}, WHITE),
        (Image.fromarray(np.full(SIZE[::-1], 257 * 40, np.uint16)), {}, (40, 40, 40)),
        (Image.fromarray(np.full(SIZE[::-1], 65535, np.uint16)), {}, WHITE),
    ],
)
def test_every_kind_of_png_is_read_as_what_it_shows(tmp_path, picture, options, color):
    got = read_picture(saved(picture, tmp_path / "a.png", **options))
    assert (got.mode, got.size) == ("RGB", SIZE)
    assert got.getcolors() == [(SIZE[0] * SIZE[1], color)]


def test_cmyk_is_read(tmp_path):
    red = read_picture(saved(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), tmp_path / "a.jpg", quality=95))
    assert np.abs(np.array(red).astype(int) - RED).max() < 12


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.new("RGB", (32, 16), RED)
    picture.paste(WHITE, (0, 0, 8, 8))  # the corner that tells the orientations apart
    got = np.array(read_picture(saved(picture, tmp_path / "a.jpg", exif=exif, quality=95)))
    assert got.shape == ((16, 32, 3) if orientation < 5 else (32, 16, 3))
    corners = {(0, 0): "top left", (0, -1): "top right", (-1, -1): "bottom right", (-1, 0): "bottom left"}
    white = [name for (row, column), name in corners.items() if got[row, column, 1] > 128]
    assert white == [["top left", "top right", "bottom right", "bottom left"][(orientation - 1) % 4]]


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_of_an_animation_the_first_frame_is_taken_and_said(tmp_path, suffix, caplog):
    caplog.set_level("INFO")
    frames = [Image.new("RGB", SIZE, color) for color in (RED, WHITE, (0, 0, 255))]
    path = saved(frames[0], tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:])
    assert np.abs(np.array(read_picture(path)).astype(int) - RED).max() < 8
    assert f"a.{suffix} has 3 frames; the first one is used" in caplog.text


def broken(folder):
    whole = saved(Image.effect_noise((64, 64), 50), folder / "whole.png").read_bytes()
    jpeg = saved(Image.effect_noise((64, 64), 50), folder / "whole.jpg").read_bytes()
    header = b"IHDR" + struct.pack(">2I5B", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = whole[:8] + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + whole[33:]
    return {
        "empty": b"",
        "text": b"this is no picture",
        "truncated.png": whole[: len(whole) // 2],
        "truncated.jpg": jpeg[: len(jpeg) // 2],
        "damaged.png": whole[:60] + bytes(200) + whole[260:],
        "bomb.png": bomb,
        "float.tiff": saved(Image.new("F", SIZE, 0.5), folder / "whole.tiff").read_bytes(),
    }


@pytest.mark.parametrize(
    "name", ["empty", "text", "truncated.png", "truncated.jpg", "damaged.png", "bomb.png", "float.tiff"]
)
def test_a_broken_picture_is_refused_in_one_line(tmp_path, name):
    (tmp_path / name).write_bytes(broken(tmp_path)[name])
    with pytest.raises(SettingsError, match=rf"{name} cannot be read \(.+\); give another file\.$") as caught:
        read_picture(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_no_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(SettingsError, match="There is no picture"):
        read_picture(tmp_path / "none.png")
    with pytest.raises(SettingsError, match="cannot be read"):
        read_picture(tmp_path)


@pytest.mark.parametrize(
    ("size", "asked", "expected"),
    [
        ((512, 768), (None, None), (512, 768)),
        ((500, 330), (None, None), (512, 320)),
        ((4000, 3000), (None, None), (768, 576)),
        ((1, 1), (None, None), (64, 64)),
        ((1, 100_000), (None, None), (64, 768)),
        ((4000, 3000), (1024, None), (1024, 768)),
        ((3000, 4000), (1024, None), (1024, 1344)),
        ((4000, 3000), (None, 512), (704, 512)),
        ((1, 1000), (64, None), (64, 768)),
        ((500, 330), (128, 256), (128, 256)),
        ((500, 330), (0, None), (0, 64)),
        ((500, 330), (100, None), (100, 64)),
    ],
)
def test_the_size_is_the_picture_s_own_to_the_nearest_multiple(size, asked, expected):
    assert fitting_size(Image.new("1", size), 64, *asked) == expected


def test_fitting_scales_crops_in_the_middle_and_says_so(caplog):
    caplog.set_level("INFO")
    picture = Image.new("RGB", (64, 64), WHITE)
    assert fitted(picture, 64, 64) is picture and not caplog.records
    picture.paste(RED, (0, 10, 64, 54))  # wider than the middle half, because scaling smooths edges
    got = fitted(picture, 128, 64)
    assert got.size == (128, 64) and set(got.getdata()) == {RED}
    assert "picture of 64x64 pixels is scaled and cropped to 128x64" in caplog.text


def test_values_and_psnr():
    got = to_tensor(Image.new("RGB", SIZE, RED))
    assert got.shape == (1, 3, 4, 6) and got[0, :, 0, 0].tolist() == [1, 0, 0]
    assert psnr(got, got) == math.inf
    assert psnr(torch.full((1, 3, 2, 2), 0.6), torch.full((1, 3, 2, 2), 0.5)) == pytest.approx(20, abs=1e-4)
