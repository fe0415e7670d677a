"""What a request becomes in a WebUI (stand-in): its batch, seeds, files and infotext."""

from __future__ import annotations

import types

import pytest
import torch

from lib_masactrl.host.batch import BranchBatch
from lib_masactrl.settings import MasaCtrlSettings
from tests.webui_requests import NAMED, latents, leftovers, run
from tests.webui_standin import Request


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


@pytest.mark.parametrize(
    ("given", "grid"),
    [({}, False), ({"batch_size": 2}, True), ({"n_iter": 2}, True), ({"batch_size": 2, "n_iter": 2}, True)],
)
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
    batch = getattr(p, host.script.callbacks.BATCH)
    batch.shown_masks += ["target", "source"]
    p.save_samples = lambda: saves
    processed = types.SimpleNamespace(images=[], infotexts=["a cat running"])
    host.script.postprocess(p, processed)
    assert processed.images == ["target", "source"]
    assert processed.infotexts == ["a cat running"] * 3
    assert host.saved == [("", "-masactrl-mask")] * files


def test_styles_are_applied_to_every_branch(host):
    args = {**NAMED, "more_targets": "a cat asleep"}
    _, processed = run(host, args, styles=["oil"])
    assert processed.all_prompts == ["a cat running, oil", "a cat asleep, oil", "a dog sitting, oil"]


def test_network_tags_of_every_branch_reach_the_hosts_first_prompt(host):
    args = {**NAMED, "source_prompt": "a dog <lora:dog:1> <lora:cat:0.2>", "more_targets": "x <lora:dog:1>"}
    _, processed = run(host, args, prompt="a cat <lora:cat:0.8>", batch_size=2)
    assert processed.all_prompts[0] == "<lora:dog:1>a cat <lora:cat:0.8>"
    assert processed.all_prompts[2] == "a cat <lora:cat:0.8>"


@pytest.mark.parametrize(
    ("source", "negative"), [("a dog<lora:dog:1>", "a dog"), ("", " ")], ids=["no tags", "not SDXL's zeros"]
)
def test_a_source_that_runs_freely_has_its_own_prompt_as_the_negative_one(source, negative):
    assert negatives(source="image", rectify=False, source_prompt=source) == ["y", negative]


@pytest.mark.parametrize(("source", "rectify"), [("image", True), ("prompt", True), ("prompt", False)])
def test_any_other_source_has_the_requests_negative_prompt(source, rectify):
    assert negatives(source=source, rectify=rectify, source_prompt="a dog") == ["y", "y"]


def negatives(**settings):
    batch = BranchBatch(MasaCtrlSettings(enabled=True, **settings))
    p = types.SimpleNamespace(batch_size=1, n_iter=1, prompt="x", negative_prompt="y")
    batch.enlarge(p)
    p.all_prompts, p.all_negative_prompts = ["x"] * 2, ["y"] * 2
    batch.write_branches(p, lambda prompt: prompt)
    return p.all_negative_prompts


def test_pictures_that_are_encoded_tile_by_tile_are_not_known():
    batch = BranchBatch(MasaCtrlSettings())
    batch.enlarge(types.SimpleNamespace(batch_size=1, n_iter=1))
    batch.noted = [torch.zeros(2, 3, 8, 8)]
    assert batch.pictures().shape == (2, 3, 8, 8)
    for tiles in ([torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 4)], [torch.zeros(1, 3, 8, 8)] * 3, []):
        batch.noted = tiles
        assert batch.pictures() is None


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
    host.process_images(p, host.script, {**NAMED, "more_targets": "a cat asleep"})
    entries = p.extra_generation_params
    assert (entries["MasaCtrl source prompt"], entries["MasaCtrl more targets"]) == ("a dog sitting", "a cat asleep")
    assert entries["MasaCtrl branch"] is None  # all images have the first target's entries


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
