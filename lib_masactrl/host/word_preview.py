"""What the accordion shows while foreground words are typed: the words of both prompts that they match."""

from __future__ import annotations

import html
import logging

from modules import sd_models

from lib_masactrl.errors import MasaCtrlError
from lib_masactrl.host.model import loaded_model
from lib_masactrl.host.words import HostTokenizer, texts_of
from lib_masactrl.prompt_words import phrases_in, positions_of, words_of

log = logging.getLogger(__name__)


def matches(mask: str, source_words: str, target_words: str, source_prompt: str, prompt: str = "") -> str:
    """Both prompts, word by word, those marked that the words match. HTML; empty without words."""
    if mask == "none" or not phrases_in(f"{source_words},{target_words}"):
        return ""
    if loaded_model() is None:
        return "<p>The words are looked up when a checkpoint is loaded.</p>"
    try:
        tokenizer = HostTokenizer(sd_models.model_data.sd_model)
        return _marked("Source:", source_prompt, source_words or target_words, tokenizer) + _marked(
            "Target:", prompt, target_words or source_words, tokenizer
        )
    except MasaCtrlError as error:
        return f"<p>{html.escape(str(error))}</p>"
    except Exception:  # a half-typed prompt can be anything, and a preview must not disturb the typing
        log.debug("MasaCtrl cannot look up the words of a prompt.", exc_info=True)
        return "<p>The words cannot be looked up in these prompts.</p>"


def _marked(branch: str, prompt: str, phrases: str, tokenizer: HostTokenizer) -> str:
    lines = dict.fromkeys(text for _, text in texts_of(prompt, steps=20))
    marked = []
    for text in lines:
        of_text = words_of(text, tokenizer)
        found = {place for phrase in phrases_in(phrases) for place in positions_of(phrase, of_text, tokenizer)}
        shown = ((html.escape(word.text), found & set(word.positions)) for word in of_text)
        marked.append(" ".join(f"<mark>{word}</mark>" if matched else word for word, matched in shown))
    # The branch has a text of its own, because the host translates text by text.
    return f"<p><span>{branch}</span> {'<br>'.join(marked)}</p>"
