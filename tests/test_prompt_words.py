"""Words to token positions, with a tokenizer that cuts long words in pieces; what hosts really do is in `tests/e2e`."""

from __future__ import annotations

import re

import pytest

from lib_masactrl.branches import Branch, branches_in_batch
from lib_masactrl.errors import SettingsError
from lib_masactrl.prompt_words import ForegroundWords, Token, phrases_in, positions_of, words_of

TARGET, SOURCE = branches_in_batch(1, 1)


class PieceTokenizer:
    """Pieces of three letters; `*name*` is an embedding of two vectors."""

    def __init__(self) -> None:
        self.pieces: list[str] = []

    def tokens(self, text):
        found: list[Token] = []
        for word in re.findall(r"\*\w+\*|\w+|[^\w\s]", text.lower()):
            embedding = word if word.startswith("*") and len(word) > 1 else ""
            pieces = [embedding, embedding] if embedding else [word[i : i + 3] for i in range(0, len(word), 3)]
            for index, piece in enumerate(pieces):
                self.pieces.append(piece)
                last = index == len(pieces) - 1
                found.append(Token(1 + len(found), len(self.pieces) - 1, last, embedding))
        return found

    def spelt(self, ids):
        return "".join(self.pieces[number] for number in ids)


@pytest.fixture
def tokenizer():
    return PieceTokenizer()


def test_words_are_whole_and_know_their_tokens(tokenizer):
    words = words_of("A corgi, *emb* barks", tokenizer)
    assert [(w.text, w.positions) for w in words] == [
        ("a", (1,)),
        ("corgi", (2, 3)),
        (",", (4,)),
        ("*emb*", (5, 6)),
        ("barks", (7, 8)),
    ]


@pytest.mark.parametrize(
    ("phrase", "positions"),
    [
        ("cat", (2, 7)),  # every place
        ("CAT", (2, 7)),
        ("red hat", (5, 6)),
        ("hat red", ()),
        ("at", ()),  # no part of a word
        ("ca", ()),
        ("cat and", (2, 3)),
        ("", ()),
    ],
)
def test_phrases_are_found_as_whole_words(tokenizer, phrase, positions):
    words = words_of("a cat and a red hat cat", tokenizer)
    moved = {"red hat": (5, 6), "cat": (2, 7)}
    assert positions_of(phrase, words, tokenizer) == moved.get(phrase.lower(), positions)


def test_settings_hold_phrases_between_commas():
    assert phrases_in(" corgi, red hat,,\n dog, corgi ") == ("corgi", "red hat", "dog")
    assert phrases_in(" , ") == ()


def found(words, source, target, tokenizer):
    return words.positions({SOURCE: (source,), TARGET: (target,)}, tokenizer)


def test_empty_words_are_the_other_branchs_where_they_occur(tokenizer):
    got = found(ForegroundWords(("cat", "hat"), ()), "a cat, hat", "the cat", tokenizer)
    assert got == {SOURCE: ((2, 4),), TARGET: ((2,),)}
    got = found(ForegroundWords((), ("cat",)), "a cat, hat", "the cat", tokenizer)
    assert got == {SOURCE: ((2,),), TARGET: ((2,),)}


def test_prompt_editing_has_its_words_when_they_are_there(tokenizer):
    words = ForegroundWords(("cat",), ("cat", "dog"))
    got = words.positions({SOURCE: ("a cat",), TARGET: ("a cat", "my old dog", "a bird")}, tokenizer)
    assert got[TARGET] == ((2,), (3,), ())


def test_each_target_has_to_have_one_of_the_words(tokenizer):
    other = Branch(0, 1)
    prompts = {SOURCE: ("a cat",), TARGET: ("a dog",), other: ("the cow",)}
    got = ForegroundWords(("cat",), ("dog", "cow")).positions(prompts, tokenizer)
    assert got[TARGET] == ((2,),) and got[other] == ((2,),)
    with pytest.raises(SettingsError, match=r"target_words is 'dog', .*'the cow'"):
        ForegroundWords(("cat",), ("dog",)).positions(prompts, tokenizer)


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        (
            ("corgis",),
            (),
            r"'corgis', .*'a corgi'; did you mean 'corgi'\? Words to choose from: a, corgi\.",
        ),
        (("corgi",), ("dgo",), r"target_words is 'dgo', .*'a dog'; did you mean 'dog'\?"),
        (("corgi",), (), r"target_words is nothing \(so 'corgi' was looked for\), .*'a dog'"),
        (("corgi", "zebra"), ("dog",), r"source_words is 'zebra'"),
        ((), (), "source_words and target_words are empty"),
    ],
)
def test_a_word_that_is_not_there_is_refused_by_name(tokenizer, source, target, expected):
    with pytest.raises(SettingsError, match=expected):
        found(ForegroundWords(source, target), "a corgi", "a dog", tokenizer)


def test_a_prompt_without_words_says_so(tokenizer):
    with pytest.raises(SettingsError, match="no words; describe the picture"):
        found(ForegroundWords(("cat",), ()), "", "a cat", tokenizer)


def test_a_long_prompt_and_its_many_words_are_shortened(tokenizer):
    """Punctuation is no choice; forty words are more than a message needs."""
    prompt = "dog, " * 3 + " ".join(f"word{number}" for number in range(39))
    with pytest.raises(SettingsError) as refusal:
        found(ForegroundWords(("cat",), ()), prompt, "a cat", tokenizer)
    said = str(refusal.value)
    assert f"{prompt[:60]}...'" in said and prompt[:61] not in said
    assert "Words to choose from: dog, word0, word1, " in said and said.endswith("word28, ....")
    with pytest.raises(SettingsError, match=r"choose from: a, dog\.$"):
        found(ForegroundWords(("cat",), ()), "a dog, a dog.", "a cat", tokenizer)
