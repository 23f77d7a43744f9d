"""Captions and questions as the text encoder of UMT (arXiv 2303.16058, stage 2) was trained on them: clean lower case.

The rules are those of the released code. Unusual: the apostrophe is deleted rather than replaced ("what's" becomes
"whats"), a single tab or line break inside a caption stays (the word splitter takes it for a space), and the dot of a
number goes too ("3.5" becomes "35"). Answers are not cleaned: they are ranked as they are written.
"""

import re

_DELETED = str.maketrans("", "", ",.'!?\"()*#:;~")
_SPACED = str.maketrans("-/", "  ")
_RUNS_OF_SPACE = re.compile(r"\s{2,}")


def clean_caption(text: str, max_words: int | None = None) -> str:
    """A caption or question in lower case without punctuation.

    Args:
        text: as written.
        max_words: words to keep, counted between spaces; all by default.

    Returns:
        The text without `, . ' ! ? " ( ) * # : ; ~`, with a space for `-` and `/`, `person` for `<person>`, one space
        for several, and none at its ends.
    """
    text = text.lower().translate(_DELETED).translate(_SPACED).replace("<person>", "person")
    text = _RUNS_OF_SPACE.sub(" ", text).rstrip("\n").strip(" ")
    return text if max_words is None else " ".join(text.split(" ")[:max_words])
