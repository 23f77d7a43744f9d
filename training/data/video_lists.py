"""Lists of videos in text files: the official list files of UMT (arXiv 2303.16058), CSV with a header, JSON, JSONL.

The official lists have no header: a path, an integer label, and further columns, which are ignored. The delimiter is a
comma for Kinetics and a space for all other data sets. It is inferred from the complete file, so that paths may
contain the other delimiter. Something-Something identifies a video by its id and a class by its template.
"""

import csv
import json
import re
from pathlib import Path
from typing import Any

from processing_umt.image_frames_umt import IMAGE_SUFFIXES

from .video_files import VIDEO_SUFFIXES

VIDEO_COLUMNS = ("video", "path", "image")
LIST_SUFFIXES = (".csv", ".tsv", ".txt", ".list", ".json", ".jsonl")


def read_list(path: Path) -> list[dict[str, Any]]:
    """Reads a list of videos; each row contains at least `video`, the path as written in the list.

    Args:
        path: a file with one of the extensions `LIST_SUFFIXES`. JSON is a list of objects.

    Returns:
        The rows. `label`, if present, is an int in every row, or as written in every row.

    Raises:
        ValueError: the file does not exist, lists no videos, has no column of videos, or has a malformed line.
    """
    if not path.is_file():
        raise ValueError(f"The list of videos {path} does not exist; check the path.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file in UTF-8: {error}. Pass a list of videos as text.") from error
    if path.suffix == ".json":
        rows = _read_json(text, path)
    elif path.suffix == ".jsonl":
        rows = _read_json_lines(text, path)
    else:
        # not `splitlines`, which also splits at U+2028 and other characters that may occur in captions
        lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
        delimiter = _header_delimiter(lines[0][1]) if lines else None
        rows = _read_official(lines, path) if delimiter is None else _read_with_header(text, delimiter, path)
    if not rows:
        raise ValueError(f"{path} lists no videos.")
    return _integer_labels(rows)


def _header_delimiter(line: str) -> str | None:
    """The delimiter of a header, a line that contains one of `VIDEO_COLUMNS`; None for any other line."""
    for delimiter in (",", "\t", ";", " "):
        if set(VIDEO_COLUMNS) & {cell.strip().strip('"') for cell in line.split(delimiter)}:
            return delimiter
    return None


def _read_with_header(text: str, delimiter: str, path: Path) -> list[dict[str, Any]]:
    reader = csv.DictReader(text.split("\n"), delimiter=delimiter, skipinitialspace=True)
    reader.fieldnames = [name.strip() for name in reader.fieldnames]
    rows = []
    for row in reader:
        if None in row or None in row.values():
            raise ValueError(
                f"{path}, line {reader.line_num}: the header has {len(reader.fieldnames)} columns, this line has "
                "a different number. Quote values that contain the delimiter."
            )
        rows.append(row)
    return [_name_video(row, path, number) for number, row in enumerate(rows, 1)]


def _read_official(lines: list[tuple[int, str]], path: Path) -> list[dict[str, Any]]:
    """Rows of a list without header. Either all lines have a label, or none has; then each line is a path."""
    rows, unlabelled = [], []
    for delimiter in (",", " ", "\t"):
        labelled = [(number, _split_official(line, delimiter)) for number, line in lines]
        rows = [row for _, row in labelled if row is not None]
        unlabelled = [number for number, row in labelled if row is None]
        if rows:
            break
    if rows and unlabelled:
        number = unlabelled[0]
        raise ValueError(
            f"{path}, line {number}: {dict(lines)[number]!r} has no integer label after its path, unlike other lines. "
            "A list without header contains a path and a label in every line, or only a path in every line; for other "
            f"columns, add a header with one of {', '.join(VIDEO_COLUMNS)}."
        )
    rows = rows or [{"video": line.strip()} for _, line in lines]
    return [{**row, "video": _with_suffix(row["video"])} for row in rows]


def _split_official(line: str, delimiter: str) -> dict[str, Any] | None:
    """Path and label of a line, or None without a label.

    The label is the first integer after the file name. The path of a custom list may contain the delimiter and
    integers, as in `take 3 (31).mp4`: only fields after one with the extension of a video or an image can be the
    label. Names without extension end before the first integer.
    """
    cells = next(csv.reader([line.strip()], delimiter=delimiter))
    ends = [end for end, cell in enumerate(cells, 1) if cell.strip().lower().endswith(VIDEO_SUFFIXES + IMAGE_SUFFIXES)]
    for position in range(min(ends, default=1), len(cells)):
        cell = cells[position]
        if re.fullmatch(r"\s*-?\d+\s*", cell):
            return {"video": delimiter.join(cells[:position]).strip(), "label": cell.strip()}
    return None


def _with_suffix(name: str) -> str:
    return name if Path(name).suffix else name + ".mp4"


def _read_json(text: str, path: Path) -> list[dict[str, Any]]:
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON: {error}.") from error
    if not isinstance(rows, list):
        found = f"an object with the keys {list(rows)[:8]}" if isinstance(rows, dict) else f"a {type(rows).__name__}"
        raise ValueError(f"{path} contains {found}; expected a list of objects like [{{'video': …, 'caption': …}}].")
    return [_name_video(row, path, number) for number, listed in enumerate(rows, 1) for row in _split_videos(listed)]


def _split_videos(row: Any) -> list[Any]:
    """One row per video of a row with a list of videos, as in the retrieval lists of Something-Something."""
    column = next((name for name in VIDEO_COLUMNS if isinstance(row, dict) and isinstance(row.get(name), list)), None)
    return [row] if column is None else [row | {column: video} for video in row[column]]


def _read_json_lines(text: str, path: Path) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                rows.append(_name_video(json.loads(line), path, number))
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}, line {number} is not valid JSON: {error}.") from error
    return rows


def _name_video(row: Any, path: Path, number: int) -> dict[str, Any]:
    """The row with its path under `video`, and the label and caption of Something-Something under standard names."""
    if not isinstance(row, dict):
        raise ValueError(f"{path}, row {number} is a {type(row).__name__}; expected an object with a video.")
    column = next((column for column in VIDEO_COLUMNS if column in row), None)
    if column is not None:
        row = {"video": row.pop(column), **row}
    elif "id" in row and ("template" in row or set(row) == {"id"}):  # Something-Something: id.webm
        row = {"video": f"{row['id']}.webm", **row}
        if "template" in row:
            row["caption"] = row.pop("label", None)
            row["label"] = row["template"].replace("[", "").replace("]", "")
    else:
        raise ValueError(
            f"{path}, row {number} has no column of videos; its columns are {', '.join(map(str, row))}. "
            f"Rename one of them to {' or '.join(VIDEO_COLUMNS)}."
        )
    if not isinstance(row["video"], str) or not row["video"]:
        raise ValueError(f"{path}, row {number}: the video is {row['video']!r}; expected its path.")
    return row


def _integer_labels(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Converts labels to integers if all of them are written as integers without leading zeros."""
    labels = [row.get("label") for row in rows]
    if all(isinstance(label, str) and re.fullmatch(r"\s*(0|-?[1-9]\d*)\s*", label) for label in labels):
        return [{**row, "label": int(label)} for row, label in zip(rows, labels, strict=True)]
    return rows
