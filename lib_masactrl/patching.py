"""``attached(unet, control)``: hooks a U-Net's attention for the length of a ``with`` block.

A hook is an *instance* attribute ``forward`` on the host's ``CrossAttention`` module, found by
``nn.Module.__call__`` before the class's. The class's own ``forward``, which hosts replace when the user changes the
attention optimisation, is looked up at each call, so every optimisation stays in force.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from lib_masactrl.control import MutualSelfAttentionControl
from lib_masactrl.layers import AttentionLayer, cross_attention_layers, self_attention_layers


class AttentionHook:
    """The ``forward`` of one attention module while control is attached.

    Once detached it is inert and calls straight through, so that another extension which captured it meanwhile
    (Hypertile keeps the ``forward`` it finds) goes on working.
    """

    #: How a later import of this package recognises hooks of an earlier one, whose class is another object.
    is_masactrl_hook = True

    def __init__(self, layer: AttentionLayer, control: MutualSelfAttentionControl) -> None:
        self._layer = layer
        self._control: MutualSelfAttentionControl | None = control
        self._previous: Callable[..., torch.Tensor] | None = layer.module.__dict__.get("forward")

    def __call__(
        self, hidden: torch.Tensor, context: torch.Tensor | None = None, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        raise NotImplementedError

    def install(self) -> None:
        self._layer.module.forward = self

    def remove(self) -> None:
        """Put back what was there before: the earlier *instance* attribute, or none, never a bound method."""
        module = self._layer.module
        self._control = None
        if module.__dict__.get("forward") is not self:
            return
        del module.forward
        if self._previous is not None:
            module.forward = self._previous

    def _host_forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        if self._previous is not None:
            return self._previous(*args, **kwargs)
        forward: Callable[..., torch.Tensor] = type(self._layer.module).forward
        return forward(self._layer.module, *args, **kwargs)


class SelfAttentionHook(AttentionHook):
    """Lets control make the layer's call."""

    def __call__(
        self, hidden: torch.Tensor, context: torch.Tensor | None = None, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        def attend(queries: torch.Tensor, keys_from: torch.Tensor | None, /) -> torch.Tensor:
            return self._host_forward(queries, keys_from, *args, **kwargs)

        # A context given by the caller (reference-only ControlNet) means that this is no plain self-attention call.
        if self._control is None or context is not None:
            return attend(hidden, context)
        return self._control.self_attention(self._layer.index, hidden, attend)


class CrossAttentionHook(AttentionHook):
    """Lets control see what enters the layer; the call itself is the host's."""

    def __call__(
        self, hidden: torch.Tensor, context: torch.Tensor | None = None, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        if self._control is not None and context is not None:
            self._control.cross_attention(self._layer.index, self._layer.module, hidden, context)
        return self._host_forward(hidden, context, *args, **kwargs)


@contextmanager
def attached(unet: nn.Module, control: MutualSelfAttentionControl) -> Iterator[tuple[AttentionLayer, ...]]:
    """Control the self-attention layers of ``unet``, which are yielded, inside the ``with`` block, whatever ends it.

    With masks, control also looks at what enters the cross-attention layers.

    Attaching first removes any stale hook of ours, so that even a process killed inside a block heals.

    Raises:
        UnsupportedModelError: the model has no U-Net self-attention layers; nothing is hooked then.
    """
    layers, looked_at = self_attention_layers(unet), cross_attention_layers(unet)
    for layer in (*layers, *looked_at):
        _remove_stale_hooks(layer.module)
    hooks: list[AttentionHook] = [SelfAttentionHook(layer, control) for layer in layers]
    if control.masks:
        hooks += [CrossAttentionHook(layer, control) for layer in looked_at]
    with ExitStack() as stack:
        for hook in hooks:
            stack.callback(hook.remove)
            hook.install()
        yield layers


def _remove_stale_hooks(module: nn.Module) -> None:
    while getattr(module.__dict__.get("forward"), "is_masactrl_hook", False):
        module.__dict__["forward"].remove()
