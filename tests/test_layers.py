from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lib_masactrl.errors import BatchLayoutError, UnsupportedModelError
from lib_masactrl.layers import cross_attention_layers, self_attention_layers, token_grid
from tests.unets import inputs, plain, small_unet


def test_layers_are_numbered_in_the_order_in_which_they_run():
    unet = small_unet()
    layers = self_attention_layers(unet)
    ran: list[str] = []
    handles = [layer.module.register_forward_hook(lambda *_, name=layer.name: ran.append(name)) for layer in layers]
    plain(unet, inputs(2))
    for handle in handles:
        handle.remove()
    assert ran == [layer.name for layer in layers]
    assert [layer.index for layer in layers] == list(range(16))
    blocks = [layer.name.split(".transformer_blocks")[0] for layer in layers]
    inner = ["middle_block.1"]
    assert blocks == [f"input_blocks.{n}.1" for n in (1, 2, 4, 5, 7, 8)] + inner + [
        f"output_blocks.{n}.1" for n in range(3, 12)
    ]


def test_cross_attention_layers_stand_beside_them():
    unet = small_unet()
    pairs = zip(self_attention_layers(unet), cross_attention_layers(unet))
    assert all(own.name[:-1] == cross.name[:-1] and cross.name.endswith("attn2") for own, cross in pairs)


def test_a_block_without_self_attention_is_left_out():
    unet = small_unet()
    unet.get_submodule("input_blocks.1.1.transformer_blocks.0").disable_self_attn = True
    assert next(layer.name for layer in self_attention_layers(unet)).startswith("input_blocks.2.1")
    assert len(cross_attention_layers(unet)) == 16


def test_a_model_without_attention_is_refused():
    with pytest.raises(UnsupportedModelError, match="no U-Net cross-attention layers"):
        cross_attention_layers(torch.nn.Linear(1, 1))


@given(st.integers(1, 200), st.integers(1, 200), st.integers(0, 4))
def test_token_grid_equals_repeated_stride_two_convolution(height, width, depth):
    rows, columns = height, width
    for _ in range(depth):
        rows, columns = (rows + 1) // 2, (columns + 1) // 2  # a convolution of kernel 3, stride 2, padding 1
    assert token_grid(rows * columns, height, width) == (rows, columns)


def test_the_grid_of_every_layer_of_a_real_unet():
    unet = small_unet()
    grids: list[tuple[int, int]] = []
    handles = [
        layer.module.register_forward_pre_hook(lambda _, args: grids.append(token_grid(args[0].shape[1], 16, 24)))
        for layer in self_attention_layers(unet)
    ]
    plain(unet, inputs(2, 16, 24))
    for handle in handles:
        handle.remove()
    down = [(16, 24)] * 2 + [(8, 12)] * 2 + [(4, 6)] * 2
    assert grids == [*down, (2, 3), *[(4, 6)] * 3, *[(8, 12)] * 3, *[(16, 24)] * 3]


@pytest.mark.parametrize("tokens", [50, 0, 65])
def test_merged_tokens_fit_no_grid(tokens):
    with pytest.raises(BatchLayoutError, match=f"{tokens} tokens are no downsampling of a 8x8 latent"):
        token_grid(tokens, 8, 8)
