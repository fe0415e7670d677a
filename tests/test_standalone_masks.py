"""Masks on the standalone host: words through the checkpoint's tokenizer, a painted picture, what is written."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from lib_masactrl.branches import Branch
from lib_masactrl.errors import SettingsError
from lib_masactrl.host.cli import main
from lib_masactrl.host.standalone.sampling import BranchPrompts, SamplingPlan, control_for, sample_latents
from lib_masactrl.settings import MasaCtrlSettings

PLAN = SamplingPlan("DDIM", 4, 7.5, 64, 64)


def settings(**more):
    given = {"source": "prompt", "source_prompt": "a cat lying", "start_step": 1, "start_layer": 4, **more}
    return MasaCtrlSettings.from_mapping({"enabled": True, **given})


def sampled(model, chosen, painted=None):
    batch = BranchPrompts.of_settings(chosen, "a cat jumping", (3,))
    control = control_for(model, chosen, PLAN.steps, batch, painted)
    return sample_latents(model, batch, PLAN, control), control


@pytest.mark.parametrize("method", ["mutual", "union"])
def test_words_move_the_target_and_leave_the_source(model, method):
    unmasked, _ = sampled(model, settings(method=method))
    masked, control = sampled(model, settings(method=method, mask="words", source_words="cat", mask_threshold="auto"))
    assert torch.equal(masked[1], unmasked[1])
    assert not torch.allclose(masked[0], unmasked[0], atol=0.5)
    assert control.record.steps == {1, 2, 3}
    assert control.masks.of_result(Branch(0)).shape == (8, 8)


def test_words_are_read_by_the_checkpoints_tokenizer(model):
    tokens = model.text_encoder.tokens("A cat")
    assert [(t.position, t.ends_word) for t in tokens] == [(1, True), (2, False), (3, False), (4, True)]
    assert model.text_encoder.spelt([t.id for t in tokens[1:]]).strip() == "cat"
    with pytest.raises(SettingsError, match=r"source_words is 'cats', .*did you mean 'cat'"):
        sampled(model, settings(mask="words", source_words="cats"))


def test_a_painted_mask_is_the_sources_and_the_targets(model):
    painted = torch.zeros(64, 64)
    painted[:32] = 1
    masked, control = sampled(model, settings(mask="painted"), painted)
    unmasked, _ = sampled(model, settings())
    assert torch.equal(masked[1], unmasked[1]) and not torch.allclose(masked[0], unmasked[0], atol=0.5)
    for branch in (Branch(0), Branch(0, 0)):
        assert torch.equal(control.masks.of_result(branch), (painted > 0)[::8, ::8])
    _, control = sampled(model, settings(mask="painted", target_words="cat"), painted)
    assert not torch.equal(control.masks.of_result(Branch(0, 0)), control.masks.of_result(Branch(0)))
    with pytest.raises(SettingsError, match="no mask was painted"):
        sampled(model, settings(mask="painted"))


def test_the_command_line_writes_pictures_that_show_the_masks(checkpoint, tmp_path, capsys):
    Image.new("L", (200, 100), 255).save(tmp_path / "mask.png")
    asked = ["generate", "--checkpoint", str(checkpoint), "--source-prompt", "a cat", "--prompt", "a cat lying"]
    asked += ["--width", "64", "--height", "64", "--steps", "2", "--start-step", "0", "--device", "cpu"]
    asked += ["--mask", "painted", "--mask-image", str(tmp_path / "mask.png"), "--show-masks"]
    assert main([*asked, "--output", str(tmp_path / "out"), "--seed", "1"]) == 0
    paths = sorted((tmp_path / "out").iterdir())
    kinds = [path.name.split("-seed")[0][6:] for path in paths]
    assert kinds == ["target", "target-mask", "source", "source-mask"]
    with Image.open(paths[0]) as target:
        assert 'MasaCtrl foreground: "target 1 100%, source 100%"' in target.text["parameters"]
    assert capsys.readouterr().out.splitlines() == [str(path) for path in paths]
