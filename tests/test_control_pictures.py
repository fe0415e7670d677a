"""T2I-Adapters of the standalone host: the original layout, the rows they reach, and the command line."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file

from bench.quality.measures import overlap, silhouette
from bench.world import Layout
from lib_masactrl.branch_guidance import parse_guidance
from lib_masactrl.branches import Branch
from lib_masactrl.errors import UnsupportedModelError
from lib_masactrl.host.cli import main
from lib_masactrl.host.standalone.control_pictures import ControlFiles, ControlUnit, with_units
from lib_masactrl.host.standalone.sampling import SamplingPlan
from lib_masactrl.host.standalone.t2i_adapter import features_added, load_adapter, original_state
from lib_masactrl.settings import MasaCtrlSettings
from tests.standalone_requests import batch, generate, random_adapter, sampled
from tests.unets import inputs, plain, small_unet

ROOT = Path(__file__).parent.parent
SKETCH = ROOT / "demo" / "checkpoint" / "creatures-sketch.safetensors"
BRANCHES = (Branch(0, 0), Branch(0, 1), Branch(0))


def authors_forward(weights, picture):
    """``Adapter.forward`` of the authors' repository (``ksize=1, sk=True, use_conv=False``), written out anew."""

    def convolve(name, x):
        weight = weights[f"{name}.weight"]
        return F.conv2d(x, weight, weights[f"{name}.bias"], padding=weight.shape[-1] // 2)

    x, features = convolve("conv_in", F.pixel_unshuffle(picture, 8)), []
    for block in range(8):
        x = F.avg_pool2d(x, 2) if block in (2, 4, 6) else x
        x = convolve(f"body.{block}.in_conv", x) if f"body.{block}.in_conv.weight" in weights else x
        x = x + convolve(f"body.{block}.block2", F.relu(convolve(f"body.{block}.block1", x)))
        features += [x] if block % 2 else []
    return features


@pytest.mark.parametrize(("widths", "channels"), [((16, 32, 64, 64), 3), ((16, 16, 16, 16), 1)])
def test_the_original_layout_is_the_authors(tmp_path, widths, channels):
    save_file(original_state(random_adapter(widths, channels)), tmp_path / "a.safetensors")
    picture = torch.rand(2, channels, 128, 64)
    expected = authors_forward(load_file(tmp_path / "a.safetensors"), picture)
    for level, wanted in zip(load_adapter(tmp_path / "a.safetensors")(picture), expected, strict=True):
        torch.testing.assert_close(level, wanted)


def test_features_are_added_where_each_level_of_the_encoder_ends():
    """And at no other place: a feature is visible from the block that it is added to on."""
    unet, call = small_unet(), inputs(2)
    before = [block_outputs(unet, call)]
    for level, side in enumerate((8, 4, 2, 1)):
        features = [torch.zeros(2, 32, 8 >> i, 8 >> i) for i in range(4)]
        features[level] = torch.ones(2, 32, side, side)
        with features_added(unet, features):
            after = block_outputs(unet, call)
        changed = [not torch.equal(a, b) for a, b in zip(before[0], after)]
        assert changed.index(True) == 3 * level + 2
        torch.testing.assert_close(after[3 * level + 2], before[0][3 * level + 2] + 1)
    assert not any(block._forward_hooks for block in unet.input_blocks)


def block_outputs(unet, call):
    outputs = []
    hooks = [block.register_forward_hook(lambda _, __, out: outputs.append(out)) for block in unet.input_blocks]
    plain(unet, call)
    for hook in hooks:
        hook.remove()
    return outputs


def test_hooks_are_removed_after_an_error():
    unet = small_unet()
    with pytest.raises(RuntimeError, match="stop"), features_added(unet, [torch.zeros(1)] * 4):
        raise RuntimeError("stop")
    assert not any(block._forward_hooks for block in unet.input_blocks)


WEIGHTS = {"target": [1, 1, 0], "source": [0, 0, 1], "both 0.5": [0.5, 0.5, 0.5], "target + source 0.25": [1, 1, 0.25]}


@pytest.mark.parametrize("guides", WEIGHTS)
def test_weights_per_branch(guides):
    adapter, picture = random_adapter(), torch.rand(1, 3, 64, 64)
    unit = ControlUnit(adapter, picture, parse_guidance(guides)[0])
    for weighted, level in zip(unit.features(BRANCHES), adapter(picture)):
        torch.testing.assert_close(weighted, torch.cat([weight * level for weight in WEIGHTS[guides]]))


def test_a_picture_per_target_and_a_second_unit_for_the_source():
    adapter, pictures = random_adapter(), torch.rand(3, 3, 64, 64)
    each, source = parse_guidance("each 0.5, source")
    units = [ControlUnit(adapter, pictures[:2], each), ControlUnit(adapter, pictures[2:], source)]
    of_branches = dataclasses.replace(batch(), branches=BRANCHES)
    expected = [torch.stack([level[0] / 2, level[1] / 2, level[2]]) for level in adapter(pictures)]
    for level, wanted in zip(with_units(of_branches, units).features, expected, strict=True):
        torch.testing.assert_close(level, wanted)


def test_a_unit_per_target(model, files):
    """Units with one picture each, in the order of the targets."""
    settings = MasaCtrlSettings(more_targets="a dog", control_guides="each, source, each")
    read = ControlFiles([[files / "1.png"], [files / "2.png"], [files / "2.png"]], [files / "adapter.safetensors"])
    first, source, second = read.read(model, settings, SamplingPlan(width=64, height=64))
    assert first.weights(BRANCHES).tolist() == [[1], [0], [0]]
    assert source.weights(BRANCHES).tolist() == [[0], [0], [1]]
    assert second.weights(BRANCHES).tolist() == [[0], [1], [0]]


@pytest.mark.parametrize("cfg_scale", [7.5, 1.0])
def test_a_unit_moves_only_the_rows_it_guides(model, cfg_scale):
    """As in a WebUI: the source bit-identical to a run without the unit; the reverse where nothing else is on."""
    without = sampled(model, cfg_scale=cfg_scale, control=None)
    for guides, moved in (("target", [True, False]), ("source", [False, True]), ("both 0", [False, False])):
        unit = ControlUnit(random_adapter(), torch.rand(1, 3, 64, 64), parse_guidance(guides)[0])
        asked = with_units(batch(), [unit])
        guided = sampled(model, cfg_scale=cfg_scale, control=None, of=asked)
        assert [not torch.equal(a, b) for a, b in zip(guided, without)] == moved
        assert torch.equal(sampled(model, cfg_scale=cfg_scale, of=asked)[1], guided[1])


def test_the_command_line(checkpoint, files):
    adapter = ("--adapter", files / "adapter.safetensors")
    assert generate(checkpoint, files) == 0
    assert generate(checkpoint, files, *adapter, "--control-image", files / "1.png") == 0
    several = ("--more-targets", "a dog", "--control-guides", "each, source")
    pictures = ("--control-image", files / "1.png", files / "2.png", "--control-image", files / "2.png")
    assert generate(checkpoint, files, *adapter, *several, *pictures) == 0
    written = sorted((files / "out").iterdir())
    target, source, guided, same_source = (Image.open(path) for path in written[:4])
    assert source.tobytes() == same_source.tobytes()
    assert target.tobytes() != guided.tobytes()
    assert "MasaCtrl control images: 1.png" in guided.text["parameters"]
    last = Image.open(written[4]).text["parameters"]
    assert 'MasaCtrl control images: "1.png+2.png, 2.png"' in last
    assert 'MasaCtrl controlnet guides: "each, source"' in last


REFUSED = [
    (["--control-image", "1.png"], "1 control images and 0 adapters"),
    (["--adapter", "adapter.safetensors"], "0 control images and 1 adapters"),
    (["--control-guides", "source"], "0 control images and 0 adapters are given, with control_guides 'source'"),
    (
        ["--adapter", "adapter.safetensors", "--control-image", "1.png", "2.png", "--control-guides", "each"],
        "2 control",
    ),
    (["--adapter", "adapter.safetensors", "--control-image", "3.png"], "There is no picture"),
    (["--adapter", "1.png", "--control-image", "1.png"], "no T2I-Adapter for Stable Diffusion 1.x"),
    (
        ["--adapter", "other.safetensors", "--control-image", "1.png"],
        "levels of other.safetensors are [16, 32, 64, 64]",
    ),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_what_is_refused(checkpoint, files, monkeypatch, capsys, arguments, message):
    save_file(original_state(random_adapter((16, 32, 64, 64))), files / "other.safetensors")
    monkeypatch.chdir(files)
    assert generate(checkpoint, files, *arguments) == 2
    assert [message in line for line in capsys.readouterr().err.splitlines()].count(True) == 1
    assert not (files / "out").exists()


def test_a_checkpoint_is_no_adapter(checkpoint):
    with pytest.raises(UnsupportedModelError, match=r"KeyError|RuntimeError"):
        load_adapter(checkpoint)


def test_the_documented_sketch_puts_the_creature_where_it_says(tmp_path, monkeypatch):
    """The command as printed; its prompt, "a cat", names neither pose nor place."""
    page = (ROOT / "docs" / "standalone.md").read_text(encoding="utf-8")
    (line,) = [line for line in page.splitlines() if "--control-image demo/" in line]
    monkeypatch.chdir(ROOT)
    assert main([*shlex.split(line)[3:], "--seed", "1", "--device", "cpu", "--output", str(tmp_path)]) == 0
    target, source = (np.asarray(Image.open(path)) for path in sorted(tmp_path.iterdir()))
    layouts = Layout("cat", "standing", "left"), Layout("cat", "jumping", "right")
    assert overlap(silhouette(source, layouts), layouts[0]) > 0.7
    assert overlap(silhouette(target, layouts), layouts[1]) > 0.7


def test_the_trained_sketch_adapter_is_small_and_for_the_trained_checkpoint():
    assert SKETCH.stat().st_size < 3e6
    assert list(load_adapter(SKETCH).config.channels) == [64] * 4
