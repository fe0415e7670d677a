"""The networks of Stable Diffusion 1.x: `ldm`'s own classes, and the CLIP classes that `ldm` wraps.

``ldm.models.autoencoder.AutoencoderKL`` and ``ldm.modules.encoders.modules.FrozenCLIPEmbedder`` are not imported: the
first is a pytorch_lightning module (for training; a heavy package with a tail of its own), the second's file imports
open_clip and so torchvision. What they add to the classes used here fits in a few lines each.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from lib_masactrl.errors import UnsupportedModelError
from lib_masactrl.host.standalone.config import PUBLIC_TOKENIZER, ModelConfig
from lib_masactrl.prompt_words import Token

_quiet = contextlib.redirect_stdout(io.StringIO())  # ldm announces itself by print; stdout belongs to the results
with _quiet:
    from ldm.modules.diffusionmodules.model import Decoder, Encoder
    from ldm.modules.diffusionmodules.openaimodel import UNetModel
    from ldm.modules.distributions.distributions import DiagonalGaussianDistribution

log = logging.getLogger(__name__)

#: CLIP's context length, start and end token included (``FrozenCLIPEmbedder.max_length``).
MAXIMUM_TOKENS = 77


class Autoencoder(nn.Module):
    """`ldm`'s encoder and decoder with the two 1x1 convolutions of ``AutoencoderKL``, under its parameter names."""

    def __init__(self, ddconfig: Mapping[str, Any], embed_dim: int) -> None:
        super().__init__()
        self.encoder = Encoder(**ddconfig)
        self.decoder = Decoder(**ddconfig)
        self.quant_conv = nn.Conv2d(2 * ddconfig["z_channels"], 2 * embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(embed_dim, ddconfig["z_channels"], 1)

    def encode(self, pictures: Tensor) -> DiagonalGaussianDistribution:
        """Pictures (n, 3, height, width) in -1..1 to a distribution over unscaled latents."""
        return DiagonalGaussianDistribution(self.quant_conv(self.encoder(pictures)))

    def decode(self, latents: Tensor) -> Tensor:
        """Unscaled latents (n, embed_dim, h, w) to pictures (n, 3, height, width), about -1..1."""
        return cast(Tensor, self.decoder(self.post_quant_conv(latents)))


class TextEncoder(nn.Module):
    """Prompts to the U-Net's context, as ``FrozenCLIPEmbedder`` does it: last layer, padded with the end token.

    Also a :class:`~lib_masactrl.prompt_words.PromptTokenizer`.

    Args:
        folder: tokenizer files and ``config.json``.

    Raises:
        UnsupportedModelError: the folder's files are missing or unreadable.
    """

    def __init__(self, folder: str) -> None:
        super().__init__()
        if folder == PUBLIC_TOKENIZER:  # without network access the attempts take minutes
            log.info("Taking the tokenizer %s from the Hugging Face cache or site ...", folder)
        try:
            self.tokenizer = CLIPTokenizer.from_pretrained(folder)
            self.transformer = CLIPTextModel(CLIPTextConfig.from_pretrained(folder))
        except Exception as error:  # transformers raises OSError, ValueError, TypeError, ... for a broken folder
            raise UnsupportedModelError(
                f"No CLIP tokenizer and config.json could be read from {folder} ({type(error).__name__}); name a "
                "folder with vocab.json, merges.txt and config.json of the checkpoint's text encoder in the yaml "
                "(cond_stage_config.params.version)."
            ) from error

    def forward(self, prompts: Sequence[str]) -> Tensor:
        """Context (n, 77, width) of n prompts."""
        self._warn_of_cut(prompts)
        encoded = self.tokenizer(
            list(prompts), truncation=True, max_length=MAXIMUM_TOKENS, padding="max_length", return_tensors="pt"
        )
        device = next(self.transformer.parameters()).device
        return cast(Tensor, self.transformer(input_ids=encoded["input_ids"].to(device)).last_hidden_state)

    def tokens(self, text: str) -> list[Token]:
        """The tokens of ``text`` that the model reads, with their positions in the context."""
        ids = self.tokenizer(text, truncation=True, max_length=MAXIMUM_TOKENS)["input_ids"][1:-1]
        pieces = self.tokenizer.convert_ids_to_tokens(ids)
        return [Token(1 + i, number, piece.endswith("</w>")) for i, (number, piece) in enumerate(zip(ids, pieces))]

    def spelt(self, ids: Sequence[int]) -> str:
        """What tokens spell."""
        return cast(str, self.tokenizer.decode(list(ids)))

    def _warn_of_cut(self, prompts: Sequence[str]) -> None:
        for prompt in dict.fromkeys(prompts):
            tokens = len(self.tokenizer(prompt)["input_ids"])
            if tokens > MAXIMUM_TOKENS:
                log.warning(
                    "The prompt %r... has %d tokens; the model reads the first %d only.",
                    prompt[:40],
                    tokens - 2,
                    MAXIMUM_TOKENS - 2,
                )


def build_networks(config: ModelConfig) -> tuple[nn.Module, Autoencoder, TextEncoder]:
    """U-Net, autoencoder and text encoder in the sizes of ``config``.

    U-Net and autoencoder are on the meta device: their weights come from the checkpoint, and initialising 900 million
    numbers before that takes longer than reading them.

    Raises:
        UnsupportedModelError: ldm's classes refuse the sizes.
    """
    try:
        with _quiet, torch.device("meta"):
            unet = UNetModel(**config.unet)
            autoencoder = Autoencoder(config.autoencoder, config.embed_dim)
    except Exception as error:  # ldm checks its arguments by assert, KeyError and ZeroDivisionError
        raise UnsupportedModelError(
            f"The yaml's sizes fit no U-Net and autoencoder of ldm ({type(error).__name__}: {error}); "
            "give the yaml that belongs to the checkpoint."
        ) from error
    return cast(nn.Module, unet), autoencoder, TextEncoder(config.tokenizer)
