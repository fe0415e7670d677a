"""Masks of a WebUI request over a stand-in for its tokenizer and prompt parser: positions, schedules, guidance passes.

That the real ones are met is proved by ``tests/e2e/test_masks.py``.
"""

from __future__ import annotations

import importlib
from types import SimpleNamespace

import pytest
import torch

from lib_masactrl.branches import BatchLayout, branches_in_batch
from lib_masactrl.errors import SettingsError, UnsupportedModelError
from lib_masactrl.host.batch import BranchBatch
from lib_masactrl.masks import ForegroundMasks
from lib_masactrl.settings import MasaCtrlSettings
from tests.webui_standin import Request

TARGET, SOURCE = PAIR = branches_in_batch(1, 1)
START, END = 1, 0
#: Tokens of one chunk, with start and end.
CHUNK = 8
#: Embeddings with their numbers of vectors.
VECTORS = {"embedded": 2}


class Vocabulary:
    """Pieces of at most three letters: ``standing`` is ``sta``, ``ndi`` and ``ng</w>``."""

    def __init__(self) -> None:
        self.decoder = ["<end>", "<start>"]

    def numbers(self, word: str) -> list[int]:
        pieces = [word[i : i + 3] for i in range(0, len(word), 3)]
        pieces[-1] += "</w>"
        self.decoder += [piece for piece in pieces if piece not in self.decoder]
        return [self.decoder.index(piece) for piece in pieces]

    def decode(self, numbers: list[int]) -> str:
        return "".join(self.decoder[number] for number in numbers).replace("</w>", " ")


class Converting(Vocabulary):
    """As transformers' tokenizer gives pieces."""

    def convert_ids_to_tokens(self, number: int) -> str:
        return self.decoder[number]


class Engine:
    """A1111's text encoder, as far as its tokenizer goes: chunks, filled up with end tokens, and their embeddings."""

    id_end = END

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.tokenizer = vocabulary

    def tokenize_line(self, text: str):
        chunks, tokens, fixes = [], [], []
        for word in text.split():
            fix = SimpleNamespace(offset=len(tokens), embedding=SimpleNamespace(name=word, vectors=VECTORS.get(word)))
            numbers = [END] * VECTORS[word] if word in VECTORS else self.tokenizer.numbers(word)
            if len(tokens) + len(numbers) > CHUNK - 2:
                chunks.append((tokens, fixes))
                tokens, fixes, fix.offset = [], [], 0
            tokens = tokens + numbers
            fixes = [*fixes, fix] if word in VECTORS else fixes
        padded = [
            SimpleNamespace(tokens=[START, *tokens, *[END] * (CHUNK - 1 - len(tokens))], fixes=fixes)
            for tokens, fixes in [*chunks, (tokens, fixes)]
        ]
        return padded, 0


@pytest.fixture
def words(host):
    """The module, over a host that reads ``a > b`` as ``a`` up to the middle of sampling and ``b`` from then on."""

    def schedules(texts, steps, hires_steps, old):
        host.asked.append((texts, steps, hires_steps, old))
        last = steps if hires_steps is None else hires_steps
        parts = [text.split(" > ") for text in texts]
        return [[[last * (i + 1) // len(part), text] for i, text in enumerate(part)] for part in parts]

    host.asked = []
    parser, networks = map(importlib.import_module, ("modules.prompt_parser", "modules.extra_networks"))
    parser.get_multicond_prompt_list = lambda prompts: ([], [part.strip() for part in prompts[0].split("AND")], {})
    parser.get_learned_conditioning_prompt_schedules = schedules
    networks.parse_prompt = lambda prompt: (prompt.replace("<lora:nudge:1>", ""), {})
    host.shared.sd_model.cond_stage_model = Engine(Converting())
    return importlib.import_module("lib_masactrl.host.words")


def positions(words, model, text):
    return [(token.position, token.ends_word) for token in words.HostTokenizer(model).tokens(text)]


@pytest.mark.parametrize(
    "holder",
    [
        lambda engine: {"cond_stage_model": engine},
        lambda engine: {"cond_stage_model": None, "conditioner": SimpleNamespace(embedders=[object(), engine])},
        lambda engine: {"text_processing_engine": engine},
        lambda engine: {"text_processing_engine_l": engine, "text_processing_engine_g": object()},
    ],
    ids=["A1111", "A1111, SDXL", "Forge", "Forge, SDXL"],
)
@pytest.mark.parametrize("vocabulary", [Vocabulary, Converting])
def test_tokens_are_where_the_host_puts_them(words, holder, vocabulary):
    """A position counts start tokens and padding: the second chunk begins at 8, its first token is number 9."""
    model = SimpleNamespace(**holder(Engine(vocabulary())))
    assert positions(words, model, "a standing cat hat") == [
        *[(1, True), (2, False), (3, False), (4, True), (5, True), (6, True)],
    ]
    assert positions(words, model, "standing running a") == [
        *[(1, False), (2, False), (3, True)],
        *[(4, False), (5, False), (6, True), (9, True)],
    ]
    tokenizer = words.HostTokenizer(model)
    assert tokenizer.spelt([token.id for token in tokenizer.tokens("a standing cat")]) == "a standing cat "


def test_an_embedding_is_one_word_of_its_vectors(words):
    """Its placeholders may be any number, the end token's too."""
    tokens = words.HostTokenizer(SimpleNamespace(cond_stage_model=Engine(Converting()))).tokens("a embedded cat")
    assert [(t.position, t.ends_word, t.embedding) for t in tokens] == [
        *[(1, True, ""), (2, False, "embedded"), (3, True, "embedded"), (4, True, "")],
    ]


def test_open_clips_vocabulary_is_beside_its_engine(words, monkeypatch):
    """SD 2 in A1111: the engine has no tokenizer of its own."""
    engine = Engine(Vocabulary())
    module = SimpleNamespace(tokenizer=engine.tokenizer)
    monkeypatch.setattr(importlib.import_module("modules"), "sd_hijack_open_clip", module, raising=False)
    model = SimpleNamespace(cond_stage_model=SimpleNamespace(tokenize_line=engine.tokenize_line, id_end=END))
    assert positions(words, model, "a standing")[-1] == (4, True)


def test_a_model_without_such_a_tokenizer_is_refused(words):
    with pytest.raises(UnsupportedModelError, match="SimpleNamespace does not tell which words"):
        words.HostTokenizer(SimpleNamespace(cond_stage_model=None, text_processing_engine_t5=object()))


def test_texts_are_the_schedule_of_the_first_part_without_tags(words, host):
    assert words.texts_of("a cat > a dog<lora:nudge:1> AND a hat", 8) == [(4, "a cat"), (8, "a dog")]
    host.shared.opts.use_old_scheduling = True
    assert words.texts_of("a cat", 8, 5) == [(5, "a cat")]
    assert host.asked == [(["a cat > a dog"], 8, None, False), (["a cat"], 8, 5, True)]


BY_WORDS = {"enabled": True, "source_prompt": "a dog", "mask": "words", "source_words": "dog", "target_words": "cat"}


def masks_of(words, host, prompts, **more):
    settings = MasaCtrlSettings.from_mapping({**BY_WORDS, **more.pop("settings", {})})
    p = Request(host, prompts=prompts, **more)
    branches = branches_in_batch(1, settings.targets)
    return words.RequestMasks(p, settings, branches), p.sampler.model_wrap_cfg


@pytest.mark.parametrize("per_step", [1, 2], ids=["DDIM", "Heun"])
def test_words_are_those_of_the_text_for_the_step_now_running(words, host, per_step):
    """A text's last denoiser step is its own; after the last text's, the host falls back to the first."""
    request, denoiser = masks_of(words, host, ["a cat > here is one cat", "a dog"], steps=4)
    denoiser.steps, denoiser.total_steps, found = 4, 4 * per_step, []
    for denoiser.step in range(4 * per_step + 2):
        found.append(request._words(TARGET))
        assert request._words(SOURCE) == (2,)
    assert found == [(2,)] * (2 * per_step + 1) + [(5,)] * (2 * per_step) + [(2,)]
    assert host.asked[0][1:3] == (4 * per_step, None)


def test_the_second_pass_has_its_own_prompts_and_steps(words, host):
    request, denoiser = masks_of(
        words, host, ["a cat", "a dog"], steps=4, hr_prompts=["one big cat", "a dog"], hr_second_pass_steps=6
    )
    denoiser.steps, denoiser.total_steps, denoiser.step = 4, 4, 0
    assert request._words(TARGET) == (2,)
    request._p.is_hr_pass, denoiser.steps, denoiser.total_steps = True, 6, 12
    assert request._words(TARGET) == (3,)
    assert [asked[1:3] for asked in host.asked] == [(4, None)] * 2 + [(8, 12)] * 2
    request._p.hr_second_pass_steps = 0  # as many as the first
    request._schedules.clear()
    request._words(TARGET)
    assert host.asked[-1][1:3] == (8, 8)


def test_the_pass_with_the_prompts(words, host):
    """Forge says which it is, in whatever order; in A1111 it is what comes first in an evaluation."""
    request, _ = masks_of(words, host, ["a cat", "a dog"])
    for kinds, expected in (([0, 1], 0), ([1, 0], 1), ([1], None), ([0], 0)):
        assert request.cond_pass(2 * len(kinds), {"transformer_options": {"cond_or_uncond": kinds}}) == expected
    for _ in range(2):
        request.begin_evaluation()
        assert [request.cond_pass(2, {}), request.cond_pass(2, {"transformer_options": {}})] == [0, None]


def checked(words, host, prompts, hires=(), *, given=None, **settings):
    named = MasaCtrlSettings.from_mapping({**BY_WORDS, **settings})
    p = Request(host, **(given or {}))
    batch = BranchBatch(named)
    batch.enlarge(p)
    p.setup_prompts()
    batch.write_branches(p, lambda prompt: prompt)
    p.all_prompts, p.all_hr_prompts = list(prompts), list(hires)
    words.check_masks(p, batch)


def test_every_prompt_of_every_batch_has_to_have_its_words(words, host):
    checked(words, host, ["a cat", "a dog"] * 2, given={"n_iter": 2})
    checked(words, host, ["a cat", "a dog"], ["one cat", "one dog"])
    checked(words, host, ["a bird > a cat", "a dog"])  # one of a prompt's texts is enough
    checked(words, host, ["a bird", "a bird"], mask="none")
    with pytest.raises(SettingsError, match="target_words is 'cat', which is not in the prompt 'a bird'"):
        checked(words, host, ["a cat", "a dog", "a bird", "a dog"], given={"n_iter": 2})
    with pytest.raises(SettingsError, match="source_words is 'dog', which is not in the prompt 'one bird'"):
        checked(words, host, ["a cat", "a dog"], ["one cat", "one bird"])


def test_a_mask_that_is_not_there_is_refused(words, host):
    painted = {"mask": "painted", "source_words": "", "target_words": ""}
    with pytest.raises(SettingsError, match="no mask was painted"):
        checked(words, host, ["a cat", "a dog"], **painted)
    checked(words, host, ["a cat", "a dog"], **painted, given={"image_mask": "mask"})
    with pytest.raises(SettingsError, match="target_words is 'bird'"):
        checked(words, host, ["a cat", "a dog"], **{**painted, "target_words": "bird"}, given={"image_mask": "mask"})


def test_a_painted_mask_is_the_hosts_and_leaves_words_to_the_target(words, host):
    nmask = torch.arange(8.0).expand(4, 8, 8) / 8
    painted = {"mask": "painted", "source_words": ""}
    request, _ = masks_of(words, host, ["a cat", "a dog"], nmask=nmask, settings=painted)
    assert list(request.masks.given) == [SOURCE] and torch.equal(request.masks.given[SOURCE], nmask[0])
    both, _ = masks_of(words, host, ["a cat", "a dog"], nmask=nmask, settings={**painted, "target_words": ""})
    assert set(both.masks.given) == set(PAIR) and both.masks.words is None


def test_pictures_are_dimmed_where_there_is_a_foreground(words):
    left = (torch.arange(8) < 4).float().expand(8, 8)
    masks = ForegroundMasks({TARGET: left})
    masks.begin_call(BatchLayout(PAIR), (8, 8))
    (shown,) = words.with_masks(masks, PAIR, [torch.full((3, 64, 64), 0.8), torch.ones(3, 64, 64)])
    assert shown.size == (64, 64)
    assert (shown.getpixel((0, 0)), shown.getpixel((63, 0))) == ((204,) * 3, (51,) * 3)
