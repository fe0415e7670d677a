"""What the tests of real images ask for, and how they read the answers."""

from __future__ import annotations

import re
from typing import Any

from .client import Client, Pixels, Result, controlled, encoded, fault, request

TARGET = "a cat jumping on the right"
KEPT = "kept from an earlier request"


def asked(image: Pixels | str, **changes: Any) -> dict[str, Any]:
    picture = image if isinstance(image, str) else encoded(image)
    base = {"denoising_strength": 1.0, "steps": 8, "sampler_name": "Euler", **changes}
    return fault(request(TARGET, init_images=[picture], **base), count=True, encoder_seed=0)


def edit(client: Client, base: dict[str, Any], **settings: Any) -> Result:
    client.get("/fault/rows")  # forget what was counted before
    return client.img2img(controlled(base, source_prompt=settings.pop("source_prompt", ""), **settings))


def said(result: Result, entry: str) -> str:
    found = re.search(rf"MasaCtrl {entry}: ([^,\n]*)", result.infotexts[0])
    assert found, result.infotexts[0]
    return found[1]


def decibels(result: Result) -> float:
    return float(said(result, "PSNR").removesuffix(" dB"))


def inversion_calls(client: Client) -> int:
    """U-Net calls of the last edit that held a single row: only inversion makes those."""
    return sum(rows == 1 for rows in client.get("/fault/rows"))
