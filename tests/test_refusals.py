"""What cannot be combined with control is refused by name; what looks like it is not."""

from __future__ import annotations

import importlib
from types import SimpleNamespace

import pytest

from lib_masactrl.errors import SettingsError, UnsupportedCombinationError, UnsupportedModelError
from lib_masactrl.settings import MasaCtrlSettings
from tests.webui_standin import Request


@pytest.fixture
def refusals(host):
    return importlib.import_module("lib_masactrl.host.refusals")


REFERENCE = {"enabled": True, "module": "reference_only"}


@pytest.mark.parametrize("unit", [REFERENCE, {"module": "reference_adain"}, SimpleNamespace(**REFERENCE)], ids=str)
def test_a_reference_unit_is_refused(host, refusals, unit):
    """A dictionary from the API is enabled unless it says otherwise."""
    with pytest.raises(UnsupportedCombinationError, match="the ControlNet unit 'reference_"):
        refusals.check_reference_units(Request(host, script_args=("reference_only", None, unit)))


HARMLESS = [
    {"enabled": False, "module": "reference_only"},
    {"enabled": True, "module": "canny"},
    {"enabled": True, "module": None},
    {},
    SimpleNamespace(enabled=False, module="reference_only"),
    SimpleNamespace(module="reference_only"),  # no unit
    SimpleNamespace(enabled=True),
]


@pytest.mark.parametrize("unit", HARMLESS, ids=str)
def test_other_arguments_are_let_pass(host, refusals, unit):
    refusals.check_reference_units(Request(host, script_args=(unit,)))


@pytest.mark.parametrize("argument", [None, ()])
def test_a_request_without_arguments_has_no_unit(host, refusals, argument):
    refusals.check_reference_units(Request(host, script_args=argument))


@pytest.mark.parametrize(
    ("options", "hires", "refused"),
    [
        ({}, True, False),
        ({"hypertile_enable_unet": True}, False, True),
        ({"hypertile_enable_unet": True}, True, True),
        ({"hypertile_enable_unet_secondpass": True}, True, True),
        ({"hypertile_enable_unet_secondpass": True}, False, False),
    ],
)
def test_hypertile_is_refused_where_it_acts(host, refusals, options, hires, refused):
    vars(host.shared.opts).update(options)
    p = Request(host, enable_hr=hires)
    if refused:
        with pytest.raises(UnsupportedCombinationError, match="Hypertile for the U-Net is on"):
            refusals.check_options(p, MasaCtrlSettings())
    else:
        refusals.check_options(p, MasaCtrlSettings())


def test_a_compiled_u_net_is_refused_by_its_label(host, refusals):
    host.sd_unet.get_unet_option = lambda: SimpleNamespace(label="TensorRT")
    with pytest.raises(UnsupportedCombinationError, match="SD Unet is set to TensorRT,"):
        refusals.check_options(Request(host), MasaCtrlSettings())


@pytest.mark.parametrize(
    ("ratios", "hires", "mask", "refused"),
    [
        ((0.5, 0.5), False, "words", True),
        ((0.0, 0.5), True, "words", True),
        ((0.0, 0.5), False, "words", False),
        ((0.5, 0.5), True, "none", False),
        ((0.0, 0.0), True, "words", False),
    ],
)
def test_token_merging_is_refused_where_masks_would_miss_a_token(host, refusals, ratios, hires, mask, refused):
    p = Request(host, enable_hr=hires, get_token_merging_ratio=lambda for_hr=False: ratios[for_hr])
    settings = MasaCtrlSettings(mask=mask)
    if refused:
        with pytest.raises(UnsupportedCombinationError, match="token merging is on"):
            refusals.check_options(p, settings)
    else:
        refusals.check_options(p, settings)


@pytest.mark.parametrize(("ratio", "refused"), [(0.5, True), (0.0, False)])
def test_token_merging_is_refused_on_the_forge_family(host, refusals, monkeypatch, ratio, refused):
    """Its patches change a layer's input, and control would find out while sampling, too late for `allow_plain`."""
    monkeypatch.setattr(refusals, "host_name", lambda: "Forge")
    p = Request(host, get_token_merging_ratio=lambda for_hr=False: ratio)
    if refused:
        with pytest.raises(UnsupportedCombinationError, match="token merging is on, which on this WebUI"):
            refusals.check_options(p, MasaCtrlSettings())
    else:
        refusals.check_options(p, MasaCtrlSettings())


def test_what_replaces_attention_is_named_by_its_file(refusals):
    def patch():
        """In this very file."""

    def named(**options):
        return refusals.replacing_attention({"transformer_options": options})

    here = "/".join(__file__.split("/")[-3:])
    assert named(patches_replace={"attn1": {("middle", 0): patch}}) == here
    assert named(patches={"attn1_patch": [patch, patch]}) == here
    assert named(patches={"attn1_patch": [print], "attn2_patch": [patch]}) == "builtin_function_or_method"
    assert named() == refusals.replacing_attention({}) == "another extension"
    patch.__code__ = patch.__code__.replace(co_filename=r"C:\Users\Zoë\web ui\extensions\sag\scripts\sag.py")
    assert named(patches={"attn1_patch": [patch]}) == "sag/scripts/sag.py"


@pytest.mark.parametrize(("layer", "refused"), [(None, False), (6, False), (7, True)])
def test_a_start_layer_past_the_last_is_refused(refusals, layer, refused):
    settings = MasaCtrlSettings(start_layer=layer)
    if refused:
        with pytest.raises(SettingsError, match="start_layer is 7, but the loaded model has 6 self-attention layers"):
            refusals.check_model(settings)
    else:
        refusals.check_model(settings)


def image_request(host, **more):
    return Request(host, **{"denoising_strength": 0.5, "steps": 10, "image_mask": None, **more})


def test_an_image_that_can_be_edited(host, refusals):
    for more in ({}, {"denoising_strength": 1}, {"inpainting_fill": 0}, {"image_mask": "mask", "inpainting_fill": 1}):
        for steps in (0, 10, 99):
            refusals.check_real_image(image_request(host, **more), MasaCtrlSettings(inversion_steps=steps))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"denoising_strength": 0}, "the denoising strength is 0"),
        ({"steps": 11}, "inversion_steps is 10, fewer than the 11 sampling steps"),
        ({"image_mask": "mask", "inpainting_fill": 0}, "masked content is not 'original'"),
    ],
)
def test_an_image_that_cannot_be_edited(host, refusals, more, message):
    with pytest.raises(SettingsError, match=message):
        refusals.check_real_image(image_request(host, **more), MasaCtrlSettings(inversion_steps=10))


def test_extra_noise_is_refused(host, refusals):
    host.shared.opts.img2img_extra_noise = 0.1
    with pytest.raises(SettingsError, match="Extra noise multiplier"):
        refusals.check_real_image(image_request(host), MasaCtrlSettings())


@pytest.mark.parametrize("conditioned", [{"channels": 9}, {"channels": 8}, {"key": "crossattn-adm"}], ids=str)
def test_a_checkpoint_that_reads_a_picture_is_refused(host, refusals, conditioned):
    """Inpainting, InstructPix2Pix, unCLIP."""
    model = host.shared.sd_model.model
    model.diffusion_model.in_channels = conditioned.get("channels", 4)
    model.conditioning_key = conditioned.get("key", "crossattn")
    with pytest.raises(UnsupportedModelError, match="reads a picture besides its latents"):
        refusals.check_real_image(image_request(host), MasaCtrlSettings())
