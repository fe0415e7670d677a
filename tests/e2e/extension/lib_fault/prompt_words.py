"""Words of a prompt among the host's tokens."""

from modules import shared


def words(body: dict):
    """Where MasaCtrl finds words in a prompt, and what the host's own token chunks have there, piece by piece."""
    from lib_masactrl.host.words import HostTokenizer, texts_of
    from lib_masactrl.prompt_words import phrases_in, positions_of, words_of

    tokenizer = HostTokenizer(shared.sd_model)
    engine = tokenizer._engine
    positions, spelt = [], []
    for _, text in texts_of(body["prompt"], 8):
        found = words_of(text, tokenizer)
        places = [n for phrase in phrases_in(body["words"]) for n in positions_of(phrase, found, tokenizer)]
        chunks, _ = engine.tokenize_line(text)
        positions.append(places)
        spelt.append([_piece(tokenizer._tokenizer(), chunks[n // 77], n % 77) for n in places])
    return {"positions": positions, "spelt": spelt}


def _piece(vocabulary, chunk, place):
    for fix in chunk.fixes:
        if fix.offset + 1 <= place < fix.offset + 1 + fix.embedding.vectors:
            return fix.embedding.name + "</w>" if place == fix.offset + fix.embedding.vectors else ""
    number = chunk.tokens[place]
    if hasattr(vocabulary, "convert_ids_to_tokens"):
        return vocabulary.convert_ids_to_tokens(number)
    return vocabulary.decoder[number]  # open_clip's
