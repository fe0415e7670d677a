"""The WebUI's page in a browser: what a user does there, for the tests of the accordion."""

from __future__ import annotations

import re
from typing import Any

import pytest

from .host import REPOSITORY

sync_api = pytest.importorskip("playwright.sync_api", reason="NO BROWSER TESTED: pip install playwright")

SCREENSHOTS = REPOSITORY / "outputs" / "browser"


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


def switched_on(page: Any, tab: str) -> Any:
    """The box behind the accordion's own; AUTOMATIC1111 1.6 shows none, an open accordion is on."""
    return page.locator(f"#masactrl_{tab}_enabled-checkbox input")


def open_settings_page(page: Any) -> Any:
    page.evaluate("() => [...document.querySelectorAll('#tabs > .tab-nav button')].at(-2).click()")
    page.locator("#settings > .tab-nav button", has_text="MasaCtrl").click()
    sync_api.expect(page.locator("#setting_masactrl_cache_mib input[type=number]")).to_be_visible()
    return page.locator("#settings_masactrl")


def chosen_checkpoint(page: Any) -> Any:
    """The page's checkpoint: its name, as text in a list."""
    return page.locator(".model_selection, #setting_sd_model_checkpoint").locator("input")
