"""Lists of videos in text files: the official list files of UMT (arXiv 2303.16058), CSV with a header, JSON, JSONL.

The official lists have no header: a path, an integer label, and further columns, which are ignored. The delimiter is a
comma for Kinetics and a space for all other data sets. It is inferred from the complete file, so that paths may
contain the other delimiter. Something-Something identifies a video by its id and a class by its template.

A first line is a header if one of its cells is a name of the column of videos and none is a file name.
"""

import csv
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .column_names import (
    VIDEO_NAMES,
    accepted_names,
    find_video_column,
    is_video_column,
    no_video_column,
    rename_row,
    select_names,
    standard_names,
)
from .text_files import is_file_name, json_rows, numbered_lines, read_text, split_cells, table_rows

LIST_SUFFIXES = (".csv", ".tsv", ".txt", ".list", ".json", ".jsonl")
_DELIMITERS = (",", "\t", ";", " ")
_MAX_DIGITS = 18  # of an integer of 64 bits


def read_list(path: Path, columns: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
    """Reads a list of videos; each row contains at least `video`, the path as written in the list.

    Args:
        path: a file with one of the extensions `LIST_SUFFIXES`, in any case. JSON is a list of objects.
        columns: new name → name in the list, see `load_video_records`.

    Returns:
        The rows, with the column names of this package where they are known (`column_names.py`). `label`, if present,
        is an int in every row, or as written in every row.

    Raises:
        ValueError: the file does not exist, lists no videos, has no column of videos, or has a malformed line; a
            column of `columns` does not exist.
    """
    if not path.is_file():
        raise ValueError(f"The list of videos {path} does not exist; check the path.")
    if path.suffix.lower() in (".json", ".jsonl"):
        rows = _name_rows(json_rows(path), columns or {}, path)
    else:
        try:
            rows = _read_text(read_text(path), columns or {}, path)
        except csv.Error as error:  # of a list without header
            raise ValueError(f"{path} is not a table of text: {error}.") from error
    if not rows:
        raise ValueError(f"{path} lists no videos.")
    return _integer_labels(rows, path)


def _read_text(text: str, columns: Mapping[str, str], path: Path) -> list[dict[str, Any]]:
    lines = numbered_lines(text)
    if not lines:
        return []
    delimiter = _header_delimiter(lines[0][1], columns)
    if delimiter is not None:
        return _name_rows(table_rows(text, delimiter, path), columns, path)
    if columns:
        raise no_video_column(f"The first line of {path}", split_cells(lines[0][1], ","))
    return _read_official(lines, path)


def _header_delimiter(line: str, columns: Mapping[str, str]) -> str | None:
    """The delimiter of a header; None for any other line."""
    for delimiter in _DELIMITERS:
        cells = split_cells(line, delimiter)
        if any(map(is_file_name, cells)) or (delimiter == " " and not all(map(_is_word, cells))):
            continue  # the name of a file may start with the word "video"
        if any(is_video_column(cell) or cell in columns.values() for cell in cells):
            return delimiter
    return None


def _is_word(cell: str) -> bool:
    return re.fullmatch(r"[\w-]+", cell) is not None


def _read_official(lines: list[tuple[int, str]], path: Path) -> list[dict[str, Any]]:
    """Rows of a list without header. Either all lines have a label, or none has; then each line is a path."""
    rows, unlabelled = [], []
    for delimiter in (",", " ", "\t", ";"):
        labelled = [(number, _split_official(line, delimiter)) for number, line in lines]
        rows = [row for _, row in labelled if row is not None]
        unlabelled = [number for number, row in labelled if row is None]
        if rows:
            break
    fault = "has no integer label after its path, unlike other lines"
    if not rows:
        unlabelled = [number for number, line in lines if not _is_path(line)]
        fault = "is not a path only, and has no integer label"
        rows = [{"video": line.strip().strip('"')} for _, line in lines]
    if unlabelled:
        line = dict(lines)[unlabelled[0]].strip()
        raise ValueError(
            f"{path}, line {unlabelled[0]}: {line!r} {fault}. A list without header contains a path and an integer "
            "label in every line, or only a path in every line; for other columns, such as class names, the first "
            f"line must be a header, for example video,label. The column of videos is {accepted_names(VIDEO_NAMES)}."
        )
    return [{**row, "video": _with_suffix(row["video"])} for row in rows]


def _is_path(line: str) -> bool:
    """Whether a line contains nothing but a path or URL: no delimiter after a file name, and none but spaces in a name
    without extension."""
    line = line.strip().strip('"')
    if is_file_name(line):
        return True
    if any(is_file_name(cell) for delimiter in _DELIMITERS for cell in split_cells(line, delimiter)):
        return False
    return "://" in line or not re.search(r"[,\t;]", line)


def _split_official(line: str, delimiter: str) -> dict[str, Any] | None:
    """Path and label of a line, or None without a label.

    The label is the first integer after the file name. The path of a custom list may contain the delimiter and
    integers, as in `take 3 (31).mp4`: only fields after one with the extension of a video or an image can be the
    label. Names without extension end before the first integer.
    """
    cells = next(csv.reader([line.strip()], delimiter=delimiter))
    ends = [end for end, cell in enumerate(cells, 1) if is_file_name(cell)]
    for position in range(min(ends, default=1), len(cells)):
        if re.fullmatch(r"\s*-?\d+\s*", cells[position]):
            path = delimiter.join(cells[:position]).strip(f"{delimiter} ")
            return {"video": path, "label": cells[position].strip()}
    return None


def _with_suffix(name: str) -> str:
    return name if "://" in name or Path(name).suffix else name + ".mp4"


def _name_rows(rows: list[tuple[str, Any]], columns: Mapping[str, str], path: Path) -> list[dict[str, Any]]:
    """The rows with the selected columns and the path under their names.

    A row with a list of videos, as in the retrieval lists of Something-Something, gives a row for each of them.

    Args:
        rows: line or number, for errors, and content of each row.
        columns: new name → name in the list.
    """
    for where, row in rows:
        if not isinstance(row, dict):
            raise ValueError(f"{path}, {where} is a {type(row).__name__}; expected an object with a video.")
    if rows:
        select_names(list(dict.fromkeys(name for _, row in rows for name in row)), columns, str(path))
    named, names_of = [], {}
    for where, row in rows:
        names = tuple(row)
        if names not in names_of:
            names_of[names] = _names_in_row(row, columns, f"{path}, {where}" if names_of else str(path))
        row = rename_row(row, names_of[names])
        if "video" not in row:
            row = _something_something(row, f"{path}, {where}")
        videos = row["video"] if isinstance(row["video"], list) else [row["video"]]
        for video in videos:
            if not isinstance(video, str) or not video or re.search(r"[\r\n\0]", video):
                raise ValueError(f"{path}, {where}: the video is {video!r}; expected its path.")
        named += [{**row, "video": video} for video in videos]
    return named


def _names_in_row(row: Mapping[str, Any], columns: Mapping[str, str], source: str) -> dict[str, str]:
    """Name → new name of the columns of a row; none is `video` in a row of Something-Something."""
    selected = {new: found for new, found in columns.items() if found in row}  # rows of JSON may lack columns
    new_names = select_names(list(row), selected, source)
    if "video" not in selected:
        column = find_video_column([name for name in new_names if name not in selected.values()], source)
        if column is not None:
            new_names[column] = "video"
        elif "id" not in row or not ("template" in row or set(row) == {"id"}):
            raise no_video_column(source, row)
    standard = standard_names({new: row[name] for name, new in new_names.items()}, ("video", *selected))
    return {name: standard[new] for name, new in new_names.items()}


def _something_something(row: dict[str, Any], source: str) -> dict[str, Any]:
    """Video `id.webm`; the class is the template without brackets, and the caption the text in `label`."""
    row = {"video": f"{row['id']}.webm", **row}
    if "template" in row:
        if not isinstance(row["template"], str):
            raise ValueError(f"{source}: the template is {row['template']!r}; expected a text.")
        row["caption"] = row.pop("label", None)
        row["label"] = row["template"].replace("[", "").replace("]", "")
    return row


def _integer_labels(rows: list[dict[str, Any]], path: Path) -> list[dict[str, Any]]:
    """Converts labels to integers if all of them are written as integers without leading zeros."""
    labels = [row.get("label") for row in rows]
    if all(_is_integer(label) for label in labels) and any(isinstance(label, str) for label in labels):
        if long := next((label for label in labels if len(str(label).strip()) > _MAX_DIGITS), None):
            raise ValueError(f"{path} has the label {str(long)[:20]}…, an integer of {len(str(long))} digits.")
        return [{**row, "label": int(label)} for row, label in zip(rows, labels, strict=True)]
    return rows


def _is_integer(label: Any) -> bool:
    if isinstance(label, str):
        return re.fullmatch(r"\s*(0|-?[1-9]\d*)\s*", label) is not None
    return isinstance(label, int) and not isinstance(label, bool)
