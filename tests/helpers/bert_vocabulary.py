"""A small BERT vocabulary with the special token ids of `bert-base-uncased`."""

import os
from collections.abc import Iterable
from pathlib import Path

# fmt: off
WORDS = (
    "a", "man", "dog", "cat", "run", "##s", "##ning", "fast", "whats", "the", "person", "doing", "yes", "no", "two",
    "cafe", "bike", "ride", "car",
)
# fmt: on


def bert_words(words: Iterable[str] = WORDS) -> list[str]:
    """[PAD] 0, [UNK] 100, [CLS] 101, [SEP] 102, [MASK] 103, then the words."""
    unused = [f"[unused{number}]" for number in range(99)]
    return ["[PAD]", *unused, "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]


def write_vocabulary(folder: Path, words: Iterable[str] = WORDS) -> Path:
    """Writes `folder/vocab.txt` in the format of BERT's repositories; processes of one test may write it at the same
    time."""
    path = folder / "vocab.txt"
    temporary = folder / f"vocab.txt.{os.getpid()}"
    temporary.write_text("\n".join(bert_words(words)) + "\n", encoding="utf-8")
    os.replace(temporary, path)
    return path
