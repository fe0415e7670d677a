"""Beside scripts that copy a request or fill its lists (stand-in); `tests/e2e` has the real ones."""

from __future__ import annotations

import sys
import types
from copy import copy

import pytest
import torch
from PIL import Image

from lib_masactrl.errors import UnsupportedCombinationError
from lib_masactrl.settings import MasaCtrlSettings
from tests.webui_requests import NAMED, latents, leftovers, run
from tests.webui_standin import Request


class Detailer:
    """MasaCtrl's script in a host with ADetailer, which calls scripts with copies after the first and last picture."""

    def __init__(self, script):
        self.before_process, self.process, self.postprocess = script.before_process, script.process, script.postprocess
        self.script = script

    def postprocess_batch_list(self, p, pp, *args, batch_number=0):
        self.script.postprocess_batch_list(p, pp, *args, batch_number=batch_number)
        answer = {name: [] for name in ("images", "infotexts")} | {n: [] for n in ("all_prompts", "all_seeds")}
        answer |= {name: [] for name in ("all_negative_prompts", "all_subseeds")}
        self.postprocess(copy(p), types.SimpleNamespace(**answer), *args)
        again = copy(p)
        self.before_process(again, *args)
        self.process(again, *args)


@pytest.mark.parametrize("given", [{}, {"n_iter": 2}, {"batch_size": 2}])
def test_copies_of_a_request_under_way_do_not_end_it(host, given):
    _p, expected = run(host, **given)
    p = Request(host, **given)
    for _ in range(2):  # hosts reuse request objects
        processed = host.process_images(p, Detailer(host.script), NAMED)
        assert host.errors == []
        assert torch.equal(latents(processed), latents(expected))
        assert processed.infotexts == expected.infotexts
        assert processed.all_prompts == expected.all_prompts
        assert (p.batch_size, p.do_not_save_grid) == (given.get("batch_size", 1), False)
        assert leftovers(host, p) == []


def test_copies_of_a_request_under_way_save_no_masks(host):
    host.shared.opts.masactrl_save_masks = True
    p = Request(host)
    host.script.before_process(p, NAMED)
    getattr(p, host.script.callbacks.BATCH).shown_masks += ["target", "source"]
    answers = [types.SimpleNamespace(images=[], infotexts=[]) for _ in range(2)]
    for request, answer in zip((copy(p), p), answers):
        host.script.postprocess(request, answer)
    assert [answer.images for answer in answers] == [[], ["target", "source"]]
    assert host.saved == [("", "-masactrl-mask")] * 2


def test_a_copy_that_becomes_a_request_of_its_own_is_controlled_from_the_users_batch_size(host):
    copies = []
    p = Request(host)
    p.init = lambda *_: copies.append(copy(p))
    expected = host.process_images(p, host.script, NAMED)
    again = copies[0]
    del again.init
    processed = host.process_images(again, host.script, NAMED)
    assert torch.equal(latents(processed), latents(expected))
    assert (p.batch_size, again.batch_size) == (1, 1)


def test_what_adetailer_repaints_is_not_controlled(host):
    plain = run(host, [False])[1]
    assert torch.equal(latents(run(host, _ad_inner=True)[1]), latents(plain))


VARIANTS = ["a red cat", "a green cat", "a blue cat"]


class Variants:
    """MasaCtrl's script behind Dynamic Prompts, as far as it touches a request."""

    args_from, args_to = 0, 2

    def __init__(self, script, variants):
        self.before_process, self.postprocess = script.before_process, script.postprocess
        self.postprocess_batch_list = script.postprocess_batch_list
        self.script, self.variants = script, variants

    def title(self):
        return "Dynamic Prompts v2.17.1"

    def process(self, p, *args):
        p.n_iter = -(-len(self.variants) // p.batch_size)
        p.all_prompts, p.all_negative_prompts = list(self.variants), ["blurry"] * len(self.variants)
        p.all_seeds = [p.seed + number for number in range(len(self.variants))]
        p.all_subseeds = [p.subseed] * len(self.variants)
        self.script.process(p, *args)


@pytest.mark.parametrize(("count", "batch_size"), [(1, 1), (2, 1), (3, 1), (3, 2), (2, 2)])
def test_every_variant_of_dynamic_prompts_becomes_a_target(host, count, batch_size):
    script = Variants(host.script, VARIANTS[:count])
    grids = []
    p = Request(host, batch_size=batch_size, script_args=(True, True))
    p.scripts = types.SimpleNamespace(alwayson_scripts=[script])
    p.init = lambda *_: grids.append(not p.do_not_save_grid)
    processed = host.process_images(p, script, NAMED)
    targets = [
        (prompt, seed)
        for prompt, seed, info in zip(processed.all_prompts, processed.all_seeds, processed.infotexts)
        if info["MasaCtrl branch"] == "target 1"
    ]
    assert targets == [(prompt, 5 + number) for number, prompt in enumerate(VARIANTS[:count])]
    assert processed.all_prompts.count(NAMED["source_prompt"]) == count
    assert len(processed.images) == 2 * count
    assert grids == [count > 1]


@pytest.mark.parametrize("switched", [(False, True), (True, False)])
def test_lists_that_follow_the_batch_size_are_counted_by_it(host, switched):
    """With random prompts Dynamic Prompts draws one for each image of the enlarged batch."""
    script = Variants(host.script, VARIANTS[:2])
    p = Request(host, script_args=switched)
    p.scripts = types.SimpleNamespace(alwayson_scripts=[script])
    assert host.process_images(p, script, NAMED).all_prompts == ["a red cat", "a dog sitting"]


BY_NUMBER = ["SD upscale", "Poor man's outpainting", "Prompt matrix", "SD Upscale"]


def chosen(host, title, number=2):
    """A request made by a script of the Script menu."""
    menu = [types.SimpleNamespace(title=lambda: "X/Y/Z plot"), types.SimpleNamespace(title=lambda: title)]
    p = Request(host, script_args=(number, None))
    p.scripts = types.SimpleNamespace(alwayson_scripts=[], selectable_scripts=menu)
    return p


@pytest.mark.parametrize("title", BY_NUMBER)
@pytest.mark.parametrize("given", [{}, {"more_targets": "a cat asleep", "show_source": False}])
def test_scripts_that_count_pictures_are_refused_what_would_mix_them(host, title, given):
    p = chosen(host, title)
    with pytest.raises(UnsupportedCombinationError, match=f"the script .{title}.* 'Show source'"):
        host.process_images(p, host.script, {**NAMED, **given})
    assert leftovers(host, p) == []


@pytest.mark.parametrize("title", BY_NUMBER)
def test_scripts_that_count_pictures_get_targets_alone(host, title):
    assert host.process_images(chosen(host, title), host.script, {**NAMED, "show_source": False}).all_prompts == [
        "a cat running"
    ]


@pytest.mark.parametrize("number", [0, 1, 3, None])
def test_other_scripts_take_what_there_is(host, number):
    processed = host.process_images(chosen(host, "SD upscale", number), host.script, NAMED)
    assert len(processed.images) == 2


@pytest.mark.parametrize(
    ("on", "settings", "refused"),
    [
        (True, {}, True),
        (False, {}, False),
        (True, {"source": "image", "source_prompt": ""}, False),
        (True, {"source": "image", "more_targets": "a cat asleep"}, True),
    ],
)
def test_forge_couple_leaves_branches_no_prompt_of_their_own(host, on, settings, refused):
    from lib_masactrl.host import refusals

    p = Request(host, script_args=("", on, "Basic"))
    script = types.SimpleNamespace(title=lambda: "Forge Couple", args_from=1, args_to=3)
    p.scripts = types.SimpleNamespace(alwayson_scripts=[script], selectable_scripts=[])
    asked = MasaCtrlSettings.from_mapping({**NAMED, **settings}).with_source_settled("source" in settings)
    if refused:
        with pytest.raises(UnsupportedCombinationError, match="Forge Couple paints"):
            refusals.check_scripts(p, asked)
    else:
        refusals.check_scripts(p, asked)


class Tiled(Request):
    """As Tiled Diffusion has it: the U-Net gets one half of the picture after the other."""

    def evaluate(self, x, *rest):
        return torch.cat([super(Tiled, self).evaluate(half, *rest) for half in x.chunk(2, dim=3)], dim=3)


def test_tiles_are_controlled_by_the_sources_own(host):
    plain = host.process_images(
        Tiled(host, prompt=["a cat running", "a dog sitting"], batch_size=2), host.script, False
    )
    p = Tiled(host)
    processed = host.process_images(p, host.script, NAMED)
    assert not torch.equal(latents(processed)[0], latents(plain)[0])
    target, source = latents(host.process_images(Tiled(host), host.script, {**NAMED, "source_prompt": p.prompt}))
    assert torch.equal(target, source)
    assert leftovers(host, p) == []


def test_tiles_and_masks_are_refused(host, monkeypatch):
    monkeypatch.setattr(sys.modules["modules.extra_networks"], "parse_prompt", lambda text: (text, {}), raising=False)
    schedules = "get_learned_conditioning_prompt_schedules"
    monkeypatch.setattr(host.prompt_parser, schedules, lambda *_: [[[4, ""]]], raising=False)
    p = Tiled(host, image_mask=Image.new("L", (64, 64), 255), nmask=torch.ones(4, 8, 8))
    with pytest.raises(UnsupportedCombinationError, match="samples tiles of 4x8 latents"):
        host.process_images(p, host.script, {**NAMED, "mask": "painted"})
    assert leftovers(host, p) == []


@pytest.mark.parametrize("count", [1, 4])
def test_another_number_of_pictures_is_refused(host, count):
    class Phases(Request):
        def sample(self):
            return torch.zeros(count, 4, 8, 8) if super().sample() is not None else None

    p = Phases(host)
    with pytest.raises(UnsupportedCombinationError, match=f"made {count} pictures of a batch of 2"):
        host.process_images(p, host.script, NAMED)
    assert leftovers(host, p) == []


def test_and_that_another_script_writes_later_is_refused(host):
    original = host.script.process

    def process_then_join(p, *args):
        original(p, *args)
        p.all_prompts = [f"{prompt} AND a hat" for prompt in p.all_prompts]

    host.script.process = process_then_join
    p = Request(host)
    with pytest.raises(UnsupportedCombinationError, match="AND in the prompt"):
        host.process_images(p, host.script, NAMED)
    assert leftovers(host, p) == []
