"""Law 3: whatever ends a sampling, no hook is left; other extensions' patches survive ours."""

from __future__ import annotations

import pytest
import torch
from ldm.modules.attention import CrossAttention

from lib_masactrl.branches import BatchLayout, branches_in_batch
from lib_masactrl.control import MutualSelfAttentionControl
from lib_masactrl.errors import UnsupportedModelError
from lib_masactrl.layers import self_attention_layers
from lib_masactrl.patching import attached
from lib_masactrl.schedule import ControlWindow
from tests.unets import controlled, inputs, plain, small_unet

PAIR = branches_in_batch(1, 1)


@pytest.fixture
def unet():
    return small_unet(levels=2)


def new_control() -> MutualSelfAttentionControl:
    return MutualSelfAttentionControl(ControlWindow(0, None, 0))


def patched_modules(unet) -> list[str]:
    return [name for name, module in unet.named_modules() if "forward" in module.__dict__]


def test_hooks_are_there_inside_and_gone_after(unet):
    with attached(unet, new_control()) as layers:
        assert layers == self_attention_layers(unet) and patched_modules(unet) == [layer.name for layer in layers]
    assert patched_modules(unet) == []


def test_an_exception_leaves_no_hook_and_no_changed_bit(unet):
    call = inputs(2)
    before = plain(unet, call)
    with pytest.raises(KeyboardInterrupt), attached(unet, new_control()):
        raise KeyboardInterrupt
    assert patched_modules(unet) == []
    assert torch.equal(plain(unet, call), before)


def test_attaching_heals_a_stale_attachment(unet):
    stale = attached(unet, new_control())
    stale.__enter__()
    with attached(unet, new_control()):
        pass
    assert patched_modules(unet) == []


def test_an_earlier_instance_patch_is_used_and_put_back(unet):
    module = self_attention_layers(unet)[0].module
    calls = []

    def other_extension(hidden, context=None, **kwargs):
        calls.append(context is not None)
        return CrossAttention.forward(module, hidden, context)

    module.forward = other_extension
    controlled(unet, new_control(), PAIR, inputs(2))
    assert calls == [True]
    assert module.__dict__["forward"] is other_extension


def test_a_patch_laid_over_ours_stays_and_finds_ours_inert(unet):
    """Hypertile keeps the `forward` it finds for ever."""
    module = self_attention_layers(unet)[0].module
    call = inputs(2)
    before = plain(unet, call)
    with attached(unet, new_control()):
        ours = module.forward
        module.forward = lambda *args, **kwargs: ours(*args, **kwargs)
        over = module.forward
    assert module.__dict__["forward"] is over
    assert torch.equal(plain(unet, call), before)


def test_the_hosts_optimisation_is_looked_up_at_each_call(unet, monkeypatch):
    """Hosts assign `CrossAttention.forward` when the user changes the optimisation, also while we are attached."""
    seen = []
    original = CrossAttention.forward

    def optimised(self, x, context=None, mask=None, **kwargs):
        seen.append(type(self))
        return original(self, x, context, mask)

    control = new_control()
    call = inputs(2)
    with torch.no_grad(), attached(unet, control) as layers:
        monkeypatch.setattr(CrossAttention, "forward", optimised)
        control.begin_call(BatchLayout(PAIR), 0)
        unet(call[0], call[1], context=call[2])
        assert len(seen) == 2 * len(layers)  # self- and cross-attention


def test_a_context_given_by_the_caller_passes_through(unet):
    """Reference-only ControlNet calls `attn1` with a context of its own."""
    module = self_attention_layers(unet)[0].module
    hidden, context = torch.randn(3, 16, 32), torch.randn(3, 20, 32)
    with torch.no_grad():
        expected = module(hidden, context=context)
        with attached(unet, new_control()):
            assert torch.equal(module(hidden, context=context), expected)


def test_keyword_arguments_of_the_host_pass_through(unet):
    """SDXL's blocks and Forge's pass further keywords, which every optimisation takes."""
    module = self_attention_layers(unet)[0].module
    seen = {}
    module.forward = lambda hidden, context=None, **kwargs: seen.update(kwargs) or hidden
    control = new_control()
    with attached(unet, control):
        control.begin_call(BatchLayout(PAIR), 0)
        module(torch.randn(2, 16, 32), additional_tokens=None, n_times_crossframe_attn_in_self=0)
    assert seen == {"additional_tokens": None, "n_times_crossframe_attn_in_self": 0}


def test_a_model_without_self_attention_is_refused_in_words():
    with (
        pytest.raises(UnsupportedModelError, match=r"Linear has no U-Net self-attention layers\..*SDXL"),
        attached(torch.nn.Linear(1, 1), new_control()),
    ):
        pass
