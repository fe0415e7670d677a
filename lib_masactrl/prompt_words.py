"""Words of a prompt and the token positions where a U-Net's context speaks of them, as the host tokenises prompts.

Users name words ("corgi", "red hat"); cross-attention knows positions. Both sides go through the host's own tokenizer,
so whatever it does to a prompt (emphasis, BREAK, chunks of 75 tokens, embeddings, lower case) is done to both.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from lib_masactrl.branches import Branch
from lib_masactrl.errors import SettingsError

#: Words offered in a message; a long prompt has more.
_OFFERED = 30


@dataclass(frozen=True)
class Token:
    """One token of a prompt.

    Attributes:
        position: in the context, with start tokens and padding counted.
        id: in the vocabulary.
        ends_word: whether a word ends with it.
        embedding: the name of the textual inversion embedding that it belongs to, or empty.
    """

    position: int
    id: int
    ends_word: bool
    embedding: str = ""


class PromptTokenizer(Protocol):
    """A host's tokenizer with everything that the host does to a prompt before and after it."""

    def tokens(self, text: str) -> Sequence[Token]:
        """The tokens of a text in order; neither start and end tokens nor padding."""

    def spelt(self, ids: Sequence[int]) -> str:
        """What tokens spell."""


@dataclass(frozen=True)
class PromptWord:
    """A word, a punctuation mark or an embedding of a prompt, and the positions of its tokens."""

    text: str
    positions: tuple[int, ...]


def words_of(text: str, tokenizer: PromptTokenizer) -> tuple[PromptWord, ...]:
    """The words of a text in order. ``text`` is what the model reads at one step: no scheduling, no network tags."""
    words: list[PromptWord] = []
    word: list[Token] = []
    for token in tokenizer.tokens(text):
        word.append(token)
        if token.ends_word:
            spelt = token.embedding or tokenizer.spelt([part.id for part in word])
            words.append(PromptWord(spelt.strip().lower(), tuple(part.position for part in word)))
            word = []
    return tuple(words)


def phrases_in(words: str) -> tuple[str, ...]:
    """The phrases of a ``source_words`` or ``target_words`` setting: separated by commas or line breaks."""
    return tuple(dict.fromkeys(p for p in (part.strip() for part in words.replace("\n", ",").split(",")) if p))


def positions_of(phrase: str, words: Sequence[PromptWord], tokenizer: PromptTokenizer) -> tuple[int, ...]:
    """The positions of every place where ``phrase`` stands in ``words``; none if it does not."""
    wanted = [word.text for word in words_of(phrase, tokenizer)]
    places = range(len(words) - len(wanted) + 1) if wanted else ()
    found = (words[i : i + len(wanted)] for i in places if [w.text for w in words[i : i + len(wanted)]] == wanted)
    return tuple(dict.fromkeys(position for place in found for word in place for position in word.positions))


@dataclass(frozen=True)
class ForegroundWords:
    """The words that tell foreground from background, and how they are looked up in the prompts of a batch.

    Attributes:
        source: phrases for the source branch; none: those of the target that occur in the source prompt.
        target: phrases for the target branches, or none likewise.

    Raises:
        SettingsError: both are empty.
    """

    source: tuple[str, ...]
    target: tuple[str, ...]

    def __post_init__(self) -> None:
        if not (self.source or self.target):
            raise SettingsError(
                "mask is 'words', but source_words and target_words are empty; name what the foreground is "
                "in source_words, as the source prompt does, or give mask 'none'."
            )

    def positions(
        self, prompts: Mapping[Branch, Sequence[str]], tokenizer: PromptTokenizer
    ) -> dict[Branch, tuple[tuple[int, ...], ...]]:
        """For each branch, the foreground's positions in each of its texts.

        Every phrase has to occur in a prompt of the branches that it is for, and every branch has to have one.

        Args:
            prompts: for each branch, the texts that the model reads in the course of sampling: one, or with prompt
                editing several.

        Raises:
            SettingsError: naming the word that is in no prompt, the words that can be chosen, and the nearest one.
        """
        sources = {branch: texts for branch, texts in prompts.items() if branch.is_source}
        targets = {branch: texts for branch, texts in prompts.items() if not branch.is_source}
        return {
            **_found("source_words", self.source, self.target, sources, tokenizer),
            **_found("target_words", self.target, self.source, targets, tokenizer),
        }


def _found(
    key: str,
    own: tuple[str, ...],
    others: tuple[str, ...],
    prompts: Mapping[Branch, Sequence[str]],
    tokenizer: PromptTokenizer,
) -> dict[Branch, tuple[tuple[int, ...], ...]]:
    spelt = {text: words_of(text, tokenizer) for texts in prompts.values() for text in texts}
    phrases = own or others
    places = {
        phrase: {text: positions_of(phrase, words, tokenizer) for text, words in spelt.items()} for phrase in phrases
    }
    for phrase in own:
        if prompts and not any(places[phrase].values()):
            raise _unknown(key, f"{phrase!r}", next(iter(prompts.values())), spelt.values(), phrase)
    found = {}
    for branch, texts in prompts.items():
        found[branch] = tuple(tuple(dict.fromkeys(p for of in places.values() for p in of[text])) for text in texts)
        if not any(found[branch]):
            named = " or ".join(repr(phrase) for phrase in phrases)
            whose = named if own else f"nothing (so {named} was looked for)"
            raise _unknown(key, whose, texts, [spelt[text] for text in texts], phrases[0])
    return found


def _unknown(
    key: str, given: str, texts: Sequence[str], prompts: Iterable[Sequence[PromptWord]], phrase: str
) -> SettingsError:
    words = [
        word for prompt in prompts for word in dict.fromkeys(w.text for w in prompt) if any(map(str.isalnum, word))
    ]
    choice = list(dict.fromkeys(words))
    near = difflib.get_close_matches(phrase.lower(), choice, n=1)
    shown = texts[0] if len(texts[0]) <= 60 else texts[0][:60] + "..."
    offered = ", ".join(choice[:_OFFERED]) + (", ..." if len(choice) > _OFFERED else "")
    return SettingsError(
        f"{key} is {given}, which is not in the prompt {shown!r}; "
        + (f"did you mean {near[0]!r}? " if near else "")
        + (f"Words to choose from: {offered}." if choice else "That prompt has no words; describe the picture in it.")
    )
