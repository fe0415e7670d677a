"""Presets of start step and start layer."""

from __future__ import annotations

import pytest

from lib_masactrl.layers import self_attention_layers
from lib_masactrl.presets import PRESETS, start_layer
from lib_masactrl.settings import MasaCtrlSettings


@pytest.mark.parametrize(("layers", "expected"), [(16, [13, 10, 7]), (70, [64, 44, 34])])
def test_start_layers(layers, expected):
    assert [start_layer(preset, layers) for preset in PRESETS] == expected


@pytest.mark.parametrize("layers", [None, 0, 42])
def test_an_unknown_model_gets_the_automatic_layer(layers):
    assert {start_layer(preset, layers) for preset in PRESETS} == {None}


def test_paper_is_the_default():
    assert PRESETS[1].name == "paper" and PRESETS[1].start_step == MasaCtrlSettings().start_step


def test_the_decoder_begins_where_the_presets_say():
    """Of the U-Net of SD 1: the strong preset's layer is the first of `output_blocks`."""
    ldm = pytest.importorskip("ldm.modules.diffusionmodules.openaimodel")
    from tests.small_models import UNET

    unet = ldm.UNetModel(**{**UNET, "channel_mult": [1, 2, 4, 4]})
    names = [layer.name for layer in self_attention_layers(unet)]
    decoder = [index for index, name in enumerate(names) if name.startswith("output_blocks.")]
    last_level = [index for index in decoder if int(names[index].split(".")[1]) >= 9]
    assert decoder[0] == start_layer(PRESETS[2], len(names))
    assert last_level[0] == start_layer(PRESETS[0], len(names))
