"""The script's life cycle in a WebUI (stand-in): what a request becomes, and that nothing outlives it."""

from __future__ import annotations

import importlib
import types

import pytest
import torch

from lib_masactrl.errors import SettingsError, UnsupportedCombinationError, UnsupportedModelError
from tests.unets import small_unet
from tests.webui_standin import Request, StandIn, installed

NAMED = {"enabled": True, "source_prompt": "a dog sitting", "start_step": 1, "start_layer": 0}


class Script:
    """`scripts/masactrl.py` without its user interface, which needs Gradio."""

    def __init__(self, a1111):
        self.a1111 = a1111
        self.before_process = lambda p, *args: a1111.refusing(lambda _, p, *a: a1111.begin(p, a))(self, p, *args)
        self.process = lambda p, *args: a1111.refusing(lambda _, p, *a: a1111.prepare(p))(self, p, *args)

    def postprocess_batch_list(self, p, pp, *args, batch_number=0):
        self.a1111.drop_sources(p, pp, batch_number)

    def postprocess(self, p, processed, *args):
        self.a1111.finish(p, processed)


@pytest.fixture
def host():
    with installed() as host:
        host.script = Script(importlib.import_module("lib_masactrl.host.a1111"))
        yield host
        assert host.errors == []


def run(host: StandIn, args=NAMED, **given):
    p = Request(host, **given)
    return p, host.process_images(p, host.script, *([args] if isinstance(args, dict) else args))


def leftovers(host: StandIn, p: Request) -> list[object]:
    unet = host.shared.sd_model.model.diffusion_model
    hooked = [m for m in unet.modules() if "forward" in vars(m) or m._forward_pre_hooks]
    own = [name for name in vars(p) if name.startswith("masactrl") or name in ("init", "sample", "save_samples")]
    return [*hooked, *host.script_callbacks.registered, *own]


def latents(processed) -> torch.Tensor:
    return torch.stack(processed.images)


def test_disabled_touches_nothing(host):
    p, processed = run(host, [False, "auto", "", "", "mutual", 4, "", ""])
    assert leftovers(host, p) == []
    assert len(processed.images) == 1
    assert p.extra_generation_params == {}


def test_one_image_becomes_a_target_and_its_source_with_one_seed(host):
    p, processed = run(host)
    assert processed.all_prompts == ["a cat running", "a dog sitting"]
    assert processed.all_seeds == [5, 5]
    assert processed.all_subseeds == [90, 90]
    assert processed.all_negative_prompts == ["blurry"] * 2
    _, plain = run(host, [False], prompt=["a cat running", "a dog sitting"], batch_size=2, seed=5, subseed_strength=1)
    assert torch.equal(latents(processed)[1], latents(plain)[1])
    assert not torch.equal(latents(processed)[0], latents(plain)[0])
    assert p.batch_size == 1
    assert not p.do_not_save_grid


def test_a_window_that_covers_nothing_gives_the_plain_batch(host):
    for nothing in ({"start_step": 4}, {"start_layer": 6}, {"start_step": 2, "end_step": 2}):
        _, processed = run(host, {**NAMED, **nothing})
        _, plain = run(host, [False], prompt=["a cat running", "a dog sitting"], batch_size=2, subseed_strength=1)
        assert torch.equal(latents(processed), latents(plain))


@pytest.mark.parametrize(("given", "grid"), [({}, False), ({"batch_size": 2}, True), ({"n_iter": 2}, True)])
def test_one_group_makes_no_grid_so_that_the_target_is_the_first_picture(host, given, grid):
    seen = []
    p = Request(host, **given)
    p.init = lambda *_: seen.append(not p.do_not_save_grid)
    host.process_images(p, host.script, NAMED)
    assert seen == [grid]


def test_groups_keep_their_own_seeds_over_batches(host):
    args = {**NAMED, "more_targets": "a cat asleep"}
    _p, processed = run(host, args, batch_size=2, n_iter=2)
    batch = ["a cat running", "a cat asleep"] * 2 + ["a dog sitting"] * 2
    assert processed.all_prompts == batch * 2
    assert processed.all_seeds == [5, 5, 6, 6, 5, 6, 7, 7, 8, 8, 7, 8]
    assert [info["MasaCtrl branch"] for info in processed.infotexts[:6]] == [
        *["target 1", "target 2"] * 2,
        *["source"] * 2,
    ]
    alone = run(host, NAMED, seed=6)[1]
    torch.testing.assert_close(latents(processed)[2], latents(alone)[0], rtol=1e-4, atol=1e-4)


def test_a_prompt_list_of_a_script_may_leave_the_last_batch_smaller(host):
    _p, processed = run(host, prompt=["one", "two", "three"], batch_size=2, n_iter=2)
    assert processed.all_prompts == ["one", "two", "a dog sitting", "a dog sitting", "three", "a dog sitting"]
    branches = [info["MasaCtrl branch"] for info in processed.infotexts]
    assert branches == ["target 1", "target 1", "source", "source", "target 1", "source"]


def test_hidden_sources_leave_images_lists_and_infotexts_together(host):
    args = {**NAMED, "show_source": False, "more_targets": "a cat asleep"}
    _p, processed = run(host, args, n_iter=2)
    assert len(processed.images) == len(processed.infotexts) == 4
    assert (
        processed.all_prompts
        == [info["prompt"] for info in processed.infotexts]
        == [
            "a cat running",
            "a cat asleep",
        ]
        * 2
    )
    assert processed.all_seeds == [info["seed"] for info in processed.infotexts] == [5, 5, 6, 6]


def test_sources_are_saved_unless_the_settings_page_says_no(host):
    given = {"batch_size": 2, "n_iter": 2, "seed": 5}
    _, processed = run(host, **given)
    assert [prompt for prompt, _ in host.saved] == processed.all_prompts
    host.saved.clear()
    host.shared.opts.masactrl_save_sources = False
    p, kept = run(host, **given)
    assert torch.equal(latents(kept), latents(processed))
    assert host.saved == [("a cat running", "")] * 4
    assert leftovers(host, p) == []


def test_what_the_host_saves_while_it_samples_is_not_decided_by_an_earlier_batch(host):
    """Pictures "before highres fix"; the last picture of the batch before was a source."""
    host.shared.opts.masactrl_save_sources = False
    p, answers = Request(host, n_iter=2), []
    original = p.sample
    p.sample = lambda: (answers.append(bool(p.save_samples())), original())[1]
    host.process_images(p, host.script, NAMED)
    assert answers == [True, True]


def test_nothing_is_saved_of_a_request_that_saves_nothing(host):
    host.shared.opts.masactrl_save_sources = False
    p = Request(host)
    p.save_samples = lambda: False
    host.process_images(p, host.script, NAMED)
    assert host.saved == []


@pytest.mark.parametrize(("wanted", "saves", "files"), [(True, True, 2), (False, True, 0), (True, False, 0)])
def test_masks_are_saved_if_the_settings_page_and_the_request_say_so(host, wanted, saves, files):
    host.shared.opts.masactrl_save_masks = wanted
    p = Request(host)
    host.script.before_process(p, NAMED)
    batch = getattr(p, host.script.a1111.BATCH)
    batch.shown_masks += ["target", "source"]
    p.save_samples = lambda: saves
    processed = types.SimpleNamespace(images=[])
    host.script.postprocess(p, processed)
    assert processed.images == ["target", "source"]
    assert host.saved == [("", "-masactrl-mask")] * files


def test_styles_are_applied_to_every_branch(host):
    args = {**NAMED, "more_targets": "a cat asleep"}
    _, processed = run(host, args, styles=["oil"])
    assert processed.all_prompts == ["a cat running, oil", "a cat asleep, oil", "a dog sitting, oil"]


def test_network_tags_of_every_branch_reach_the_hosts_first_prompt(host):
    args = {**NAMED, "source_prompt": "a dog <lora:dog:1> <lora:cat:0.2>", "more_targets": "x <lora:dog:1>"}
    _, processed = run(host, args, prompt="a cat <lora:cat:0.8>", batch_size=2)
    assert processed.all_prompts[0] == "a cat <lora:cat:0.8><lora:dog:1>"
    assert processed.all_prompts[2] == "a cat <lora:cat:0.8>"


def test_infotext_of_targets_restores_and_of_sources_is_plain(host):
    _, processed = run(host, {**NAMED, "more_targets": "a cat asleep"})
    first, second, source = processed.infotexts
    assert first["MasaCtrl more targets"] == "a cat asleep"
    assert "MasaCtrl more targets" not in second
    assert second["MasaCtrl source prompt"] == "a dog sitting"
    assert "MasaCtrl source prompt" not in source
    assert first["MasaCtrl result"] == "3 of 4 steps; 6 of 6 layers"


def test_infotext_of_older_hosts_holds_plain_values(host):
    p = Request(host)
    del p.scheduler  # came with 1.9, as did values per image
    host.process_images(p, host.script, NAMED)
    assert p.extra_generation_params["MasaCtrl source prompt"] == "a dog sitting"


def test_overrides_of_an_axis_win_and_cells_do_not_share_infotext(host):
    shared = {"Size": "64x64"}
    p, _ = run(host, extra_generation_params=shared, masactrl_overrides={"start_step": "2"})
    assert p.extra_generation_params["MasaCtrl result"] == "2 of 4 steps; 6 of 6 layers"
    assert shared == {"Size": "64x64"}
    after, _ = run(host, [False], extra_generation_params=p.extra_generation_params)
    assert after.extra_generation_params == shared


def test_init_images_follow_their_groups(host):
    p = Request(host, batch_size=2, init_images=["one", "two"])
    seen = []
    p.init = lambda *_: seen.extend(p.init_images)
    host.process_images(p, host.script, {**NAMED, "source": "prompt", "more_targets": "a cat asleep"})
    assert seen == ["one", "one", "two", "two", "one", "two"]
    assert p.init_images == ["one", "two"]


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
        (lambda h, p: vars(h.sd_unet).update(current_unet=object()), "SD Unet is set to object"),
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
