"""JSON of the official UMT code, which AlphAction's tools make of AVA's csv: annotations, and detected persons.

Annotations are an object with `images` (`id`, `movie`, `timestamp`, `width`, `height`) and `annotations` (`image_id`,
`bbox`, `action_ids`); detected persons are a list of `image_id`, `bbox` and `score`. Boxes are [x, y, width, height]
in pixels of an image's `width` and `height`, which need not be the size of the video, so they become fractions of the
frame here. A list of persons names its key frames by numbers only: the annotations state which video and time these
are.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .ava_csv import ActionTable, check_corners
from .strict_json import is_number, read_json


def is_alphaction_json(content: Any) -> bool:
    """Whether parsed JSON is an object of annotations."""
    return isinstance(content, dict) and isinstance(content.get("images"), list)


def read_json_annotations(path: str | os.PathLike) -> ActionTable:
    """Reads annotated actions, a row for every box and action.

    Raises:
        ValueError: the file is not such JSON, or an entry is malformed; the message names file and entry.
    """
    path = Path(path)
    content, images = _annotations(path)
    rows = []
    if not isinstance(content.get("annotations"), list):
        raise ValueError(f"{path} has no list of annotations.")
    for number, entry in enumerate(content["annotations"], 1):
        place = f"{path}, annotation {number}"
        image, box = _image(entry, images, place), entry.get("bbox")
        action_ids = entry.get("action_ids")
        if not isinstance(action_ids, list) or not all(
            type(action) is int and 1 <= action < 1 << 31 for action in action_ids
        ):
            raise ValueError(f"{place}: action_ids is {action_ids!r:.40}; expected a list of ids, which start at 1.")
        corners = _relative_corners(box, image, place)
        # the number of the annotation is the person: two annotations of a key frame are not joined
        rows += [(image, corners, action, number, place) for action in action_ids]
    if not rows:
        raise ValueError(f"{path} contains no annotated action.")
    return _table(rows, person_ids=np.array([row[3] for row in rows], dtype=np.int64))


def read_json_persons(path: str | os.PathLike, annotations: str | os.PathLike | None) -> ActionTable:
    """Reads detected persons.

    Args:
        path: the list of persons.
        annotations: the annotations whose image ids it refers to, such as `ava_val_v2.2_min.json`.

    Raises:
        ValueError: without annotations; a file is not such JSON, or an entry is malformed. The message names file and
            entry.
    """
    path = Path(path)
    entries = read_json(path)
    if not isinstance(entries, list):
        raise ValueError(f"{path} contains no list of detected persons (image_id, bbox, score).")
    if annotations is None:
        raise ValueError(
            f"{path} names key frames by image ids, whose videos and times are in the annotations of the same code "
            "(ava_val_v2.2_min.json): give that file too."
        )
    _, images = _annotations(Path(annotations))
    rows = []
    for number, entry in enumerate(entries, 1):
        place = f"{path}, entry {number}"
        image, score = _image(entry, images, place), entry.get("score")
        if not is_number(score) or not 0 <= score <= 1:
            raise ValueError(f"{place}: the score is {score!r:.40}; expected a number from 0 to 1.")
        rows.append((image, _relative_corners(entry.get("bbox"), image, place), 0, score, place))
    if not rows:
        raise ValueError(f"{path} contains no person.")
    return _table(rows, scores=np.array([row[3] for row in rows], dtype=np.float64))


def _annotations(path: Path) -> tuple[dict[str, Any], dict[int, Mapping[str, Any]]]:
    """The content of a file of annotations, and its images by id."""
    if not path.is_file():
        raise ValueError(f"The file of annotations {path} does not exist; check the path.")
    content = read_json(path)
    if not is_alphaction_json(content):
        raise ValueError(f"{path} contains no annotations: expected an object with images and annotations.")
    images = {}
    for number, image in enumerate(content["images"], 1):
        if not _is_image(image):
            raise ValueError(
                f"{path}, image {number} is {image!r:.80}; expected id, movie, timestamp, width and height."
            )
        if image["id"] in images:
            raise ValueError(f"{path}, image {number}: the id {image['id']} occurs twice; remove one of the images.")
        images[image["id"]] = image
    return content, images


def _is_image(image: Any) -> bool:
    if not isinstance(image, dict) or type(image.get("id")) is not int or not isinstance(image.get("movie"), str):
        return False
    numbers = [image.get(name) for name in ("timestamp", "width", "height")]
    return all(map(is_number, numbers)) and numbers[0] >= 0 and min(numbers[1:]) > 0


def _image(entry: Any, images: Mapping[int, Mapping[str, Any]], place: str) -> Mapping[str, Any]:
    if not isinstance(entry, dict) or type(entry.get("image_id")) is not int:
        raise ValueError(f"{place} is {entry!r:.80}; expected an object with image_id and bbox.")
    if entry["image_id"] not in images:
        raise ValueError(f"{place}: no image has the id {entry['image_id']}. Do the two files belong together?")
    return images[entry["image_id"]]


def _relative_corners(box: Any, image: Mapping[str, Any], place: str) -> list[float]:
    if not isinstance(box, list) or len(box) != 4 or not all(map(is_number, box)) or min(box[2:]) < 0:
        raise ValueError(f"{place}: the box is {box!r:.60}; expected [x, y, width, height] in pixels.")
    x, y, width, height = box
    corners = [x, y, x + width, y + height]
    check_corners(corners, place, relative=False)
    return [corner / size for corner, size in zip(corners, [image["width"], image["height"]] * 2, strict=True)]


def _table(rows: Sequence[tuple[Any, ...]], **columns: np.ndarray) -> ActionTable:
    """Rows of image, corners, action, person or score, and place."""
    videos = {name: number for number, name in enumerate(dict.fromkeys(row[0]["movie"] for row in rows))}
    return ActionTable(
        videos=list(videos),
        video=np.array([videos[row[0]["movie"]] for row in rows], dtype=np.int32),
        times=np.array([row[0]["timestamp"] for row in rows], dtype=np.float64),
        boxes=np.array([row[1] for row in rows], dtype=np.float64).reshape(-1, 4),
        actions=np.array([row[2] for row in rows], dtype=np.int32),
        places=[row[4] for row in rows],
        **columns,
    )
