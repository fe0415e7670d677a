"""The CLIP tokenizer with a prefix of its vocabulary: 256 bytes, 256 ending bytes, first merges, two special tokens."""

from __future__ import annotations

import gzip
import importlib.util
import json
from pathlib import Path
from typing import Any

VOCABULARY = 3500
START, END = "<|startoftext|>", "<|endoftext|>"
MAX_LENGTH = 77


def _bytes_to_unicode() -> list[str]:
    """The 256 printable stand-ins for bytes, in CLIP's order."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(len(others))]


def _merges_file() -> Path:
    """CLIP's merges, as the open_clip package ships them."""
    # find_spec, not import: open_clip itself would want torchvision.
    spec = importlib.util.find_spec("open_clip")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("CLIP's merges are taken from the open_clip package; install open_clip_torch")
    return Path(spec.submodule_search_locations[0]) / "bpe_simple_vocab_16e6.txt.gz"


def _merges(count: int) -> list[str]:
    lines = gzip.decompress(_merges_file().read_bytes()).decode("utf-8").split("\n")
    return lines[1 : 1 + count]  # line 0 is the version


def write_tokenizer(folder: Path, clip_config: dict[str, Any]) -> None:
    """Write the tokenizer's files and the text encoder's config.json into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    characters = _bytes_to_unicode()
    merges = _merges(VOCABULARY - 2 * len(characters) - 2)
    words = characters + [character + "</w>" for character in characters]
    words += ["".join(merge.split()) for merge in merges] + [START, END]
    vocabulary = {word: number for number, word in enumerate(words)}
    if len(vocabulary) != VOCABULARY:
        raise ValueError(f"{len(vocabulary)} different words instead of {VOCABULARY}")
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    settings = {
        **special,
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": MAX_LENGTH,
        "do_lower_case": True,
        "add_prefix_space": False,
        "errors": "replace",
    }
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")
    for name, content in (
        ("vocab.json", vocabulary),
        ("special_tokens_map.json", special),
        ("tokenizer_config.json", settings),
        ("config.json", clip_config),
    ):
        (folder / name).write_text(
            json.dumps(content, ensure_ascii=False, indent=1 if len(content) < 99 else None) + "\n", encoding="utf-8"
        )
