"""Law 11: what cannot work is refused with one sentence that names the field, and nothing is generated."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from .client import Client, HttpError, controlled, fault, request, same, with_script
from .host import HostPaths

TEN_MEGABYTES = "cat " * 2_500_000

#: (field that the message names, settings) on top of an otherwise valid request.
MALFORMED: list[tuple[str, dict[str, Any]]] = [
    ("enabled", {"enabled": "yes"}),
    ("enabled", {"enabled": 1}),
    ("enabled", {"enabled": None}),
    ("source_prompt", {"source_prompt": ""}),
    ("source_prompt", {"source_prompt": " \n "}),
    ("source_prompt", {"source_prompt": None}),
    ("source_prompt", {"source_prompt": ["a cat"]}),
    ("source_prompt", {"source_prompt": TEN_MEGABYTES}),
    ("more_targets", {"more_targets": ["a dog", "a bird"]}),
    ("more_targets", {"more_targets": "a dog\n" * 40}),
    ("more_targets", {"more_targets": TEN_MEGABYTES}),
    ("method", {"method": "magic"}),
    ("method", {"method": 0}),
    ("method", {"method": TEN_MEGABYTES}),
    ("start_step", {"start_step": "four"}),
    ("start_step", {"start_step": -1}),
    ("start_step", {"start_step": 2.5}),
    ("start_step", {"start_step": math.nan}),
    ("start_step", {"start_step": math.inf}),
    ("start_step", {"start_step": 10**30}),
    ("start_step", {"start_step": True}),
    ("start_step", {"start_step": None}),
    ("start_step", {"start_step": 9}),
    ("end_step", {"end_step": 1}),
    ("end_step", {"end_step": {"step": 4}}),
    ("start_layer", {"start_layer": 99}),
    ("start_layer", {"start_layer": "deep"}),
    ("start_layer", {"start_layer": [[4]]}),
    ("source", {"source": "picture"}),
    ("source", {"source": "image"}),
    ("inversion_steps", {"inversion_steps": -1}),
    ("inversion_refinements", {"inversion_refinements": 101}),
    ("rectify", {"rectify": "maybe"}),
    ("show_source", {"show_source": "maybe"}),
    ("start_stp", {"start_stp": 4}),
    ("{'a", {"{'a": TEN_MEGABYTES}),
    ("catcat", {"cat" * 3_000_000: 1}),
]
POSITIONAL: list[tuple[str, list[Any]]] = [
    ("enabled", [None]),
    ("enabled", [[{"enabled": True}]]),
    ("source", [True, "picture"]),
    ("source", [True, "image"]),
    ("source_prompt", [True]),
    ("source_prompt", [True, "prompt", 5]),
    ("method", [True, "prompt", "a cat", "", "magic"]),
    ("start_step", [True, "prompt", "a cat", "", "mutual", "four"]),
]


def refused(client: Client, asked: dict[str, Any]) -> str:
    """The sentence with which a request is refused."""
    with pytest.raises(HttpError) as refusal:
        client.txt2img(asked)
    assert refusal.value.status == 422, refusal.value.body[:500]
    message = refusal.value.message
    assert message.startswith("MasaCtrl: ") and message.count("MasaCtrl: ") == 1, message[:1000]
    assert "\n" not in message and len(message) < 400, message[:1000]
    return message


@pytest.mark.parametrize(("field", "settings"), MALFORMED, ids=[f"{n}-{f[:20]}" for n, (f, _) in enumerate(MALFORMED)])
def test_named_setting(client: Client, field: str, settings: dict[str, Any]) -> None:
    assert field in refused(client, controlled(request(), **settings))


@pytest.mark.parametrize(("field", "args"), POSITIONAL, ids=[f"{n}-{f}" for n, (f, _) in enumerate(POSITIONAL)])
def test_positional_setting(client: Client, field: str, args: list[Any]) -> None:
    assert field in refused(client, with_script(request(), "MasaCtrl", args))


@pytest.mark.parametrize(
    ("field", "args"),
    [("enabled is 'e'", "enabled"), ("source_prompt", [{"enabled": True}] * 5000)],
    ids=["text", "many"],
)
def test_arguments_that_the_host_takes_for_a_list(client: Client, field: str, args: Any) -> None:
    """As many items as there are settings: the letters of a text, or objects, of which the first one counts."""
    assert field in refused(client, with_script(request(), "MasaCtrl", args))


@pytest.mark.parametrize(
    ("args", "error"), [({"enabled": True}, "KeyError"), (7, "TypeError")], ids=["object", "number"]
)
def test_arguments_that_are_no_list(client: Client, args: Any, error: str) -> None:
    """The host itself fails over them, before any script is asked (``init_script_args``)."""
    with pytest.raises(HttpError) as refusal:
        client.txt2img(with_script(request(), "MasaCtrl", args))
    assert (refusal.value.status, json.loads(refusal.value.body)["error"]) == (500, error)


def test_body_that_is_no_json(client: Client) -> None:
    body = json.dumps(controlled(request())).encode()
    with pytest.raises(HttpError) as refusal:
        client.post_bytes("/sdapi/v1/txt2img", body[:-3])
    assert refusal.value.status == 422


@pytest.mark.parametrize(
    "asked",
    [
        controlled(request("a cat AND a dog")),
        controlled(request(), source_prompt="a cat AND a hat:0.5"),
        controlled(request(), more_targets="a cat AND a dog"),
        controlled(request(enable_hr=True, hr_upscaler="Latent", hr_prompt="a cat AND a dog")),
    ],
    ids=["target", "source", "more", "hires"],
)
def test_and_prompt(client: Client, asked: dict[str, Any]) -> None:
    assert "AND" in refused(client, asked)


@pytest.mark.parametrize(
    ("hires", "option"),
    [(False, "hypertile_enable_unet"), (True, "hypertile_enable_unet"), (True, "hypertile_enable_unet_secondpass")],
)
def test_hypertile(client: Client, host_paths: HostPaths, hires: bool, option: str) -> None:
    if not (host_paths.checkout / "extensions-builtin" / "hypertile").is_dir():
        pytest.skip("this WebUI has no Hypertile")
    base = request(enable_hr=hires, hr_upscaler="Latent", denoising_strength=0.5, override_settings={option: True})
    before = client.txt2img(request()).images
    assert "Hypertile" in refused(client, controlled(base))
    assert same(client.txt2img(request()).images, before)


def test_compiled_unet(client: Client) -> None:
    """TensorRT and ONNX U-Nets bypass the attention modules: refused, and served again without."""
    before = client.txt2img(controlled(request())).images
    compiled = {"override_settings": {"sd_unet": "[Fault] compiled"}}
    client.txt2img(request(**compiled))
    assert "SD Unet is set to [Fault] compiled" in refused(client, controlled(request(**compiled)))
    assert same(client.txt2img(controlled(request())).images, before)


@pytest.mark.parametrize("network", ["Flux", "Chroma", "SD 3 in Forge", "SD 3 in A1111", "no attention"])
def test_network_without_unet_self_attention(client: Client, network: str) -> None:
    """The checkpoint's U-Net replaced by the host's own class of such a network, in small."""
    if network not in client.get("/fault/networks"):
        pytest.skip(f"this WebUI has no {network}")
    before = client.txt2img(controlled(request())).images
    assert "has no U-Net self-attention layers" in refused(client, fault(controlled(request()), network=network))
    assert same(client.txt2img(controlled(request())).images, before)


@pytest.mark.parametrize(
    "changes",
    [{}, {"batch_size": 2, "n_iter": 2}, {"enable_hr": True, "hr_upscaler": "Latent", "denoising_strength": 0.5}],
    ids=["one", "batches", "hires"],
)
def test_plain_if_allowed(client: Client, changes: dict[str, Any]) -> None:
    """The picture that the host makes by itself, which says why it is that; a wrong setting stays an error."""
    base = request("a cat AND a dog", **changes)
    allowed, plain = client.txt2img(controlled(base, allow_plain=True)), client.txt2img(base)
    assert same(allowed.images, plain.images)
    assert allowed.info["all_seeds"] == plain.info["all_seeds"]
    assert all('MasaCtrl refusal: "AND in the prompt' in text for text in allowed.infotexts)
    assert not any("MasaCtrl enabled" in text for text in allowed.infotexts)
    assert "start_layer" in refused(client, controlled(base, allow_plain=True, start_layer=99))


def test_plain_if_allowed_of_a_network_without_self_attention(client: Client) -> None:
    """Of those above, the hosts can sample with one."""
    allowed = client.txt2img(fault(controlled(request(), allow_plain=True), network="no attention"))
    assert same(allowed.images, client.txt2img(fault(request(), network="no attention")).images)
    assert not same(allowed.images, client.txt2img(request()).images)
    assert "MasaCtrl refusal" in allowed.infotexts[0] and "no U-Net self-attention layers" in allowed.infotexts[0]


@pytest.mark.parametrize(
    ("options", "said"),
    [({"hypertile_enable_unet": True}, "Hypertile"), ({"sd_unet": "[Fault] compiled"}, "SD Unet")],
    ids=["hypertile", "compiled"],
)
def test_plain_if_allowed_under_an_option(
    client: Client, host_paths: HostPaths, options: dict[str, Any], said: str
) -> None:
    if said == "Hypertile" and not (host_paths.checkout / "extensions-builtin" / "hypertile").is_dir():
        pytest.skip("this WebUI has no Hypertile")
    base = request(override_settings=options)
    allowed, plain = client.txt2img(controlled(base, allow_plain=True)), client.txt2img(base)
    assert same(allowed.images, plain.images)
    assert all("MasaCtrl refusal" in text and said in text for text in allowed.infotexts)


def test_upper_case_and_inside_a_word_is_no_conjunction(client: Client) -> None:
    assert len(client.txt2img(controlled(request("a LAND, standing"), source_prompt="a BAND")).images) == 2


def test_server_keeps_serving(client: Client) -> None:
    """Refusals in a row leave both tabs as they were."""
    plain, asked = request(batch_size=2), controlled(request())
    before, before_controlled = client.txt2img(plain), client.txt2img(asked)
    for _, settings in MALFORMED[:5]:
        refused(client, controlled(request(), **settings))
    assert same(client.txt2img(plain).images, before.images)
    assert same(client.txt2img(asked).images, before_controlled.images)
