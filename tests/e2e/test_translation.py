"""The page in Chinese and Japanese, in a real browser: a WebUI of its own, which reads its language when it starts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lib_masactrl.presets import PRESETS
from lib_masactrl.settings import SETTINGS

from .browser_page import choose, open_accordion, open_settings_page, screenshot, sync_api, window_line
from .client import Client
from .host import REPOSITORY, HostPaths, running

expect = sync_api.expect


@pytest.fixture(scope="module", params=["zh_CN", "ja_JP"])
def language(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def translations(language: str) -> dict[str, str]:
    file = REPOSITORY / "localizations" / f"{language}.json"
    return dict(json.loads(file.read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def client(host_paths: HostPaths, tmp_path_factory: pytest.TempPathFactory, language: str) -> Iterator[Client]:
    data = tmp_path_factory.mktemp(language)
    (data / "config.json").write_text(json.dumps({"localization": language}), encoding="utf-8")
    with running(host_paths, data) as client:
        yield client


@pytest.fixture(autouse=True)
def leaves_no_hook() -> None:
    """Nothing is sampled here."""


def untranslated(lines: list[str], translations: dict[str, str]) -> list[str]:
    return [line for line in lines if line.strip() in translations]


@pytest.mark.parametrize("tab", ["txt2img", "img2img"])
def test_accordion(opened: Callable[..., Any], translations: dict[str, str], language: str, tab: str) -> None:
    """Labels, help, tooltips, and what the script and the preview say: nothing that has a translation is in English."""
    page = opened()
    accordion = open_accordion(page, tab)
    page.locator(f"#masactrl_{tab}_mask input[value=words]").check()
    page.locator(f"#masactrl_{tab}_source_words").locator("textarea, input").fill("cat")
    expect(page.locator(f"#masactrl_{tab}_average_masks")).to_be_visible()
    expect(page.locator(f"#masactrl_{tab}_matched_words").first).not_to_be_empty()
    expect(window_line(page, tab)).not_to_be_empty()
    screenshot(accordion, f"{tab}-{language}")
    said = accordion.inner_text().splitlines()
    titles = accordion.evaluate("node => [...node.querySelectorAll('[title]')].map(control => control.title)")
    assert not untranslated([*said, *titles], translations)
    assert "Control acts" not in window_line(page, tab).inner_text()
    assert {translations[text] for text in ("Source prompt", "Preset", "strong", SETTINGS[2].help)} <= {*said}
    assert {translations[text] for text in (SETTINGS[2].help, PRESETS[0].help)} <= {*titles}


def test_settings_page_and_axes(opened: Callable[..., Any], translations: dict[str, str], language: str) -> None:
    page = opened()
    page.evaluate("switch_to_txt2img()")
    choose(page, "#txt2img_script_container #script_list", "X/Y/Z plot")
    axes = page.locator("#script_txt2img_xyz_plot_x_type")
    axes.locator("input").click()
    expect(axes.locator("ul")).to_contain_text("[MasaCtrl]")
    offered = axes.locator("ul").inner_text().splitlines()
    page.keyboard.press("Escape")
    settings = open_settings_page(page)
    expect(settings).to_contain_text(translations["(so that they survive a restart)"])
    screenshot(settings, f"settings-{language}")
    assert not untranslated([*offered, *settings.inner_text().splitlines()], translations)
    assert translations["[MasaCtrl] Start step"] in [line.strip() for line in offered]
