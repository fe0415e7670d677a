"""What a checkpoint's file tells before it is loaded is what its network turns out to be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lib_masactrl.host.checkpoint_file import CheckpointFile, read_checkpoint_file

DEMO = Path(__file__).parent.parent / "demo" / "checkpoint"


def header(*names):
    said = json.dumps({name: {"dtype": "F16", "shape": [1], "data_offsets": [0, 2]} for name in names}).encode()
    return len(said).to_bytes(8, "little") + said


def attention(layers):
    return [f"model.diffusion_model.middle_block.1.transformer_blocks.{n}.attn1.to_q.weight" for n in range(layers)]


@pytest.mark.parametrize("name", ["creatures", "duets"])
def test_a_real_checkpoint(name):
    assert read_checkpoint_file(DEMO / f"{name}.safetensors") == CheckpointFile("SD 1", 16)


@pytest.mark.parametrize(
    ("encoder", "family"),
    [
        ("cond_stage_model.transformer.text_model.a", "SD 1"),
        ("cond_stage_model.model.transformer.a", "SD 2"),
        ("conditioner.embedders.1.model.a", "SDXL"),
        ("text_encoder.a", "unknown"),
    ],
)
def test_families(tmp_path, encoder, family):
    path = tmp_path / "a.safetensors"
    path.write_bytes(header(*attention(70), "model.diffusion_model.out.attn2.to_q.weight", encoder))
    assert read_checkpoint_file(path) == CheckpointFile(family, 70)
    path.write_bytes(header("model.diffusion_model.double_blocks.0.img_attn.qkv.weight"))  # another file of its name
    assert read_checkpoint_file(path) is None


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.ckpt", header(*attention(16))),
        ("a.safetensors", b""),
        ("a.safetensors", b"PK\x03\x04 a zip file"),
        ("a.safetensors", (2**62).to_bytes(8, "little")),
        ("a.safetensors", header(*attention(16))[:-3]),
        ("a.safetensors", (2).to_bytes(8, "little") + b"\xff\xfe"),
    ],
)
def test_what_cannot_be_told(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert read_checkpoint_file(tmp_path / name) is None
    assert read_checkpoint_file(tmp_path / "nowhere.safetensors") is None
