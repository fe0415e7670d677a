"""A ControlNet on the standalone host: its file, what it adds and where, and the rows that it reaches."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file

from lib_masactrl.branch_guidance import parse_guidance
from lib_masactrl.errors import UnsupportedModelError
from lib_masactrl.host.cli import main
from lib_masactrl.host.standalone.control_pictures import ControlUnit, with_units
from lib_masactrl.host.standalone.controlnet import (
    WeightedControlNet,
    load_controlnet,
    residuals_added,
    without_prefix,
)
from lib_masactrl.host.standalone.networks import UNetModel
from tests.e2e.control_models import write_controlnet
from tests.standalone_requests import batch, generate, sampled


@pytest.fixture(scope="module")
def file(checkpoint, tmp_path_factory):
    """The encoder of the checkpoint's own U-Net, with every output open."""
    path = tmp_path_factory.mktemp("controlnet") / "controlnet.safetensors"
    write_controlnet(checkpoint, path)
    return path


@pytest.fixture(scope="module")
def controlnet(file, model):
    return load_controlnet(file, load_file(file), model.config)


def call(rows):
    torch.manual_seed(1)
    return torch.randn(rows, 4, 8, 8), torch.full((rows,), 300), torch.randn(rows, 77, 32)


def authors_outputs(unet, weights, x, timesteps, context, picture):
    """``ControlNet.forward`` of the authors' ``cldm.py``, written out anew around the encoder that was copied."""
    hint = picture
    for layer in range(8):
        name = f"input_hint_block.{2 * layer}"
        stride = 2 if layer in (2, 4, 6) else 1
        hint = F.conv2d(hint, weights[f"{name}.weight"], weights[f"{name}.bias"], stride, padding=1)
        hint = F.silu(hint) if layer < 7 else hint
    outputs = []
    emb = embedding(unet, timesteps)
    for index, block in enumerate(unet.input_blocks):
        x = block(x, emb, context) + (hint if index == 0 else 0)
        outputs.append(F.conv2d(x, weights[f"zero_convs.{index}.0.weight"], weights[f"zero_convs.{index}.0.bias"]))
    x = unet.middle_block(x, emb, context)
    outputs.append(F.conv2d(x, weights["middle_block_out.0.weight"], weights["middle_block_out.0.bias"]))
    return outputs


def authors_controlled_unet(unet, x, timesteps, context, control):
    """``ControlledUnetModel.forward``, likewise."""
    control, skips, emb = list(control), [], embedding(unet, timesteps)
    for block in unet.input_blocks:
        x = block(x, emb, context)
        skips.append(x)
    x = unet.middle_block(x, emb, context) + control.pop()
    for block in unet.output_blocks:
        x = block(torch.cat([x, skips.pop() + control.pop()], dim=1), emb, context)
    return unet.out(x)


def embedding(unet: UNetModel, timesteps):
    frequencies = torch.exp(-torch.log(torch.tensor(10000.0)) * torch.arange(16) / 16)
    angles = timesteps[:, None].float() * frequencies[None]
    return unet.time_embed(torch.cat([angles.cos(), angles.sin()], dim=1))


@torch.no_grad()
def test_the_original_layout_is_the_authors(file, controlnet, model):
    picture = torch.rand(1, 3, 64, 64)
    unit = WeightedControlNet(controlnet, picture, torch.ones(2, 1))
    expected = authors_outputs(model.unet, load_file(file), *call(2), picture)
    assert len(expected) == 13
    for residual, wanted in zip(unit.residuals(*call(2)), expected, strict=True):
        torch.testing.assert_close(residual, wanted, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_residuals_are_added_where_the_decoder_takes_the_encoder_s(controlnet, model):
    unit = WeightedControlNet(controlnet, torch.rand(1, 3, 64, 64), torch.ones(2, 1))
    x, timesteps, context = call(2)
    plain = model.unet(x, timesteps, context=context)
    with residuals_added(model.unet, [unit, unit]):
        controlled = model.unet(x, timesteps, context=context)
    twice = [2 * residual for residual in unit.residuals(x, timesteps, context)]
    torch.testing.assert_close(controlled, authors_controlled_unet(model.unet, x, timesteps, context, twice))
    assert (controlled - plain).abs().max() > 1e-2
    assert torch.equal(model.unet(x, timesteps, context=context), plain)


def test_hooks_are_removed_after_an_error(controlnet, model):
    unit = WeightedControlNet(controlnet, torch.rand(1, 3, 64, 64), torch.ones(2, 1))
    with pytest.raises(RuntimeError, match="stop"), residuals_added(model.unet, [unit]):
        raise RuntimeError("stop")
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.unet.modules())


@torch.no_grad()
def test_a_weight_per_branch_and_a_picture_per_target(controlnet, model):
    """Rows of two passes: target 0, target 1, source."""
    pictures, weights = torch.rand(2, 3, 64, 64), torch.tensor([[0.5, 0], [0, 1], [0, 0]])
    x, timesteps, context = call(6)
    both = WeightedControlNet(controlnet, pictures, weights).residuals(x, timesteps, context)
    alone = [
        WeightedControlNet(controlnet, pictures[i : i + 1], torch.ones(3, 1)).residuals(x, timesteps, context)
        for i in (0, 1)
    ]
    for block, first, second in zip(both, *alone, strict=True):
        torch.testing.assert_close(block[[0, 3]], 0.5 * first[[0, 3]], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(block[[1, 4]], second[[1, 4]], atol=1e-5, rtol=1e-4)
        assert not block[[2, 5]].any()


def test_a_unit_moves_only_the_rows_it_guides(model, controlnet):
    """As in a WebUI: the source bit-identical to a run without the unit; the reverse where nothing else is on."""
    without = sampled(model, control=None)
    for guides, moved in (("target", [True, False]), ("source", [False, True]), ("both 0", [False, False])):
        unit = ControlUnit(controlnet, torch.rand(1, 3, 64, 64), parse_guidance(guides)[0])
        asked = with_units(batch(), [unit])
        guided = sampled(model, control=None, of=asked)
        assert [not torch.equal(a, b) for a, b in zip(guided, without)] == moved
        assert torch.equal(sampled(model, of=asked)[1], guided[1])


def test_the_command_line(checkpoint, file, files):
    picture = ("--control-image", files / "1.png")
    assert generate(checkpoint, files) == 0
    assert generate(checkpoint, files, "--adapter", file, *picture) == 0
    mixed = ("--adapter", files / "adapter.safetensors", "--adapter", file, *picture)
    assert generate(checkpoint, files, *mixed, "--control-image", files / "2.png") == 0
    made = [Image.open(path).tobytes() for path in sorted((files / "out").iterdir())]
    assert len(set(made[0::2])) == 3, "targets"
    assert len(set(made[1::2])) == 1, "sources"


@pytest.mark.parametrize("prefix", ["", "control_model."])
def test_both_forms_of_the_file(file, model, controlnet, prefix):
    tensors = {prefix + name: value.half() for name, value in load_file(file).items()}
    if prefix:
        tensors["model.diffusion_model.out.0.weight"] = torch.zeros(1)
    loaded = load_controlnet(file, without_prefix(tensors), model.config).state_dict()
    for name, value in controlnet.state_dict().items():
        torch.testing.assert_close(loaded[name], value, atol=1e-3, rtol=1e-3)


FAULTS = {
    "missing": lambda tensors: tensors.pop("input_blocks.1.0.in_layers.0.weight"),
    "missing output": lambda tensors: tensors.pop("zero_convs.3.0.weight"),
    "one too many": lambda tensors: tensors.update(spare=torch.zeros(1)),
    "wider": lambda tensors: tensors.update({"time_embed.0.weight": torch.zeros(128, 64)}),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_no_controlnet_for_the_checkpoint_is_refused(file, model, fault):
    tensors = load_file(file)
    FAULTS[fault](tensors)
    with pytest.raises(UnsupportedModelError, match=r"controlnet.safetensors is no ControlNet"):
        load_controlnet(file, tensors, model.config)


def test_the_command_line_refuses_it_in_one_line(checkpoint, file, files, capsys):
    tensors = load_file(file)
    del tensors["zero_convs.3.0.weight"]
    save_file(tensors, files / "broken.safetensors")
    command = ["generate", "--checkpoint", checkpoint, "--source-prompt", "a", "--prompt", "b", "--width", "64"]
    command += ["--height", "64", "--adapter", files / "broken.safetensors", "--control-image", files / "1.png"]
    assert main([*map(str, command), "--output", str(files / "out")]) == 2
    assert "broken.safetensors is no ControlNet" in capsys.readouterr().err
    assert not (files / "out").exists()
