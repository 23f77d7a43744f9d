"""Rows of text files, each with the place where it is, for errors: tables with a header, JSON lists, JSON lines.

Tables with a header are strict CSV (RFC 4180): a quoted value may contain the delimiter and line ends, its quotes are
doubled, and nothing follows its last quote but the delimiter. Otherwise a quote that is not closed would join rows in
silence.
"""

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from processing_umt.image_frames_umt import IMAGE_SUFFIXES

from .strict_json import parse_json
from .video_files import VIDEO_SUFFIXES

# not those of `splitlines`, such as U+2028, which may occur in captions
_LINE_END = re.compile(r"\r\n|\n|\r")


def read_text(path: Path) -> str:
    """The text of a file, with the line ends in quoted values as they are.

    Raises:
        ValueError: it is not text in UTF-8.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file in UTF-8: {error}. Save it as text in UTF-8.") from error
    if "\0" in text:
        raise ValueError(f"{path} contains the character NUL, so it is not text. Save it as text in UTF-8.")
    return text


def numbered_lines(text: str) -> list[tuple[int, str]]:
    """The lines that are not empty, with their numbers from 1."""
    return [(number, line) for number, line in enumerate(_LINE_END.split(text), 1) if line.strip()]


def split_cells(line: str, delimiter: str) -> list[str]:
    """The cells of one line, without the spaces at their ends."""
    return [cell.strip() for cell in next(csv.reader([line.strip()], **_dialect(delimiter)))]


def is_file_name(cell: str) -> bool:
    """Whether a cell has the extension of a video or an image."""
    return cell.strip().lower().endswith(VIDEO_SUFFIXES + IMAGE_SUFFIXES)


def table_rows(text: str, delimiter: str, path: Path) -> list[tuple[str, dict[str, str]]]:
    """First line and cells of each row below a header. Columns without a name, as pandas' index, are left out.

    Raises:
        ValueError: two columns with one name, a row with another number of cells than the header, or a wrong quote.
    """
    rows, names = [], None
    for number, cells in _strict_rows(text, delimiter, path):
        if names is None:
            names = cells
            if repeated := {name for name in names if name and names.count(name) > 1}:
                raise ValueError(f"{path} has several columns named {min(repeated)!r}; rename or remove all but one.")
        elif len(cells) != len(names):
            raise ValueError(
                f"{path}, line {number}: the header has {len(names)} columns, this row has {len(cells)}. Quote values "
                "that contain the delimiter."
            )
        elif _contains_rows(cells, delimiter):
            raise ValueError(
                f"{path}, line {number}: a quoted value contains the end of one row and the beginning of another, so "
                "the quote that opens it is probably not closed in its own line. Close it, or double it."
            )
        else:
            row = {name: cell for name, cell in zip(names, cells, strict=True) if name}
            rows.append((f"line {number}", row))
    return rows


def json_rows(path: Path) -> list[tuple[str, Any]]:
    """The elements of a JSON list (`.json`), with their numbers from 1, or of JSON lines (`.jsonl`).

    Raises:
        ValueError: it can't be parsed, or is not a list.
    """
    text = read_text(path)
    if path.suffix.lower() == ".jsonl":
        return _json_lines(text, path)
    try:
        rows = parse_json(text)
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}.") from error
    if not isinstance(rows, list):
        found = f"an object with the keys {list(rows)[:8]}" if isinstance(rows, dict) else f"a {type(rows).__name__}"
        raise ValueError(f"{path} contains {found:.200}; expected a list.")
    return [(f"row {number}", row) for number, row in enumerate(rows, 1)]


def _json_lines(text: str, path: Path) -> list[tuple[str, Any]]:
    rows = []
    for number, line in numbered_lines(text):
        try:
            rows.append((f"line {number}", parse_json(line)))
        except ValueError as error:
            raise ValueError(f"{path}, line {number} is not valid JSON: {error}.") from error
    return rows


def _dialect(delimiter: str) -> dict[str, Any]:
    return {"delimiter": delimiter, "skipinitialspace": delimiter != " "}


def _strict_rows(text: str, delimiter: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    """First line and cells of each row that is not empty."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, **_dialect(delimiter))
    while True:
        number = reader.line_num + 1
        try:
            cells = [cell.strip() for cell in next(reader)]
        except StopIteration:
            return
        except csv.Error as error:
            raise ValueError(
                f"{path} is not a table of text, from line {number}: {error}. A quote that begins a value must be "
                "closed at its end, and quotes inside of it be doubled."
            ) from error
        if any(cells):
            yield number, cells


def _contains_rows(cells: list[str], delimiter: str) -> bool:
    """Whether a row would be several rows, each with a file name, if its line ends were not quoted."""
    if not any(map(_LINE_END.search, cells)):
        return False
    parts = [split_cells(line, delimiter) for line in _LINE_END.split(delimiter.join(cells))]
    return all(len(part) == len(cells) and any(map(is_file_name, part)) for part in parts)
