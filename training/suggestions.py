"""Suggestions for misspelt names in error messages."""

import difflib
from collections.abc import Iterable


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """`; did you mean NAME?` with the closest known name; empty if none is similar."""
    known = list(known)
    close = [name for name in known if given and name.startswith(given)]  # abbreviations
    close = close or difflib.get_close_matches(given, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""
