"""The WebUI's HTTP API as the tests speak it. Standard library, pillow, numpy and pytest only."""

from __future__ import annotations

import base64
import io
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy
import pytest
from PIL import Image

Pixels = numpy.ndarray
TIMEOUT = 600


class HttpError(Exception):
    """An HTTP answer of 400 or more."""

    def __init__(self, status: int, body: str) -> None:
        super().__init__(f"{status}: {body[:500]}")
        self.status = status
        self.body = body

    @property
    def message(self) -> str:
        """The one sentence for the caller; empty if the host only reports a crash."""
        try:
            return str(json.loads(self.body).get("detail", ""))
        except ValueError:
            return ""


@dataclass(frozen=True)
class Result:
    """The answer to one txt2img or img2img request."""

    images: list[Pixels]
    info: dict[str, Any]

    @property
    def infotexts(self) -> list[str]:
        return list(self.info["infotexts"])


class Client:
    def __init__(self, address: str) -> None:
        self.address = address

    def get(self, path: str) -> Any:
        return self._send(urllib.request.Request(self.address + path))

    def post(self, path: str, body: Any) -> Any:
        return self.post_bytes(path, json.dumps(body).encode())

    def post_bytes(self, path: str, body: bytes) -> Any:
        request = urllib.request.Request(self.address + path, body, {"Content-Type": "application/json"})
        return self._send(request)

    def txt2img(self, request: dict[str, Any]) -> Result:
        return self._generate("/sdapi/v1/txt2img", request)

    def img2img(self, request: dict[str, Any]) -> Result:
        return self._generate("/sdapi/v1/img2img", request)

    def script_info(self) -> list[dict[str, Any]]:
        """What the host tells of its scripts' arguments; A1111 1.6 fails over its own choices (pairs, not texts)."""
        try:
            return list(self.get("/sdapi/v1/script-info"))
        except HttpError as error:
            if "validation errors for ScriptInfo" not in error.body:
                raise
            pytest.skip("NOT TESTED HERE: this WebUI's own /sdapi/v1/script-info fails.")

    def trace(self) -> list[numpy.ndarray]:
        """The denoised latents (rows, channels, height, width) of each evaluation of the last traced request."""
        file = io.BytesIO(base64.b64decode(self.get("/fault/trace")["npz"]))
        with numpy.load(file) as arrays:
            return [arrays[f"arr_{i}"] for i in range(len(arrays.files))]

    def unet_calls(self) -> list[dict[str, numpy.ndarray]]:
        """What each U-Net call of the last request with ``calls`` got and gave, by name, in order."""
        found: dict[int, dict[str, numpy.ndarray]] = {}
        with numpy.load(io.BytesIO(base64.b64decode(self.get("/fault/calls")["npz"]))) as arrays:
            for key in arrays.files:
                number, name = key.split("/")
                found.setdefault(int(number), {})[name] = arrays[key]
        return [found[number] for number in sorted(found)]

    def traced(self, request: dict[str, Any]) -> list[numpy.ndarray]:
        """Run a txt2img request and return its trace."""
        self.txt2img(fault(request, trace=True))
        return self.trace()

    def wait_for(self, ready: Callable[[dict[str, Any]], bool], seconds: float = 60) -> None:
        """Poll the progress of the running request, with its ``textinfo``, until it is ``ready``."""
        give_up = time.monotonic() + seconds
        while True:
            answer = self.get("/sdapi/v1/progress?skip_current_image=true")
            if ready({**answer["state"], "textinfo": answer["textinfo"]}):
                return
            if time.monotonic() > give_up:
                raise TimeoutError("the request never came so far")
            time.sleep(0.01)

    def _generate(self, path: str, request: dict[str, Any]) -> Result:
        answer = self.post(path, request)
        return Result([decoded(image) for image in answer["images"]], json.loads(answer["info"]))

    def _send(self, request: urllib.request.Request) -> Any:
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            raise HttpError(error.code, error.read().decode(errors="replace")) from None


def api_fields(client: Client) -> set[str]:
    """What a txt2img request may hold: ``infotext`` came with 1.10, ``scheduler`` with 1.9."""
    schemas = client.get("/openapi.json")["components"]["schemas"]
    return set(schemas["StableDiffusionProcessingTxt2Img"]["properties"])


def decoded(image: str) -> Pixels:
    with Image.open(io.BytesIO(base64.b64decode(image.split(",")[-1]))) as opened:
        return numpy.asarray(opened.convert("RGB")).astype(numpy.int16)


def encoded(pixels: Pixels) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels.astype(numpy.uint8)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")


def request(prompt: str = "a cat, standing", **changes: Any) -> dict[str, Any]:
    """A small plain request."""
    if changes.get("enable_hr"):  # Forge fails over a request without it; others do not read it
        changes = {"hr_additional_modules": ["Use same choices"], **changes}
    return {
        "prompt": prompt,
        "negative_prompt": "blurry",
        "steps": 8,
        "width": 64,
        "height": 64,
        "cfg_scale": 7,
        "seed": 11,
        "subseed": 500,
        "sampler_name": "DDIM",
        **changes,
    }


def controlled(base: dict[str, Any], **settings: Any) -> dict[str, Any]:
    """``base`` with MasaCtrl enabled: source prompt "a cat, sitting" and window S = 2, L = 4 unless said otherwise."""
    named = {"enabled": True, "source_prompt": "a cat, sitting", "start_step": 2, "start_layer": 4, **settings}
    return with_script(base, "MasaCtrl", [named])


def fault(base: dict[str, Any], **wanted: Any) -> dict[str, Any]:
    """``base`` with something, or something more, for the fault extension to do."""
    (before,) = base.get("alwayson_scripts", {}).get("Fault injection", {"args": [{}]})["args"]
    return with_script(base, "Fault injection", [{**before, **wanted}])


def with_script(base: dict[str, Any], title: str, args: Any) -> dict[str, Any]:
    return {**base, "alwayson_scripts": {**base.get("alwayson_scripts", {}), title: {"args": args}}}


def largest_difference(one: numpy.ndarray, other: numpy.ndarray) -> float:
    assert one.shape == other.shape, f"{one.shape} and {other.shape}"
    return float(numpy.abs(one.astype(numpy.float64) - other.astype(numpy.float64)).max())


def same(one: list[Pixels], other: list[Pixels]) -> bool:
    """Whether two lists of images (or traces) are equal, pixel by pixel."""
    return len(one) == len(other) and all(numpy.array_equal(a, b) for a, b in zip(one, other))
