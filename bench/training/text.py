"""The text encoder: transformers' CLIPTextModel at a small size, and captions as token ids."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from bench.training.tokenizer import MAX_LENGTH, VOCABULARY, write_tokenizer

TEXT_WIDTH = 96
CLIP_CONFIG: dict[str, Any] = {
    "architectures": ["CLIPTextModel"],
    "model_type": "clip_text_model",
    "vocab_size": VOCABULARY,
    "hidden_size": TEXT_WIDTH,
    "intermediate_size": 4 * TEXT_WIDTH,
    "projection_dim": TEXT_WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": MAX_LENGTH,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-05,
    "attention_dropout": 0.0,
    "dropout": 0.0,
    "initializer_factor": 1.0,
    "initializer_range": 0.02,
    "bos_token_id": VOCABULARY - 2,
    "eos_token_id": VOCABULARY - 1,
    "pad_token_id": VOCABULARY - 1,
}
PREFIX = "text_model."


def build_text_encoder() -> CLIPTextModel:
    """A freshly initialised encoder."""
    return CLIPTextModel(CLIPTextConfig(**CLIP_CONFIG))


def text_state(model: torch.nn.Module) -> dict[str, Tensor]:
    """The encoder's weights under the names of SD 1, with `text_model.` in front (transformers 5 drops it)."""
    return {key if key.startswith(PREFIX) else PREFIX + key: value for key, value in model.state_dict().items()}


def load_text_state(model: torch.nn.Module, state: dict[str, Tensor]) -> None:
    """The inverse of `text_state`, whatever the names of the installed transformers are."""
    bare = not any(key.startswith(PREFIX) for key in model.state_dict())
    named = {key.removeprefix(PREFIX) if bare else key: value for key, value in state.items()}
    named = {key: value for key, value in named.items() if not key.endswith("position_ids")}
    model.load_state_dict(named)


def tokenize(captions: list[str], folder: Path | None = None) -> Tensor:
    """Token ids (n, 77), padded with the end token as SD 1 does; without a folder the tokenizer is written anew."""
    with tempfile.TemporaryDirectory() as fresh:
        if folder is None:
            write_tokenizer(Path(fresh), CLIP_CONFIG)
        tokenizer = CLIPTokenizer.from_pretrained(str(folder or fresh))
        encoded = tokenizer(captions, padding="max_length", truncation=True, max_length=MAX_LENGTH, return_tensors="pt")
    ids: Tensor = encoded["input_ids"]
    return ids


def encode_text(model: CLIPTextModel, ids: Tensor) -> Tensor:
    """Token ids (n, 77) -> context (n, 77, width); no attention mask, as in SD 1: padding is attended to."""
    context: Tensor = model(input_ids=ids).last_hidden_state
    return context
