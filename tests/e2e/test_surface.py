"""Law 10 on the product: what API, infotext and script list say agrees."""

from __future__ import annotations

import pytest

from lib_masactrl.settings import SETTINGS

from .client import Client, HttpError, api_fields, controlled, request, same, with_script

TARGET, SOURCE = "a cat, standing", "a cat, sitting"


def test_script_info(client: Client) -> None:
    """One script per tab, with the settings in the order of positional arguments."""
    entries = [entry for entry in client.script_info() if entry["name"] == "masactrl"]
    assert sorted(entry["is_img2img"] for entry in entries) == [False, True]
    for entry in entries:
        assert entry["is_alwayson"]
        labels = [argument["label"] for argument in entry["args"]]
        assert labels[1:] == [setting.label for setting in SETTINGS[1:]]  # the first is the accordion's own
        values = [argument["value"] for argument in entry["args"]]
        assert [setting.parse(value) for setting, value in zip(SETTINGS, values)] == [s.default for s in SETTINGS]


def test_the_accordions_are_built_without_a_warning(client: Client) -> None:
    """Gradio 3 and 4 warn of parameters, values and components that they do not know."""
    assert client.get("/fault/page_warnings") == []


def test_positional_is_named(client: Client) -> None:
    """Numbers as texts too, as text fields give them."""
    named = client.txt2img(controlled(request(TARGET), method="union"))
    given = {"enabled": True, "source_prompt": SOURCE, "method": "union", "start_step": 2, "start_layer": "4"}
    positional = with_script(request(TARGET), "MasaCtrl", [given.get(s.key, s.default) for s in SETTINGS])
    assert same(client.txt2img(positional).images, named.images)


@pytest.mark.parametrize("args", [[], [{}], [False, "", "", "magic"], [{"enabled": False, "start_step": 3}]])
def test_switched_off_is_plain(client: Client, args: list[object]) -> None:
    """Law 1, also for a disabled accordion with nonsense in its fields."""
    plain = client.txt2img(request(TARGET))
    off = client.txt2img(with_script(request(TARGET), "MasaCtrl", args))
    assert same(off.images, plain.images)
    assert "MasaCtrl" not in off.infotexts[0]


def test_what_is_for_controlnet_is_there_beside_it_alone(client: Client) -> None:
    present = "controlnet" in client.get("/sdapi/v1/scripts")["txt2img"]
    for tab in ("txt2img", "img2img"):
        components = client.get("/config")["components"]
        ids = {entry["props"].get("elem_id"): entry["props"]["visible"] for entry in components if entry["props"]}
        assert ids[f"masactrl_{tab}_control_guides"] == present
        assert ("[MasaCtrl] ControlNet guides" in client.get("/fault/axes")[tab]) == present
    if not present:
        with pytest.raises(HttpError, match="no ControlNet extension is active") as refusal:
            client.txt2img(controlled(request(TARGET), control_guides="source"))
        assert refusal.value.status == 422


def test_infotext_reports_settings_and_result(client: Client) -> None:
    """A run reports how many steps and layers were really controlled."""
    result = client.txt2img(controlled(request(TARGET, sampler_name="Euler"), start_step=3, end_step=7))
    target = result.infotexts[0]
    assert "MasaCtrl enabled: True" in target
    assert f'MasaCtrl source prompt: "{SOURCE}"' in target
    assert "MasaCtrl start step: 3" in target and "MasaCtrl end step: 7" in target
    assert "MasaCtrl result: 4 of 8 steps; " in target


def test_infotext_says_what_did_nothing(client: Client) -> None:
    """Not refused: a plot may have the mask as its axis, and an accordion keeps what stands in its fields."""
    idle = {"source_words": "cat", "mask_threshold": 0.3, "show_masks": True, "rectify": False}
    infotext = client.txt2img(controlled(request(TARGET), **idle)).infotexts[0]
    assert 'MasaCtrl without effect: "source words, mask threshold, rectify, show masks"' in infotext
    assert "MasaCtrl mask threshold: 0.3" in infotext
    assert "without effect" not in client.txt2img(controlled(request(TARGET))).infotexts[0]


def test_infotext_of_each_branch(client: Client) -> None:
    """A source's infotext makes the plain picture again, a target's the target."""
    if "scheduler" not in api_fields(client):  # came with 1.9, as infotext entries per image did
        pytest.skip("this WebUI has one infotext entry for the whole batch (before 1.9)")
    result = client.txt2img(controlled(request(TARGET), more_targets="a dog, running"))
    first, second, source = result.infotexts
    assert "MasaCtrl branch: target 1" in first and "MasaCtrl more targets: " in first
    assert "MasaCtrl branch: target 2" in second and "MasaCtrl more targets: " not in second
    assert "MasaCtrl branch: source" in source and "MasaCtrl enabled" not in source


def test_infotext_round_trip(client: Client) -> None:
    """Law 10: pasting the target's infotext makes target and source again."""
    fields = api_fields(client)
    if "infotext" not in fields:
        pytest.skip("this WebUI's API takes no infotext")
    # Forge reads its styles out of every infotext and fails over their type, MasaCtrl or not; so they are given here.
    given: dict[str, list[str]] = {"styles": []}
    settings = {"method": "union", "start_step": 3, "end_step": 6, "start_layer": 7}
    result = client.txt2img(controlled(request(TARGET, sampler_name="Euler a"), **settings))
    again = client.txt2img({"infotext": result.infotexts[0], **given})
    assert same(again.images, result.images)
    if "scheduler" in fields:  # else the source's infotext is the target's, see above
        plain = client.txt2img({"infotext": result.infotexts[1], **given})
        assert same(plain.images, client.txt2img(request(SOURCE, sampler_name="Euler a")).images)


def test_infotext_of_an_earlier_request_does_not_stay(client: Client) -> None:
    client.txt2img(controlled(request(TARGET)))
    assert "MasaCtrl" not in client.txt2img(request(TARGET)).infotexts[0]
