"""Masks of a WebUI request: its tokenizer and prompt parser, which rows hold prompts, and the inpaint mask."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from modules import extra_networks, prompt_parser, shared
from PIL import Image

from lib_masactrl.branches import Branch
from lib_masactrl.errors import UnsupportedModelError
from lib_masactrl.host.batch import BranchBatch
from lib_masactrl.host.foreground import branches_by_words, foreground_words, masks_for
from lib_masactrl.masks import ForegroundMasks, dimmed
from lib_masactrl.prompt_words import Token
from lib_masactrl.settings import MasaCtrlSettings

_END_OF_WORD = "</w>"


class HostTokenizer:
    """The loaded checkpoint's own tokenizer, with the host's emphasis, BREAK, chunks and embeddings.

    SDXL has two text encoders, whose contexts are joined feature by feature: one position, one token, in both.

    Raises:
        UnsupportedModelError: the checkpoint reads prompts in another way.
    """

    def __init__(self, sd_model: Any) -> None:
        reader = getattr(sd_model, "cond_stage_model", None) or getattr(sd_model, "conditioner", None)
        engines = [  # A1111: SD 1 and 2, SDXL; the Forge family: SD 1 and 2, SDXL
            reader,
            *getattr(reader, "embedders", ()),
            *(getattr(sd_model, f"text_processing_engine{part}", None) for part in ("", "_l", "_g")),
        ]
        self._engine: Any = next((engine for engine in engines if hasattr(engine, "tokenize_line")), None)
        if self._engine is None:
            raise UnsupportedModelError(
                f"{type(sd_model).__name__} does not tell which words its prompts consist of; "
                "give mask 'painted' or 'none', or load a Stable Diffusion 1.x, 2.x or SDXL checkpoint (Forge loads it "
                "with the first image)."
            )

    def tokens(self, text: str) -> list[Token]:
        chunks, _ = self._engine.tokenize_line(text)
        return [token for number, chunk in enumerate(chunks) for token in self._of_chunk(number, chunk)]

    def spelt(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer().decode(list(ids)))

    def _of_chunk(self, number: int, chunk: Any) -> list[Token]:
        """The tokens between the start token and the padding of end tokens."""
        first = number * len(chunk.tokens)
        embeddings = {fix.offset + 1: fix.embedding for fix in chunk.fixes}
        found: list[Token] = []
        position = 1
        while position < len(chunk.tokens) - 1:
            vectors = int(embeddings[position].vectors) if position in embeddings else 0
            for vector in range(vectors):
                name = str(embeddings[position].name)
                found.append(Token(first + position + vector, 0, vector == vectors - 1, name))
            if not vectors:
                number_of_token = int(chunk.tokens[position])
                if number_of_token == self._engine.id_end:
                    break
                found.append(Token(first + position, number_of_token, self._ends_word(number_of_token)))
            position += max(1, vectors)
        return found

    def _ends_word(self, number: int) -> bool:
        tokenizer = self._tokenizer()
        if hasattr(tokenizer, "convert_ids_to_tokens"):
            return str(tokenizer.convert_ids_to_tokens(number)).endswith(_END_OF_WORD)
        return str(tokenizer.decoder[number]).endswith(_END_OF_WORD)

    def _tokenizer(self) -> Any:
        """transformers' tokenizer; or open_clip's, which A1111 keeps beside its engine (SD 2)."""
        own = getattr(self._engine, "tokenizer", None)
        if own is None:
            from modules import sd_hijack_open_clip

            own = sd_hijack_open_clip.tokenizer
        return own


def texts_of(prompt: str, steps: int, hires_steps: int | None = None) -> list[tuple[int, str]]:
    """The texts that the model reads for a prompt, each with the last denoiser step that it is for."""
    stripped, _ = extra_networks.parse_prompt(prompt)
    _, texts, _ = prompt_parser.get_multicond_prompt_list([stripped])
    old = bool(getattr(shared.opts, "use_old_scheduling", False))
    schedules = prompt_parser.get_learned_conditioning_prompt_schedules(list(texts)[:1], steps, hires_steps, old)
    return [(int(last), str(text)) for last, text in schedules[0]]


def check_masks(p: Any, batch: BranchBatch) -> None:
    """The masks that the settings ask for can be made: every word is in its prompt, a mask was painted.

    Raises:
        MasaCtrlError: naming what is missing.
    """
    settings = batch.settings
    if settings.mask == "none":
        return
    painted = None if getattr(p, "image_mask", None) is None else torch.ones(1, 1)
    masks_for(settings, (), painted, None)
    for prompts in (p.all_prompts, getattr(p, "all_hr_prompts", None) or ()):
        left = list(prompts)
        for iteration in itertools.count():
            branches = batch.branches(iteration)
            if not left or not branches:
                break
            texts = [[text for _, text in texts_of(prompt, int(p.steps))] for prompt in left[: len(branches)]]
            _positions(settings, dict(zip(branches, texts)))
            del left[: len(branches)]


def _positions(
    settings: MasaCtrlSettings, texts: Mapping[Branch, Sequence[str]]
) -> dict[Branch, tuple[tuple[int, ...], ...]]:
    by_words = branches_by_words(settings, tuple(texts))
    if not by_words:
        return {}
    wanted = {branch: texts[branch] for branch in by_words}
    return foreground_words(settings).positions(wanted, HostTokenizer(shared.sd_model))


def with_masks(
    masks: ForegroundMasks, branches: tuple[Branch, ...], decoded: Sequence[torch.Tensor]
) -> list[Image.Image]:
    """Each picture (3, height, width), 0..1, with its background dimmed; those whose foreground was found."""
    shown = ((masks.of_result(branch), picture.float().cpu()) for branch, picture in zip(branches, decoded))
    values = [(dimmed(picture, mask) * 255).round().clamp(0, 255) for mask, picture in shown if mask is not None]
    return [Image.fromarray(value.permute(1, 2, 0).to(torch.uint8).numpy()) for value in values]


class RequestMasks:
    """The masks of one sampling of a request, and what the U-Net's calls say about its prompts."""

    def __init__(self, p: Any, settings: MasaCtrlSettings, branches: tuple[Branch, ...]) -> None:
        self._p, self._settings, self._branches = p, settings, branches
        self._schedules: dict[bool, dict[Branch, list[tuple[int, tuple[int, ...]]]]] = {}
        self._rows_evaluated = 0
        nmask = getattr(p, "nmask", None)  # 1 where the inpaint mask lets the host paint, in latent cells
        self.masks = masks_for(settings, branches, None if nmask is None else nmask[0], self._words)

    def begin_evaluation(self) -> None:
        """Before each of the denoiser's evaluations, which may take several U-Net calls."""
        self._rows_evaluated = 0

    def cond_pass(self, rows: int, call: Mapping[str, Any]) -> int | None:
        """Which guidance pass of a U-Net call has the prompts of the branches, if any has.

        The Forge family says so in the call. A1111 evaluates cond before uncond, in one call or in several
        (``CFGDenoiser.forward``), so the first rows of an evaluation are it.
        """
        kinds = (call.get("transformer_options") or {}).get("cond_or_uncond")
        if kinds is not None:
            return list(kinds).index(0) if 0 in kinds else None
        first, self._rows_evaluated = self._rows_evaluated == 0, self._rows_evaluated + rows
        return 0 if first else None

    def _words(self, branch: Branch) -> tuple[int, ...]:
        """The positions of a branch's words in the text for the denoiser step now running."""
        hires = bool(getattr(self._p, "is_hr_pass", False))
        denoiser = self._p.sampler.model_wrap_cfg
        if hires not in self._schedules:
            self._schedules[hires] = self._schedule(hires, max(1, int(denoiser.total_steps) // int(denoiser.steps)))
        schedule = self._schedules[hires][branch]
        # As `reconstruct_multicond_batch` chooses: the first text whose end is not passed, else the first of all.
        return next((found for last, found in schedule if int(denoiser.step) <= last), schedule[0][1])

    def _schedule(self, hires: bool, per_step: int) -> dict[Branch, list[tuple[int, tuple[int, ...]]]]:
        p = self._p
        second = (int(getattr(p, "hr_second_pass_steps", 0) or 0) or int(p.steps)) * per_step if hires else None
        prompts = p.hr_prompts if hires else p.prompts
        texts = {b: texts_of(prompt, int(p.steps) * per_step, second) for b, prompt in zip(self._branches, prompts)}
        found = _positions(self._settings, {b: [text for _, text in timed] for b, timed in texts.items()})
        return {b: [(last, places) for (last, _), places in zip(texts[b], found[b])] for b in found}
