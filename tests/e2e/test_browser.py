"""The accordion in a real browser: headless Chromium on the page that the WebUI serves.

Screenshots stay in ``outputs/browser``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
from PIL import Image

from .browser_page import (
    choose,
    chosen_checkpoint,
    fill_request,
    generate,
    open_accordion,
    open_settings_page,
    paste,
    screenshot,
    switched_on,
    sync_api,
    window_line,
)
from .client import Client, controlled, encoded, request
from .host import HostPaths

#: Whatever an infotext could stumble over, in one text.
DIFFICULT = 'a cat, sitting: "very" still,\nNegative prompt: none, Steps: 3\n猫, кошка'


@pytest.mark.parametrize("tab", ["txt2img", "img2img"])
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1600])
def test_accordion(opened: Callable[..., Any], tab: str, theme: str, width: int) -> None:
    page = opened(theme, width)
    accordion = open_accordion(page, tab)
    screenshot(accordion, f"{tab}-{theme}-{width}")
    assert accordion.evaluate("node => node.scrollWidth <= node.clientWidth"), "something sticks out at the side"
    assert page.locator(f"#masactrl_{tab}_start_step").get_attribute("title")


def test_picture_of_the_readme(opened: Callable[..., Any]) -> None:
    """``docs/accordion.png`` is this screenshot."""
    page = opened("light", 1600)
    paste(page, "1girl, walking in the snow\nSteps: 50, Sampler: DDIM, CFG scale: 7, Seed: 1, Size: 512x512")
    sync_api.expect(page.locator("#txt2img_steps input[type=number]")).to_have_value("50")  # it switches control off
    accordion = open_accordion(page, "txt2img")
    page.locator("#masactrl_txt2img_advanced > .label-wrap").click()
    page.locator("#masactrl_txt2img_source_prompt textarea").fill("1girl, sitting in the snow")
    sync_api.expect(switched_on(page, "txt2img")).to_be_checked()
    page.locator("#masactrl_txt2img_mask input[value=words]").check()
    page.locator("#masactrl_txt2img_source_words").locator("textarea, input").fill("1girl")
    sync_api.expect(window_line(page, "txt2img")).to_have_text(
        re.compile("Control acts in steps 4 to 49 of 50, layers")
    )
    sync_api.expect(page.locator("#masactrl_txt2img_matched_words mark").first).to_be_visible()
    page.mouse.move(0, 0)
    screenshot(accordion, "accordion")


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
    expect.to_have_text("Will be refused: start step 8, but 6 steps are sampled.")
    screenshot(page.locator("#masactrl_txt2img_enabled"), "window")


def test_the_model_is_known_before_it_is_loaded(
    opened: Callable[..., Any], client: Client, host_paths: HostPaths, layers: int
) -> None:
    """Forge main loads a chosen checkpoint when it is needed, the others at once; its file tells enough."""
    before = client.get("/sdapi/v1/options")["sd_model_checkpoint"]
    client.post("/sdapi/v1/options", {"sd_model_checkpoint": "second"})
    try:
        known = client.get("/masactrl/status")["model"]
        assert known["family"] == "SD 1" and known["self_attention_layers"] == layers
        assert known["loaded"] is not (host_paths.checkout / "backend").is_dir()
        page = opened()
        open_accordion(page, "txt2img")
        said = re.compile(rf"layers \d+ to {layers - 1} of {layers} ")
        sync_api.expect(window_line(page, "txt2img")).to_have_text(said)
        # A page that was opened meanwhile tells the server of its own checkpoint: not after what follows.
        sync_api.expect(chosen_checkpoint(page)).to_have_value(re.compile("second"))
        page.close()
    finally:
        # Both, as AUTOMATIC1111 loads nothing for a setting that is what it was, whatever is loaded.
        for name in ("second", before):
            client.post("/sdapi/v1/options", {"sd_model_checkpoint": name})
        client.txt2img(request())  # loads it


def test_a_model_chosen_in_the_page_is_followed(opened: Callable[..., Any]) -> None:
    """The page asks again about the model: here it is told of another than there is."""
    page = opened()
    open_accordion(page, "txt2img")
    other = {"family": "SDXL", "self_attention_layers": 70, "automatic_start_layer": 44, "refusal": "", "loaded": False}
    page.route("**/masactrl/status", lambda route: route.fulfill(json={"model": other}))
    checkpoint = chosen_checkpoint(page)
    checkpoint.click()
    checkpoint.fill("second")  # and not taken, because the host would load it
    sync_api.expect(window_line(page, "txt2img")).to_have_text(re.compile("layers 44 to 69 of 70 .SDXL."))


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


def test_make_and_paste(opened: Callable[..., Any], data: Path) -> None:
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
    expect(switched_on(cleared, "txt2img")).to_be_checked()
    expect(window_line(cleared, "txt2img")).to_have_text(re.compile("steps 4 to 5 of 6, layers 7 to"))
    screenshot(cleared, "pasted")
    generate(cleared)
    again = newest_picture(data)
    assert again.filename != made.filename
    assert again.info["parameters"] == made.info["parameters"]
    # Not the alpha channel, in which Forge and reForge hide the infotext, compressed with the time of day.
    assert numpy.array_equal(again.convert("RGB"), made.convert("RGB"))


def test_plot(opened: Callable[..., Any]) -> None:
    """Three start steps against three start layers, of which two are a range."""
    page = opened()
    fill_request(page, "a cat, standing")
    open_accordion(page, "txt2img")
    page.locator("#masactrl_txt2img_source_prompt textarea").fill("a cat, sitting")
    choose(page, "#txt2img_script_container #script_list", "X/Y/Z plot")
    plot = "#script_txt2img_xyz_plot"
    for axis, label, values in (("x", "Start step", "0,2,5"), ("y", "Start layer", "0-8 (+8), auto")):
        choose(page, f"{plot}_{axis}_type", f"[MasaCtrl] {label}")
        field = page.locator(f"{plot}_{axis}_values textarea")
        for _ in range(10):  # the host empties the field when its answer about the axis comes, which may be late
            field.fill(values)
            page.wait_for_timeout(3000)
            if field.input_value() == values:
                break
    generate(page)
    screenshot(page, "plot")
    first_cell = "MasaCtrl start layer: 0, MasaCtrl start step: 0"
    sync_api.expect(page.locator("#html_info_txt2img").first).to_contain_text(first_cell)
    size = page.locator("#txt2img_gallery img").first.evaluate("node => [node.naturalWidth, node.naturalHeight]")
    assert min(size) >= 3 * 64
