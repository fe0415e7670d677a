"""The recipes' buttons beside a ControlNet extension, in a real browser. To be run as ``test_control_branches.py``."""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
from PIL import Image

from .browser_page import fill_request, generate, open_accordion, screenshot, switched_on, sync_api
from .client import Client, controlled, largest_difference, request, with_script
from .host import HostPaths, running

pytestmark = pytest.mark.usefixtures("model")

TABS = ("txt2img", "img2img")
#: Control type of the unit that each button sets up.
TYPES = {"sketch": "Scribble", "canny": "Canny", "pose": "OpenPose", "depth": "Depth"}

expect = sync_api.expect
expect.set_options(timeout=30_000)  # of a machine that is busy besides


def unit(page: Any, tab: str, part: str, number: int = 0) -> Any:
    return page.locator(f"#{tab}_controlnet_ControlNet-{number}_controlnet_{part}")


def press(page: Any, tab: str, recipe: str) -> None:
    page.locator(f"#masactrl_{tab}_recipe_{recipe}").click()
    expect(unit(page, tab, f"type_filter_radio input[value={TYPES[recipe]}]")).to_be_checked()


@pytest.mark.parametrize("tab", TABS)
def test_a_recipe_sets_up_the_first_unit(opened: Callable[..., Any], model: str, tab: str) -> None:
    page = opened()
    open_accordion(page, tab)
    guides = page.locator(f"#masactrl_{tab}_control_guides input")
    guides.fill("source")
    guides.press("Enter")
    press(page, tab, "canny")
    expect(unit(page, tab, "enable_checkbox input")).to_be_checked()
    expect(unit(page, tab, "pixel_perfect_checkbox input")).to_be_checked()
    expect(unit(page, tab, "preprocessor_dropdown input")).to_have_value("canny")
    expect(unit(page, tab, "model_dropdown input")).to_have_value(model)
    expect(unit(page, tab, "enable_checkbox input", 1)).not_to_be_checked()
    expect(guides).to_have_value("target, source")
    expect(switched_on(page, tab)).to_be_checked()
    image = page.locator(f"#{tab}_controlnet_ControlNet-0_input_image")
    expect(image).to_be_visible()
    screenshot(page, f"recipe-{tab}")
    press(page, tab, "sketch")
    expect(unit(page, tab, "model_dropdown input")).to_have_value(model)
    expect(guides).to_have_value("target, source")


def test_whichever_extension_is_built_first(
    chromium: Any,
    host_paths: HostPaths,
    model: str,
    tmp_path: Path,
) -> None:
    """Extensions are built in the order of their folders' names."""
    with running(host_paths, tmp_path, extension="a-masactrl") as client:
        page = chromium.new_page()
        page.route(lambda url: not url.startswith((client.address, "data:", "blob:")), lambda r: r.fulfill(body=""))
        page.goto(client.address)
        page.wait_for_selector("#masactrl_txt2img_enabled", state="attached", timeout=120_000)
        open_accordion(page, "txt2img")
        press(page, "txt2img", "canny")
        expect(unit(page, "txt2img", "enable_checkbox input")).to_be_checked()
        expect(unit(page, "txt2img", "preprocessor_dropdown input")).to_have_value("canny")
        page.close()


def pictures(data: Path) -> list[Path]:
    files = sorted((data / "outputs").rglob("*.png"), key=lambda file: file.stat().st_mtime_ns)
    return [file for file in files if "grid" not in str(file)]


def made(page: Any, data: Path, count: int = 2) -> list[Image.Image]:
    """Targets and source of one more generation; :func:`generate` alone would take the page's earlier result for it."""
    before = len(pictures(data))
    generate(page)
    give_up = time.monotonic() + 300
    while len(pictures(data)) < before + count and time.monotonic() < give_up:
        page.wait_for_timeout(200)
    page.wait_for_timeout(1000)  # until the last file is whole
    return [Image.open(file) for file in pictures(data)[before:]]


def apart(one: Image.Image, other: Image.Image) -> float:
    return largest_difference(*(numpy.asarray(picture.convert("RGB")) for picture in (one, other)))


def layout(folder: Path, seed: int) -> Path:
    """A picture of edges."""
    noise = numpy.random.default_rng(seed).integers(0, 255, (8, 8, 3)).astype(numpy.uint8)
    picture = folder / f"layout-{seed}.png"
    Image.fromarray(noise).resize((64, 64), Image.Resampling.NEAREST).save(picture)
    return picture


def test_what_a_recipe_set_up_is_what_is_made(
    opened: Callable[..., Any],
    model: str,
    data: Path,
    tmp_path: Path,
) -> None:
    """Canny edges of a picture move the target, and the source is that of a run without ControlNet."""
    picture = layout(tmp_path, 5)
    page = opened()
    fill_request(page, "a cat, standing")
    open_accordion(page, "txt2img")
    page.locator("#masactrl_txt2img_source_prompt textarea").fill("a cat, sitting")
    target, source = made(page, data)
    press(page, "txt2img", "canny")
    expect(unit(page, "txt2img", "model_dropdown input")).to_have_value(model)
    page.locator("#txt2img_controlnet_ControlNet-0_input_image input[type=file]").first.set_input_files(str(picture))
    page.wait_for_timeout(2000)  # until the page holds the picture; it says so by nothing that both hosts have
    guided, same_source = made(page, data)
    assert "ControlNet 0:" in guided.info["parameters"] and "canny" in guided.info["parameters"]
    assert "MasaCtrl result: 2 of 6 steps" in guided.info["parameters"]
    # Pictures: that the source is the same bit by bit is for test_control_branches.py, which sees latents.
    assert apart(same_source, source) <= 1
    assert apart(guided, target) > 8


def test_a_picture_per_target(
    opened: Callable[..., Any],
    client: Client,
    model: str,
    data: Path,
    tmp_path: Path,
) -> None:
    """Several pictures in one unit make what as many units make, one for each target, over the API."""
    page = opened()
    several = page.locator("#txt2img_controlnet button", has_text=re.compile("Multi-Inputs|Batch Upload"))
    if not several.count():
        pytest.skip("NOT TESTED HERE: units of this WebUI take one picture.")
    fill_request(page, "a cat, standing")
    open_accordion(page, "txt2img")
    page.locator("#masactrl_txt2img_source_prompt textarea").fill("a cat, sitting")
    page.locator("#masactrl_txt2img_more_targets textarea").fill("a cat, running")
    press(page, "txt2img", "canny")
    expect(unit(page, "txt2img", "model_dropdown input")).to_have_value(model)
    guides = page.locator("#masactrl_txt2img_control_guides input")
    guides.fill("each")
    guides.press("Enter")
    several.first.click()
    files = [layout(tmp_path, seed) for seed in (5, 6)]
    page.locator("#txt2img_controlnet input[type=file][multiple]").first.set_input_files([str(file) for file in files])
    shown = page.locator("#txt2img_controlnet img[src*='layout-']")
    expect(shown.nth(1)).to_be_visible()
    # Files are uploaded side by side, so that either may come first.
    names = [Path(image.get_attribute("src")).name for image in shown.all()]
    files = [tmp_path / name for name in dict.fromkeys(names)]
    of_page = made(page, data, 3)
    units = [
        {
            "enabled": True,
            "module": "canny",
            "model": model,
            "pixel_perfect": True,
            "image": base64.b64encode(file.read_bytes()).decode("ascii"),
        }
        for file in files
    ]
    settings = {"start_step": 4, "start_layer": None, "more_targets": "a cat, running"}
    asked = controlled(request("a cat, standing", steps=6, negative_prompt=""), **settings)
    plain = client.txt2img(asked).images
    asked = controlled(asked, control_guides="each", **settings)
    of_units = client.txt2img(with_script(asked, "ControlNet", units)).images
    for number in range(3):
        assert apart(of_page[number], Image.fromarray(of_units[number].astype(numpy.uint8))) <= 1
        moved = apart(of_page[number], Image.fromarray(plain[number].astype(numpy.uint8)))
        assert moved > 8 if number < 2 else moved <= 1
