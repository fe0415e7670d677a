"""Grey pictures of 16 bits keep their greys, from a file or in a WebUI's request (stand-in)."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from lib_masactrl.bit_depth import in_eight_bits
from tests.webui_requests import NAMED
from tests.webui_standin import Request

GREYS = np.arange(256, dtype=np.uint16).reshape(16, 16)


def deep(mode):
    """As Pillow gives a 16-bit PNG, now and before its version 11."""
    file = io.BytesIO()
    Image.fromarray(GREYS * 257).save(file, "PNG")
    if mode == "I":
        return Image.fromarray((GREYS * 257).astype(np.int32))
    return Image.open(file)


@pytest.mark.parametrize("mode", ["I", "I;16"])
def test_sixteen_bits_are_scaled(mode):
    assert np.array_equal(np.asarray(in_eight_bits(deep(mode))), GREYS)
    assert np.asarray(deep(mode).convert("RGB")).mean() > 200  # what becomes of it otherwise


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1", "LA"])
def test_others_are_as_they_were(mode):
    picture = Image.new(mode, (4, 4))
    assert in_eight_bits(picture) is picture


def test_a_request_gets_its_own_picture_back(host):
    given = deep("I;16")
    p, seen = Request(host, init_images=[given]), []
    p.init = lambda *_: seen.extend(p.init_images)
    host.process_images(p, host.script, {**NAMED, "source": "prompt"})
    assert [np.array_equal(np.asarray(picture), GREYS) for picture in seen] == [True]
    assert p.init_images == [given]
