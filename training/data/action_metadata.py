"""Own data of action detection: `metadata.jsonl` of a folder of videos, which `load_dataset("videofolder")` reads.

A row is a key frame; several rows may name one file:

    {"file_name": "clip.mp4", "time": 3.5, "objects": {"bbox": [[x, y, width, height], …],
     "categories": [["sit", "talk"], …], "scores": […], "track": […]}}

in pixels of the displayed frame and seconds from the start of the file; `scores` (of detected persons) and `track`
(person ids) are optional. `umt detect --boxes-only` writes such a file with empty categories, to be filled in: persons
and rows without categories are counted and left out.
"""

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..suggestions import did_you_mean
from .annotated_actions import AnnotatedActions
from .ava_csv import ActionTable, check_corners
from .class_indices import check_distinct, list_names, normalize_name
from .strict_json import is_number, parse_json
from .video_files import walk_folder
from .video_folders import join_metadata_path

METADATA_NAME = "metadata.jsonl"
_FORM = '{"file_name": …, "time": …, "objects": {"bbox": [[x, y, width, height], …], "categories": [[…], …]}}'


@dataclass(frozen=True)
class _Person:
    """A person of a row, with corners in pixels."""

    video: str
    time: float
    box: tuple[float, ...]
    categories: tuple[str, ...]
    score: float | None
    track: int | None
    place: str


def read_action_metadata(
    source: str | os.PathLike, split: str | None = None, class_names: Sequence[str] | None = None
) -> AnnotatedActions:
    """Reads annotated actions of a folder's `metadata.jsonl`.

    Args:
        source: the folder, in which such files are searched at any depth, or one such file.
        split: sub-folder of the folder.
        class_names: names of all classes; for a second split, those of the first. Default: all that occur, in
            alphabetical order.

    Videos of the table are paths relative to the folder, and an action id is the index of its class + 1.

    Raises:
        ValueError: the file does not exist, a row is malformed (its boxes, times, or lists of unequal length), a box
            is in fractions of the frame, a video is not in the folder, a category is not a class, two classes differ
            only in case, spaces or Unicode form, or no row has categories. The message names file and line.
    """
    folder, files = _files(source, split)
    rows = _read_files(folder, files)
    persons = [person for row in rows for person in row]
    labelled = [person for person in persons if person.categories]
    if not labelled:
        raise ValueError(f"No person in {files[0]} has categories; fill in the categories of the boxes.")
    if class_names is None:
        class_names = sorted({name for person in labelled for name in person.categories})
        check_distinct(class_names, str(files[0]))
    id_of = {normalize_name(name): number for number, name in enumerate(class_names, 1)}
    pairs = []
    for person in labelled:
        if unknown := [name for name in person.categories if name not in id_of]:
            raise ValueError(
                f"{person.place}: the category {unknown[0]!r} is not one of the {len(class_names)} classes "
                f"({list_names(class_names)}){did_you_mean(unknown[0], id_of)}"
            )
        pairs += [(person, id_of[name]) for name in person.categories]
    partly_labelled = [row for row in rows if any(person.categories for person in row)]
    return AnnotatedActions(
        table=_table(pairs),
        label_map=dict(enumerate(class_names, 1)),
        num_empty_rows=len(rows) - len(partly_labelled),
        num_empty_persons=sum(map(len, partly_labelled)) - len(labelled),
    )


def read_metadata_persons(source: str | os.PathLike, split: str | None = None) -> ActionTable:
    """Reads the persons of a folder's `metadata.jsonl` as detected ones; categories are not read.

    Persons of a file without any `scores` have the score 1. Arguments and errors are those of `read_action_metadata`;
    scores of a part of the rows only, or outside 0 to 1, are errors too.
    """
    folder, files = _files(source, split)
    persons = [person for row in _read_files(folder, files) for person in row]
    scored = [person for person in persons if person.score is not None]
    if scored and len(scored) < len(persons):
        first = next(person for person in persons if person.score is None)
        raise ValueError(
            f"{first.place}: a person has no score, unlike others; give scores to all persons or to none."
        )
    if not persons:
        raise ValueError(f"{files[0]} contains no person.")
    table = _table([(person, 0) for person in persons])
    scores = np.array([1.0 if person.score is None else person.score for person in persons])
    return dataclasses.replace(table, scores=scores)


def _files(source: str | os.PathLike, split: str | None) -> tuple[Path, list[Path]]:
    """The folder to which the paths of the videos are relative, and its metadata files."""
    path = Path(source).expanduser()
    if path.is_file():
        if split is not None:
            raise ValueError(f"The split {split!r} is chosen, but {source} is a file; give the file of this split.")
        return path.parent, [path]
    folder = path if split is None else path / split
    if not folder.is_dir():
        raise ValueError(f"The folder {folder} does not exist; check the path.")
    files = [folder.joinpath(*parts) for parts in walk_folder(folder, METADATA_NAME.__eq__)]
    if not files:
        raise ValueError(f"{folder} contains no {METADATA_NAME}; expected rows like {_FORM}.")
    return folder, files


def _read_files(folder: Path, files: Sequence[Path]) -> list[list[_Person]]:
    """The persons of each row."""
    rows = []
    for path in files:
        for number, row in _rows(path):
            place = f"{path}, line {number}"
            rows.append(_row_persons(row, place, _video(row, place, path, folder)))
    if not rows:
        raise ValueError(f"{files[0]} is empty; expected rows like {_FORM}.")
    return rows


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file in UTF-8: {error}.") from error
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except ValueError as error:
            raise ValueError(f"{path}, line {number} is not valid JSON: {error}.") from error
        if not isinstance(row, dict) or not isinstance(row.get("objects"), dict):
            raise ValueError(f"{path}, line {number} is not a key frame; expected {_FORM}.")
        yield number, row


def _video(row: dict[str, Any], place: str, file: Path, folder: Path) -> str:
    """The path of a row's video relative to the folder of the data."""
    name = row.get("file_name")
    if not isinstance(name, str) or not name or "\0" in name:
        raise ValueError(f"{place}: the file_name is {name!r:.60}; expected the path of a video in the folder.")
    path = join_metadata_path(file.parent, name, place)
    return Path(os.path.relpath(path, folder)).as_posix()


def _row_persons(row: dict[str, Any], place: str, video: str) -> list[_Person]:
    time, objects = row.get("time"), row["objects"]
    if not is_number(time) or time < 0:
        raise ValueError(f"{place}: the time is {time!r:.40}; expected the seconds from the start of the file.")
    boxes = objects.get("bbox")
    if not isinstance(boxes, list):
        raise ValueError(f"{place} has no list of boxes, bbox; expected {_FORM}.")
    columns = {}
    for name in ("categories", "scores", "track"):
        values = objects.get(name)
        if values is None or (name == "categories" and values == []):
            values = [None] * len(boxes)
        if not isinstance(values, list) or len(values) != len(boxes):
            given = len(values) if isinstance(values, list) else repr(values)[:40]
            raise ValueError(f"{place} has {len(boxes)} boxes, but {name}: {given}; expected one entry for each box.")
        columns[name] = values
    return [
        _Person(
            video,
            float(time),
            _corners(box, place),
            _categories(categories, place),
            _checked(score, "score", place, lambda value: is_number(value) and 0 <= value <= 1, "from 0 to 1"),
            _checked(
                track, "track", place, lambda value: type(value) is int and 0 <= value < 1 << 53, "an integer from 0"
            ),
            place,
        )
        for box, categories, score, track in zip(boxes, *columns.values(), strict=True)
    ]


def _corners(box: Any, place: str) -> tuple[float, ...]:
    if not isinstance(box, list) or len(box) != 4 or not all(map(is_number, box)):
        raise ValueError(f"{place}: a box is {box!r:.60}; expected [x, y, width, height] in pixels.")
    x, y, width, height = box
    if width < 0 or height < 0:
        raise ValueError(
            f"{place}: the box {box} has a negative width or height; expected [x, y, width, height] in pixels."
        )
    corners = (x, y, x + width, y + height)
    check_corners(corners, place, relative=False)
    return corners


def _categories(categories: Any, place: str) -> tuple[str, ...]:
    if categories is None:
        return ()
    if not isinstance(categories, list) or not all(isinstance(name, str) and name.strip() for name in categories):
        raise ValueError(
            f"{place}: the categories of a box are {categories!r:.60}; expected a list of names for each box, such as "
            '[["sit", "talk"], ["stand"]] for two boxes.'
        )
    return tuple(normalize_name(name) for name in categories)


def _checked(value: Any, name: str, place: str, is_allowed: Callable[[Any], bool], expected: str) -> Any:
    if value is not None and not is_allowed(value):
        raise ValueError(f"{place}: a {name} is {value!r:.40}; expected {expected}.")
    return value


def _table(pairs: Sequence[tuple[_Person, int]]) -> ActionTable:
    """Rows of persons and action ids."""
    videos = {name: number for number, name in enumerate(dict.fromkeys(person.video for person, _ in pairs))}
    return ActionTable(
        videos=list(videos),
        video=np.array([videos[person.video] for person, _ in pairs], dtype=np.int32),
        times=np.array([person.time for person, _ in pairs], dtype=np.float64),
        boxes=np.array([person.box for person, _ in pairs], dtype=np.float64).reshape(-1, 4),
        actions=np.array([action for _, action in pairs], dtype=np.int32),
        person_ids=np.array([-1 if person.track is None else person.track for person, _ in pairs], dtype=np.int64),
        relative=False,
        places=[person.place for person, _ in pairs],
    )
