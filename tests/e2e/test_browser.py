"""The accordion in a real browser: headless Chromium on the page that the WebUI serves.

Screenshots stay in ``outputs/browser``. Every test fails over an error in the console, a failing request, or a request
that the server answers with an error. Addresses outside of the server get an empty answer: pages are tested offline.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
from PIL import Image

from .client import Client, controlled, encoded, request
from .host import REPOSITORY, HostPaths, is_forge

sync_api = pytest.importorskip("playwright.sync_api", reason="NO BROWSER TESTED: pip install playwright")

SCREENSHOTS = REPOSITORY / "outputs" / "browser"
#: Gradio 4 itself closes its streams of results and of uploads.
GRADIO_S_OWN = re.compile(
    r"/(queue/data|upload_progress)\?.*ERR_ABORTED$|^AbortError: signal is aborted without reason"
)
#: Whatever an infotext could stumble over, in one text.
DIFFICULT = 'a cat, sitting: "very" still,\nNegative prompt: none, Steps: 3\n猫, кошка'


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    names = ("chromium", "chromium-browser", "google-chrome")
    program = os.environ.get("MASACTRL_E2E_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.skip("NO BROWSER TESTED: install Chromium, or set MASACTRL_E2E_CHROMIUM to it.")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium: Any, client: Client) -> Iterator[Callable[..., Any]]:
    """Open the WebUI's page; ``opened(theme="dark", width=400)``."""
    complaints: list[str] = []
    pages = []

    def open_page(theme: str = "light", width: int = 1600) -> Any:
        page = chromium.new_page(viewport={"width": width, "height": 1000})
        pages.append(page)
        page.route(lambda url: not url.startswith((client.address, "data:", "blob:")), lambda r: r.fulfill(body=""))
        page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("requestfailed", lambda asked: complaints.append(f"{asked.url} {asked.failure}"))
        page.on("response", lambda got: complaints.append(f"{got.status} {got.url}") if got.status >= 400 else None)
        page.goto(f"{client.address}/?__theme={theme}")
        page.wait_for_selector("#masactrl_txt2img_enabled", state="attached", timeout=120_000)
        page.wait_for_function("window.opts && Object.keys(opts).length > 0", timeout=120_000)
        return page

    yield open_page
    for page in pages:
        page.close()
    assert [said for said in complaints if not GRADIO_S_OWN.search(said)] == []


def open_accordion(page: Any, tab: str) -> Any:
    """Switch to ``tab`` and open both accordions there."""
    page.evaluate(f"switch_to_{tab}()")  # the host's own function: at 400 px the tabs' buttons are in a menu
    for name in ("enabled", "advanced"):
        page.locator(f"#masactrl_{tab}_{name} > .label-wrap").click()
    accordion = page.locator(f"#masactrl_{tab}_enabled")
    sync_api.expect(page.locator(f"#masactrl_{tab}_show_source")).to_be_visible()
    return accordion


def fill_request(page: Any, prompt: str) -> None:
    """A small request in txt2img, control off. Pasted, because A1111 1.10.1 by itself throws when a width is typed."""
    paste(page, f"{prompt}\nSteps: 6, Sampler: DDIM, CFG scale: 7, Seed: 11, Size: 64x64")
    sync_api.expect(page.locator("#txt2img_width input[type=number]")).to_have_value("64")


def paste(page: Any, infotext: str) -> None:
    page.locator("#txt2img_prompt textarea").fill(infotext)
    page.locator("#paste").first.click()


def generate(page: Any) -> None:
    page.locator("#txt2img_generate").click()
    page.wait_for_selector("#txt2img_gallery img", timeout=300_000)
    page.wait_for_selector("#txt2img_interrupt", state="hidden", timeout=300_000)


def choose(page: Any, dropdown: str, option: str) -> None:
    """Type what narrows the dropdown down to ``option``, and take it; Forge Classic writes "X/Y/Z Plot"."""
    field = page.locator(f"{dropdown} input")
    field.click()
    field.fill(option)
    page.wait_for_selector(f"{dropdown} ul", timeout=30_000)
    field.press("Enter")
    sync_api.expect(field).to_have_value(re.compile(f"^{re.escape(option)}$", re.IGNORECASE))


def screenshot(element: Any, name: str) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    element.screenshot(path=SCREENSHOTS / f"{name}.png")


def window_line(page: Any, tab: str) -> Any:
    return page.locator(f"#masactrl_{tab}_window p").first


@pytest.mark.parametrize("tab", ["txt2img", "img2img"])
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1600])
def test_accordion(opened: Callable[..., Any], tab: str, theme: str, width: int) -> None:
    page = opened(theme, width)
    accordion = open_accordion(page, tab)
    screenshot(accordion, f"{tab}-{theme}-{width}")
    assert accordion.evaluate("node => node.scrollWidth <= node.clientWidth"), "something sticks out at the side"
    assert page.locator(f"#masactrl_{tab}_start_step").get_attribute("title")


def test_window_follows_steps_presets_and_model(opened: Callable[..., Any], layers: int) -> None:
    page = opened()
    fill_request(page, "a cat, standing")
    open_accordion(page, "txt2img")
    expect = sync_api.expect(window_line(page, "txt2img"))
    expect.to_have_text(re.compile(rf"Control acts in steps 4 to 5 of 6, layers \d+ to {layers - 1} of {layers} "))
    assert page.locator("#masactrl_txt2img_start_step input[type=range]").get_attribute("max") == "6"
    page.locator("#masactrl_txt2img_preset_strong").click()
    expect.to_have_text(re.compile(rf"steps 2 to 5 of 6, layers {7 if layers == 16 else 34} to"))
    page.locator("#masactrl_txt2img_preset_gentle").click()
    expect.to_have_text("Nothing is controlled: start step 8, but 6 steps are sampled.")
    screenshot(page.locator("#masactrl_txt2img_enabled"), "window")


def test_window_follows_the_denoising_strength(opened: Callable[..., Any], client: Client) -> None:
    """img2img leaves out the steps above its strength; the accordion counts as the host does."""
    page = opened()
    open_accordion(page, "img2img")
    line = window_line(page, "img2img")
    sync_api.expect(line).to_have_text(re.compile("steps 4 to 15 of 16, "))
    asked = request(sampler_name="Euler", steps=20, denoising_strength=0.75)
    asked["init_images"] = [encoded(client.txt2img(request()).images[0])]
    made = client.img2img(controlled(asked, source="prompt", start_step=4))
    assert "MasaCtrl result: 12 of 16 steps" in made.infotexts[0]


def test_what_does_not_apply_is_hidden(opened: Callable[..., Any]) -> None:
    page = opened()
    open_accordion(page, "txt2img")
    for key in ("source", "rectify", "inversion_steps"):
        sync_api.expect(page.locator(f"#masactrl_txt2img_{key}")).to_be_hidden()
    open_accordion(page, "img2img")
    rectify = sync_api.expect(page.locator("#masactrl_img2img_rectify"))
    rectify.to_be_visible()
    page.locator("#masactrl_img2img_source input[value=prompt]").check()
    rectify.to_be_hidden()
    page.locator("#masactrl_img2img_source input[value=image]").check()
    rectify.to_be_visible()


def test_recipes_are_shown_beside_controlnet_alone(opened: Callable[..., Any], client: Client) -> None:
    page = opened()
    open_accordion(page, "txt2img")
    recipes = page.locator("#masactrl_txt2img_recipes")
    assert recipes.is_visible() == ("controlnet" in client.get("/sdapi/v1/scripts")["txt2img"])


def open_settings_page(page: Any) -> Any:
    page.evaluate("() => [...document.querySelectorAll('#tabs > .tab-nav button')].at(-2).click()")
    page.locator("#settings > .tab-nav button", has_text="MasaCtrl").click()
    sync_api.expect(page.locator("#setting_masactrl_cache_mib input[type=number]")).to_be_visible()
    return page.locator("#settings_masactrl")


def test_settings_page(opened: Callable[..., Any]) -> None:
    page = opened()
    settings = open_settings_page(page)
    screenshot(settings, "settings")
    sync_api.expect(page.locator("#setting_masactrl_cache_mib input[type=number]")).to_have_value("512")
    for name, ticked in (("save_sources", True), ("save_masks", False), ("cache_on_disk", False)):
        assert page.locator(f"#setting_masactrl_{name} input").is_checked() is ticked


def test_the_keyboard_is_enough(opened: Callable[..., Any]) -> None:
    """From the source prompt, Tab reaches every control in the order in which they stand."""
    page = opened()
    open_accordion(page, "txt2img")
    page.locator("#masactrl_txt2img_source_prompt textarea").focus()
    reached = []
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("(document.activeElement.closest('[id^=masactrl_]') || {}).id"))
    order = [name for name in dict.fromkeys(reached) if name]
    wanted = ["method", "preset_gentle", "preset_paper", "preset_strong", "more_targets", "start_step", "end_step"]
    wanted = [f"masactrl_txt2img_{key}" for key in (*wanted, "start_layer", "show_source")]
    assert [name for name in order if name in wanted] == wanted


def newest_picture(data: Path) -> Image.Image:
    """The picture that was saved last, with its infotext."""
    return Image.open(max(data.glob("output*/**/*.png"), key=lambda file: file.stat().st_mtime_ns))


def test_make_and_paste(opened: Callable[..., Any], data: Path, host_paths: HostPaths) -> None:
    """An image's infotext, pasted into a fresh page, restores the accordion, and the image is made again."""
    page = opened()
    fill_request(page, "a cat, standing")
    open_accordion(page, "txt2img")
    page.locator("#masactrl_txt2img_source_prompt textarea").fill(DIFFICULT)
    page.locator("#masactrl_txt2img_method input[value=union]").check()
    page.locator("#masactrl_txt2img_start_layer").locator("textarea, input").fill("7")
    page.locator("#masactrl_txt2img_show_source input").uncheck()  # so that the last picture saved is the target
    generate(page)
    screenshot(page, "made")
    made = newest_picture(data)
    assert "MasaCtrl result: 2 of 6 steps" in made.info["parameters"]

    cleared = opened()
    paste(cleared, made.info["parameters"])
    expect = sync_api.expect
    expect(cleared.locator("#masactrl_txt2img_source_prompt textarea")).to_have_value(DIFFICULT)
    expect(cleared.locator("#masactrl_txt2img_method input[value=union]")).to_be_checked()
    expect(cleared.locator("#masactrl_txt2img_enabled-visible-checkbox")).to_be_checked()
    expect(window_line(cleared, "txt2img")).to_have_text(re.compile("steps 4 to 5 of 6, layers 7 to"))
    screenshot(cleared, "pasted")
    generate(cleared)
    again = newest_picture(data)
    assert again.filename != made.filename
    assert again.info["parameters"] == made.info["parameters"]
    # The Forge family decides by the memory that is free whether cond and uncond share a call, which rounds otherwise.
    allowed = 1 if is_forge(host_paths.checkout) else 0
    assert abs(numpy.asarray(again).astype(int) - numpy.asarray(made)).max() <= allowed


def test_plot(opened: Callable[..., Any], data: Path) -> None:
    """Three start steps against three start layers."""
    page = opened()
    fill_request(page, "a cat, standing")
    open_accordion(page, "txt2img")
    page.locator("#masactrl_txt2img_source_prompt textarea").fill("a cat, sitting")
    choose(page, "#txt2img_script_container #script_list", "X/Y/Z plot")
    plot = "#script_txt2img_xyz_plot"
    for axis, label, values in (("x", "Start step", "0,2,5"), ("y", "Start layer", "0,8,auto")):
        choose(page, f"{plot}_{axis}_type", f"[MasaCtrl] {label}")
        field = page.locator(f"{plot}_{axis}_values textarea")
        for _ in range(10):  # the host empties the field when its answer about the axis comes, which may be late
            field.fill(values)
            page.wait_for_timeout(3000)
            if field.input_value() == values:
                break
    generate(page)
    screenshot(page, "plot")
    plot = newest_picture(data)
    assert "X Type: [MasaCtrl] Start step" in plot.info["parameters"]
    assert "Y Type: [MasaCtrl] Start layer" in plot.info["parameters"]
    assert plot.width >= 3 * 64 and plot.height >= 3 * 64
