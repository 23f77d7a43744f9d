"""Normalises captions and questions as in the training data of UMT's text encoder (arXiv 2303.16058, stage 2).

The rules are those of the released code. An apostrophe is deleted rather than replaced ("what's" becomes "whats"), and
so is the dot of a number ("3.5" becomes "35"). A single tab or line break inside a caption stays; the tokenizer treats
it as a space. Answers are not cleaned: they are ranked as written.
"""

import re

_DELETED = str.maketrans("", "", ",.'!?\"()*#:;~")
_SPACED = str.maketrans("-/", "  ")
_RUNS_OF_SPACE = re.compile(r"\s{2,}")


def clean_caption(text: str) -> str:
    """A caption or question in lower case without punctuation.

    Returns:
        The text without the characters `, . ' ! ? " ( ) * # : ; ~`. `-` and `/` are replaced by a space, `<person>` by
        `person`, and runs of white space by one space; spaces at both ends are removed.
    """
    text = text.lower().translate(_DELETED).translate(_SPACED).replace("<person>", "person")
    return _RUNS_OF_SPACE.sub(" ", text).rstrip("\n").strip(" ")
