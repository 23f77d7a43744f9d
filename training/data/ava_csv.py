"""AVA's csv files (arXiv 1705.08421) as columns: annotated actions, detected actions, detected persons.

A row is a box of a person on a key frame with one action: video, time in seconds, corners x1, y1, x2, y2 as fractions
of the frame's width and height, action id from 1, and a person id (annotations) or a score (detections). There is no
header. Three variants are read: annotations without person ids (seven columns, as in AVA-Kinetics), key frames on
which nobody acts (two columns, AVA-Kinetics), and detected persons, whose action id is empty (PySlowFast).

Files of detections have millions of rows, so they are parsed by Arrow and checked as arrays; the line of a fault is
searched for only when there is one.
"""

import csv
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

from ..atomic_files import atomic_write

_NAMES = ("video", "time", "x1", "y1", "x2", "y2", "action id", "last")
_LAST_NAMES = {"annotations": "person id", "detections": "score", "persons": "score"}
_NUM_COLUMNS = {"annotations": (8, 7, 2), "detections": (8,), "persons": (8,)}
_MARGIN = 0.5  # of the frame, by which a detector's box may exceed it; corners in pixels exceed it by more
_MAX_INTEGER = 1 << 53  # up to which floats are exact
_TYPES = {
    "video": pa.dictionary(pa.int32(), pa.string()),
    "action id": pa.int32(),
    **dict.fromkeys(("time", "x1", "y1", "x2", "y2", "last"), pa.float64()),
}


@dataclass(frozen=True, eq=False)
class ActionTable:
    """Boxes of persons with one action each, a row for every pair, in the order of their source.

    Args:
        videos: names of the videos, each once.
        video: int32 `(rows,)`, index of the row's video.
        times: float64 `(rows,)`, time of the key frame in seconds.
        boxes: float64 `(rows, 4)`, corners x1, y1, x2, y2; NaN on a key frame on which nobody acts. The width of a box
            is x2 - x1.
        actions: int32 `(rows,)`, action ids from 1; 0 on a key frame on which nobody acts, and for detected persons.
        scores: float64 `(rows,)`, of detections; None for annotations.
        person_ids: int64 `(rows,)`, of annotations, -1 where unknown; None for detections.
        relative: whether the corners are fractions of the frame's width and height, else pixels.
        places: for errors, file and line of each row; None if they were not counted.
    """

    videos: Sequence[str]
    video: np.ndarray
    times: np.ndarray
    boxes: np.ndarray
    actions: np.ndarray
    scores: np.ndarray | None = None
    person_ids: np.ndarray | None = None
    relative: bool = True
    places: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.times)

    def place(self, row: int) -> str:
        """File and line of a row, for errors."""
        return f"row {row}" if self.places is None else self.places[row]

    def in_fractions(self, sizes: Mapping[str, tuple[int, int]]) -> "ActionTable":
        """The table with corners as fractions of the frame; `sizes` are video → (height, width) in pixels."""
        if self.relative:
            return self
        sides = np.array([[width, height, width, height] for height, width in (sizes[name] for name in self.videos)])
        return replace(self, boxes=self.boxes / sides[self.video], relative=True)


def read_annotations(path: str | os.PathLike) -> ActionTable:
    """Reads annotated actions: rows of eight columns, of seven without person ids, or of two where nobody acts.

    Raises:
        ValueError: the file does not exist or is empty, has a header, or a row is malformed: its number of columns, a
            value that is not a number, x2 < x1 or y2 < y1, corners in pixels, an action id below 1, a person id that
            is not an integer. The message names file and line.
    """
    return _read(Path(path), "annotations")


def read_detections(path: str | os.PathLike) -> ActionTable:
    """Reads detected actions: rows of eight columns with the score in the last. Errors: see `read_annotations`."""
    return _read(Path(path), "detections")


def read_person_rows(path: str | os.PathLike) -> ActionTable:
    """Reads detected persons as PySlowFast writes them: column 7 is empty (or -1) and the last is a score from 0 to 1.
    Errors: see `read_annotations`."""
    return _read(Path(path), "persons")


def write_detections(path: str | os.PathLike, table: ActionTable) -> None:
    """Writes detected actions as AVA's csv, atomically: fractions and scores with five decimals, as the official code.

    Times are written as whole seconds of four digits, or with six decimals if one of them has a fraction.

    Raises:
        ValueError: the corners are in pixels; see `ActionTable.in_fractions`.
    """
    if not table.relative:
        raise ValueError(f"The boxes for {path} are in pixels, but AVA's csv contains fractions of the frame.")
    is_whole = bool((table.times == np.floor(table.times)).all())
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        form = f"%s,{'%04d' if is_whole else '%.6f'},%.5f,%.5f,%.5f,%.5f,%d,%.5f\n"
        names = [_quoted(name) for name in table.videos]
        videos = (names[video] for video in table.video.tolist())
        columns = (table.times, *table.boxes.T, table.actions, table.scores)
        file.writelines(form % row for row in zip(videos, *(column.tolist() for column in columns), strict=True))


def read_excluded(path: str | os.PathLike) -> set[tuple[str, float]]:
    """Reads excluded key frames: rows of video and time in seconds. An empty file excludes none.

    Raises:
        ValueError: the file does not exist, or a row has other columns; the message names file and line.
    """
    path, excluded = Path(path), set()
    for number, cells in _lines(path):
        if len(cells) != 2 or not cells[0] or _number(cells[1]) is None:
            raise ValueError(
                f"{path}, line {number} is {','.join(cells)!r:.80}; expected a video and a time in seconds."
            )
        excluded.add((cells[0], _number(cells[1])))
    return excluded


def _read(path: Path, kind: str) -> ActionTable:
    if not path.is_file():
        raise ValueError(f"The file of {kind} {path} does not exist; check the path.")
    try:
        # of detections there are many more than of the others, and their rows have one length
        rows, lines = (str(path), None) if kind == "detections" else _cleaned(path)
        table = _parse(rows)
    except pa.ArrowInvalid as error:
        if (fault := _first_fault(path, kind)) is not None:
            raise fault from error
        rows, lines = _cleaned(path)
        table = _parse(rows)
    is_faulty = _faults(table, kind)
    if is_faulty.any():
        row = f"row {is_faulty.argmax() + 1}" if lines is None else f"line {lines[is_faulty.argmax()]}"
        raise _first_fault(path, kind) or ValueError(f"{path}, {row} is malformed.")
    videos, video = _videos(table["video"])
    last = table["last"]
    return ActionTable(
        videos=videos,
        video=video,
        times=table["time"].to_numpy(),
        boxes=np.stack([_filled(table[name], np.nan) for name in _NAMES[2:6]], axis=1),
        actions=_filled(table["action id"], 0),
        scores=None if kind == "annotations" else _filled(last, np.nan),
        person_ids=_filled(last, -1).astype(np.int64) if kind == "annotations" else None,
        places=lines and [f"{path}, line {number}" for number in lines],
    )


def _videos(column: pa.ChunkedArray) -> tuple[list[str], np.ndarray]:
    """The names without surrounding spaces, each once, and the index of each row's name."""
    column = column.unify_dictionaries().combine_chunks()
    names = [name.strip() for name in column.dictionary.to_pylist()]
    number_of = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return list(number_of), np.array([number_of[name] for name in names], np.int32)[column.indices.to_numpy()]


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"' if re.search('[",]', name) else name


def _filled(column: pa.ChunkedArray, value: float) -> np.ndarray:
    return column.fill_null(value).to_numpy()


def _cleaned(path: Path) -> tuple[BytesIO, list[int]]:
    """The rows that are not empty, with eight cells each and without spaces around them, and their lines."""
    rows, lines = [], []
    for number, cells in _lines(path):
        rows.append(",".join([_quoted(cells[0]), *cells[1:], *[""] * (8 - len(cells))]))
        lines.append(number)
    return BytesIO("\n".join(rows).encode()), lines


def _parse(rows: str | BytesIO) -> pa.Table:
    return pa.csv.read_csv(
        rows,
        pa.csv.ReadOptions(column_names=list(_NAMES)),
        convert_options=pa.csv.ConvertOptions(column_types=_TYPES, null_values=[""], strings_can_be_null=True),
    )


def _faults(table: pa.Table, kind: str) -> np.ndarray:
    """Which rows are malformed, bool `(rows,)`: those for which `_first_fault` finds a reason."""
    boxes = np.stack([_filled(table[name], np.nan) for name in _NAMES[2:6]], axis=1)
    times, actions, last = (table[name] for name in ("time", "action id", "last"))
    has_action, has_last = np.asarray(actions.is_valid()), np.asarray(last.is_valid())
    times, actions, last = _filled(times, np.nan), _filled(actions, 0), _filled(last, np.nan)
    nobody = np.isnan(boxes).all(axis=1) & ~has_action & ~has_last & (kind == "annotations")
    with np.errstate(invalid="ignore"):
        is_faulty = ~(np.isfinite(times) & (times >= 0)) | ~np.asarray(table["video"].is_valid())
        is_faulty |= ~nobody & ~((boxes >= -_MARGIN) & (boxes <= 1 + _MARGIN)).all(axis=1)
        is_faulty |= (boxes[:, 2:] < boxes[:, :2]).any(axis=1)
        is_faulty |= (has_action & (actions != -1)) if kind == "persons" else (~nobody & (actions < 1))
        if kind == "annotations":
            is_faulty |= has_last & ~((last >= -1) & (last < _MAX_INTEGER) & (last == np.floor(last)))
        elif kind == "persons":
            is_faulty |= ~((last >= 0) & (last <= 1))
        else:
            is_faulty |= ~np.isfinite(last)
    return is_faulty


def _first_fault(path: Path, kind: str) -> ValueError | None:
    """The error of the first line with a fault, or of a file without lines."""
    try:
        _check_lines(path, kind)
    except ValueError as error:
        return error
    return None


def _check_lines(path: Path, kind: str) -> None:
    names = (*_NAMES[:-1], _LAST_NAMES[kind])
    if next(_lines(path), None) is None:
        raise ValueError(f"{path} is empty; expected rows of {kind}: {', '.join(names)}.")
    for number, cells in _lines(path):
        where = f"{path}, line {number}"
        if len(cells) not in _NUM_COLUMNS[kind]:
            expected = " or ".join(map(str, _NUM_COLUMNS[kind]))
            raise ValueError(f"{where} has {len(cells)} columns; expected {expected}: {', '.join(names)}.")
        if number == 1 and not any(_number(cell) is not None for cell in cells[1:6]) and cells[1]:
            raise ValueError(
                f"{where} is {','.join(cells)!r:.80}, which looks like a header. AVA's files have none: remove it."
            )
        if not cells[0]:
            raise ValueError(f"{where} has no video in its first column.")
        _checked(cells[1], "time", where, lambda value: value >= 0, "a time in seconds from 0")
        if kind == "annotations" and not any(cells[2:]):  # nobody acts
            continue
        corners = [_checked(cell, name, where) for cell, name in zip(cells[2:6], names[2:6], strict=True)]
        check_corners(corners, where, relative=True)
        _check_action(cells[6], kind, where)
        if kind == "annotations" and cells[7:] not in ([], [""]):
            expected = "an integer from 0 (or is this a file of detections with scores?)"
            _checked(cells[7], "person id", where, _is_person_id, expected)
        elif kind == "persons":
            _checked(cells[7], "score", where, lambda value: 0 <= value <= 1, "a score from 0 to 1")
        elif kind == "detections":
            _checked(cells[7], "score", where)


def check_corners(box: Sequence[float], where: str, relative: bool) -> None:
    """Raises a ValueError if corners x1, y1, x2, y2 are in the wrong order, or in another unit than stated.

    Args:
        box: finite corners.
        where: file and line, for the error.
        relative: whether they are fractions of the frame, else pixels.
    """
    x1, y1, x2, y2 = box
    if x2 < x1 or y2 < y1:
        axis = "x" if x2 < x1 else "y"
        given = (x1, x2) if axis == "x" else (y1, y2)
        raise ValueError(
            f"{where}: {axis}2 is {given[1]:g} and {axis}1 is {given[0]:g}; expected corners with {axis}1 ≤ {axis}2."
        )
    if relative and not all(-_MARGIN <= corner <= 1 + _MARGIN for corner in box):
        raise ValueError(
            f"{where}: the box {_listed(box)} seems to be in pixels; expected fractions of the frame's width and "
            "height, from 0 to 1. Divide x by the width and y by the height."
        )
    if not relative and max(map(abs, box)) <= 1:
        raise ValueError(
            f"{where}: the box {_listed(box)} seems to be in fractions of the frame; expected pixels. Multiply x by "
            "the width and y by the height."
        )


def _listed(box: Sequence[float]) -> str:
    return "[" + ", ".join(f"{corner:g}" for corner in box) + "]"


def _check_action(cell: str, kind: str, where: str) -> None:
    if kind == "persons":
        if cell not in ("", "-1"):
            raise ValueError(
                f"{where} has the action id {cell!r:.20}; column 7 of detected persons is empty. Is this a file of "
                "annotated or detected actions?"
            )
        return
    expected = "an integer from 1; ids of AVA start at 1, not at 0"
    _checked(cell, "action id", where, lambda value: 1 <= value < 1 << 31 and cell.isdecimal(), expected)


def _checked(
    cell: str,
    name: str,
    where: str,
    is_allowed: Callable[[float], bool] = lambda value: True,
    expected: str = "a number",
) -> float:
    value = _number(cell)
    if value is None or not is_allowed(value):
        raise ValueError(f"{where}: the {name} is {cell!r:.40}; expected {expected}.")
    return value


def _is_person_id(value: float) -> bool:
    return value.is_integer() and -1 <= value < _MAX_INTEGER


def _number(cell: str) -> float | None:
    """The finite number in a cell."""
    if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", cell, re.IGNORECASE | re.ASCII) is None:
        return None
    value = float(cell)
    return value if math.isfinite(value) else None


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Number and cells of each line that is not empty."""
    if not path.is_file():
        raise ValueError(f"The file {path} does not exist; check the path.")
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, [cell.strip() for cell in next(csv.reader([line]))]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file in UTF-8: {error}.") from error
    except csv.Error as error:
        raise ValueError(f"{path} is not a table of text: {error}.") from error
