"""The script's life cycle in a WebUI (stand-in): that nothing outlives a request, whatever ends it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from lib_masactrl.errors import SettingsError, UnsupportedCombinationError, UnsupportedModelError
from tests.unets import small_unet
from tests.webui_requests import NAMED, latents, leftovers, run
from tests.webui_standin import Request

TENSORRT = SimpleNamespace(label="TensorRT")


def test_disabled_touches_nothing(host):
    p, processed = run(host, [False, "auto", "", "", "mutual", 4, "", ""])
    assert leftovers(host, p) == []
    assert len(processed.images) == 1
    assert p.extra_generation_params == {}


def test_a_window_that_covers_nothing_gives_the_plain_batch(host):
    for nothing in ({"start_step": 4}, {"start_layer": 6}, {"start_step": 2, "end_step": 2}):
        _, processed = run(host, {**NAMED, **nothing})
        _, plain = run(host, [False], prompt=["a cat running", "a dog sitting"], batch_size=2, subseed_strength=1)
        assert torch.equal(latents(processed), latents(plain))


@pytest.mark.parametrize("args", [{**NAMED, "start_step": 9}, {**NAMED, "start_layer": 7}, {"bogus": 1}])
def test_a_refused_request_makes_no_image_and_is_given_back(host, args):
    p = Request(host)
    with pytest.raises(SettingsError, match="MasaCtrl: "):
        host.process_images(p, host.script, args)
    assert leftovers(host, p) == []
    assert (p.batch_size, p.do_not_save_grid) == (1, False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h, p: vars(p).update(prompt="a cat AND a hat"), "AND in the prompt"),
        (lambda h, p: vars(p).update(script_args=({"module": "reference_only"},)), "reference_only"),
        (lambda h, p: vars(p).update(init_images=[1, 2, 3]), "3 init images for a batch size of 1"),
        (lambda h, p: vars(h.sd_unet).update(get_unet_option=lambda: TENSORRT), "SD Unet is set to TensorRT"),
        (lambda h, p: vars(h.shared.opts).update(hypertile_enable_unet=True), "Hypertile"),
    ],
)
def test_what_cannot_be_combined_is_refused_in_words(host, change, message):
    p = Request(host)
    change(host, p)
    with pytest.raises(UnsupportedCombinationError, match=message) as refusal:
        host.process_images(p, host.script, NAMED)
    assert "\n" not in str(refusal.value)
    assert leftovers(host, p) == []


@pytest.mark.parametrize("pictures", [[], [None], None])
def test_img2img_without_a_picture_is_refused_in_words(host, pictures):
    p = Request(host, init_images=pictures)
    with pytest.raises(SettingsError, match="img2img was given no picture"):
        host.process_images(p, host.script, NAMED)
    assert leftovers(host, p) == []


def test_models_without_a_unet_are_refused(host):
    host.use_model(torch.nn.Linear(1, 1))
    with pytest.raises(UnsupportedModelError, match="no U-Net self-attention"):
        run(host)
    host.use_model(None)
    with pytest.raises(UnsupportedModelError, match="has no U-Net"):
        run(host)


@pytest.mark.parametrize("given", [{}, {"batch_size": 2, "n_iter": 2}, {"init_images": ["one"]}])
def test_what_cannot_be_controlled_is_made_plain_if_that_is_allowed(host, given):
    joined = "a cat AND a hat"
    p, allowed = run(host, {**NAMED, "source": "prompt", "allow_plain": True}, prompt=joined, **given)
    _, plain = run(host, [False], prompt=joined, **given)
    assert torch.equal(latents(allowed), latents(plain))
    assert allowed.all_seeds == plain.all_seeds
    assert leftovers(host, p) == []
    assert "AND in the prompt" in p.extra_generation_params["MasaCtrl refusal"]
    assert "MasaCtrl enabled" not in p.extra_generation_params
    assert len(p.comments) == 1 and "without control" in p.comments[0]


def test_a_wrong_setting_is_an_error_whether_plain_pictures_are_allowed_or_not(host):
    with pytest.raises(SettingsError, match="start_layer"):
        run(host, {**NAMED, "start_layer": 7, "allow_plain": True})


def test_an_error_inside_sampling_leaves_nothing_and_the_next_image_is_the_same(host):
    before = latents(run(host, [False])[1])
    p = Request(host, batch_size=2)
    host.raise_at = 2
    with pytest.raises(RuntimeError, match="out of memory"):
        host.process_images(p, host.script, NAMED)
    host.raise_at = None
    assert leftovers(host, p) == []
    assert p.batch_size == 2
    assert torch.equal(latents(run(host, [False])[1]), before)


def test_a_request_object_used_again_grows_no_further(host):
    p, first = run(host, batch_size=2)
    second = host.process_images(p, host.script, NAMED)
    assert torch.equal(latents(first), latents(second))
    assert p.batch_size == 2


def test_a_refiner_that_swaps_the_model_is_controlled_too(host):
    first, refiner = host.shared.sd_model.model.diffusion_model, small_unet(levels=2, seed=3)
    p = Request(host)
    host.script_callbacks.on_cfg_denoiser(
        lambda _: host.use_model(refiner if p.sampler.model_wrap_cfg.step > 1 else first)
    )
    processed = host.process_images(p, host.script, NAMED)
    assert processed.infotexts[0]["MasaCtrl result"] == "3 of 4 steps; 6 of 6 layers"
    assert all("forward" not in vars(m) and not m._forward_pre_hooks for u in (first, refiner) for m in u.modules())


@pytest.mark.parametrize(
    ("window", "result"),
    [
        ({"start_step": 1}, "7 of 8 steps; 6 of 6 layers"),
        ({"start_step": 1, "end_step": 3}, "2 of 8 steps; 6 of 6 layers"),
        ({"start_step": 4}, "0 of 8 steps; 0 of 6 layers"),
    ],
)
def test_the_second_pass_of_hires_fix_goes_on_as_the_first_ended(host, window, result):
    p = Request(host, enable_hr=True)
    p.all_hr_prompts, p.all_hr_negative_prompts = ["a cat running"] * 2, ["blurry"] * 2
    processed = host.process_images(p, host.script, {**NAMED, **window})
    assert processed.infotexts[0]["MasaCtrl result"] == result
    assert p.all_hr_prompts == ["a cat running", "a dog sitting"]


def test_control_that_never_happens_is_an_error(host, monkeypatch):
    """Another extension may replace the attention calls altogether."""
    from ldm.modules.attention import BasicTransformerBlock

    monkeypatch.setattr(BasicTransformerBlock, "_forward", lambda self, x, context=None: x)
    with pytest.raises(UnsupportedCombinationError, match=r"layer \d of 6 is replaced by another extension"):
        run(host)


def test_a_wrapper_laid_over_ours_is_harmless_afterwards(host):
    p = Request(host)
    original = host.script.process

    def process_then_wrap(p, *args):
        original(p, *args)
        ours = p.sample
        p.sample = lambda: ours()

    host.script.process = process_then_wrap
    host.process_images(p, host.script, NAMED)
    host.script.process = original
    after = host.process_images(p, host.script, False)
    assert torch.equal(latents(after), latents(run(host, [False])[1]))
