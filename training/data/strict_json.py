"""JSON from elsewhere, with one exception for everything that is wrong with it."""

import json
import sys
from pathlib import Path
from typing import Any


def parse_json(text: str | bytes) -> Any:
    """Parses JSON. Unusual: a key that occurs twice in an object is an error, as it is unclear which value is meant.

    Raises:
        ValueError: it is not valid, is nested too deeply, has a number of more digits than Python reads, or repeats a
            key.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8: {error}") from error


def read_json(path: Path) -> Any:
    """Parses a file in UTF-8.

    Raises:
        ValueError: it can't be parsed; the message names the file.
    """
    try:
        return parse_json(path.read_bytes().decode("utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}.") from error


def is_number(value: Any) -> bool:
    """Whether a parsed value is a finite number that a float can hold."""
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {repeated!r:.60} occurs twice in an object")
    return values
