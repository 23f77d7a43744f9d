"""AVA's label maps: action ids and names in protobuf's text format (`.pbtxt`), two forms of which exist:
`item { name: "stand" id: 12 }` and `label { name: "stand" label_id: 12 label_type: PERSON_MOVEMENT }`.

Unusual: the official reader needs exactly two spaces before each field and finds no class otherwise; here white space
has no meaning, as in protobuf. A label map is also a selection of classes: the list of the 2019 challenge has 60 of
AVA's 80, and the metric leaves the others out.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path

_TOKEN = re.compile(
    r'\s+|#[^\n]*|(?P<text>"(?:[^"\\\n]|\\.)*"|\'(?:[^\'\\\n]|\\.)*\')|(?P<word>[\w.+-]+)|(?P<mark>[{}:;,])'
)
_ID_FIELDS = ("id", "label_id")


def read_label_map(path: str | os.PathLike) -> dict[int, str]:
    """Reads a label map.

    Returns:
        Action id, from 1 → name, in ascending order of the ids.

    Raises:
        ValueError: the file does not exist or contains no class, or an entry has no name, no id, an id below 1, or
            the id or name of another entry; the message names file and line.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"The label map {path} does not exist; check the path.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file in UTF-8: {error}.") from error
    names: dict[int, str] = {}
    for line, fields in _entries(text, path):
        where = f"{path}, line {line}"
        number = next((fields[field] for field in _ID_FIELDS if field in fields), None)
        if number is None or not fields.get("name"):
            raise ValueError(f"{where}: this entry has no {'id' if number is None else 'name'}; expected both.")
        if not number.isdecimal() or int(number) < 1:
            raise ValueError(f"{where}: the id is {number!r:.20}; expected an integer from 1: ids do not start at 0.")
        if int(number) in names or fields["name"] in names.values():
            repeated = f"id {number}" if int(number) in names else f"name {fields['name']!r}"
            raise ValueError(f"{where}: the {repeated} occurs twice; remove one of the entries.")
        names[int(number)] = fields["name"]
    if not names:
        raise ValueError(f'{path} contains no class; expected entries like item {{ name: "stand" id: 12 }}.')
    return dict(sorted(names.items()))


def label_map_classes(label_map: Mapping[int, str], num_classes: int | None = None) -> list[str]:
    """The class names in the order of the model's columns: column c - 1 is the class with id c. A column whose id is
    not in the map gets the name that Transformers gives to classes without names.

    Args:
        label_map: action id → name.
        num_classes: number of columns. Default: the highest id.
    """
    return [label_map.get(column + 1, f"LABEL_{column}") for column in range(num_classes or max(label_map))]


def _entries(text: str, path: Path) -> list[tuple[int, dict[str, str]]]:
    """Line and fields of each entry."""
    entries: list[tuple[int, dict[str, str]]] = []
    is_open, key, position = False, None, 0
    while position < len(text):
        match, line = _TOKEN.match(text, position), text.count("\n", 0, position) + 1
        if match is None:
            raise ValueError(
                f"{path}, line {line}: {text[position:].splitlines()[0]!r:.40} is not part of a label map."
            )
        position, token = match.end(), match["text"] or match["word"] or match["mark"]
        if token == "{":
            if is_open:
                raise ValueError(f"{path}, line {line}: an entry begins within another one; is a }} missing?")
            is_open, key = True, None
            entries.append((line, {}))
        elif token == "}":
            is_open = False
        elif is_open and token is not None and token not in ":;,":
            if key is None:
                key = token
            else:
                entries[-1][1][key], key = _unquoted(match), None
    if is_open:
        raise ValueError(f"{path}, line {entries[-1][0]}: this entry has no end; a }} is missing.")
    return entries


def _unquoted(match: re.Match) -> str:
    return match["word"] if match["text"] is None else re.sub(r"\\(.)", r"\1", match["text"][1:-1])
