"""Key frames of action detection: the persons on a frame of a video, with their boxes and actions. All sources of
annotations and of detected persons are read as these records.

Rows of a table belong to the same person if they have the same person id, or, without ids, equal boxes (AVA-Kinetics).
If boxes of a person on a key frame differ, the first one is kept, as in the tools of the official code.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .ava_csv import ActionTable


@dataclass(frozen=True, slots=True, eq=False)
class KeyFrame:
    """The persons on one key frame of a video.

    Args:
        video: name of the video as in its source: an id of AVA, or a path relative to the folder of the data.
        time: time in seconds, in the clock of the source.
        boxes: float64 `(persons, 4)`, corners x1, y1, x2, y2; the width of a box is x2 - x1.
        relative: whether the corners are fractions of the frame's width and height, else pixels.
        labels: for each person the indices of their actions' classes, ascending; empty for a detected person.
        person_ids: id of each person within the video, -1 where unknown.
        scores: float64 `(persons,)`, scores of detected persons; None for annotations.
        place: file and line of the first row, for errors.
    """

    video: str
    time: float
    boxes: np.ndarray
    relative: bool
    labels: tuple[tuple[int, ...], ...]
    person_ids: tuple[int, ...]
    scores: np.ndarray | None
    place: str

    @property
    def name(self) -> str:
        """Video and time, for messages."""
        return f"{self.video} at {self.time:g} s"


def group_by_key_frame(table: ActionTable) -> list[KeyFrame]:
    """The key frames of a table, in the order of their videos and times; a class index is the action id - 1.

    Detected persons are not joined: each row is a person.
    """
    rows_of_frame: dict[tuple[int, float], list[int]] = {}
    for row, key in enumerate(zip(table.video.tolist(), table.times.tolist(), strict=True)):
        rows_of_frame.setdefault(key, []).append(row)
    actions = table.actions.tolist()
    person_ids = [-1] * len(table) if table.person_ids is None else table.person_ids.tolist()
    boxes = table.boxes.tolist()
    key_frames = []
    for (video, time), rows in sorted(rows_of_frame.items()):
        first_rows, labels = _persons(rows, actions, person_ids, boxes, is_joined=table.scores is None)
        key_frames.append(
            KeyFrame(
                video=table.videos[video],
                time=time,
                boxes=table.boxes[first_rows].reshape(-1, 4),
                relative=table.relative,
                labels=labels,
                person_ids=tuple(person_ids[row] for row in first_rows),
                scores=None if table.scores is None else table.scores[first_rows],
                place=table.place(rows[0]),
            )
        )
    return key_frames


def _persons(
    rows: Sequence[int],
    actions: Sequence[int],
    person_ids: Sequence[int],
    boxes: Sequence[Sequence[float]],
    is_joined: bool,
) -> tuple[list[int], tuple[tuple[int, ...], ...]]:
    """The first row of each person on a key frame, and the classes of the persons' actions."""
    first_rows: dict[object, int] = {}
    classes: dict[object, set[int]] = {}
    for row in rows:
        if boxes[row][0] != boxes[row][0]:  # nobody acts
            continue
        person: object = row
        if is_joined:
            person = person_ids[row] if person_ids[row] >= 0 else tuple(boxes[row])
        first_rows.setdefault(person, row)
        classes.setdefault(person, set()).update([actions[row] - 1] if actions[row] else [])
    return list(first_rows.values()), tuple(tuple(sorted(found)) for found in classes.values())


def inclusive_corners(key_frame: KeyFrame, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Boxes as the model takes them: inclusive corners in pixels (a box of width w ends at x1 + w - 1), clipped to the
    frame. Persons whose box has no area then are left out, as in the official code.

    Args:
        key_frame: its persons.
        height, width: size of the frame in pixels.

    Returns:
        float32 `(boxes, 4)`, and int64 `(boxes,)`, the indices of their persons.

    Raises:
        ValueError: a box in pixels is outside the frame, as if it were annotated on a video of another size.
    """
    boxes = key_frame.boxes * (np.array([width, height] * 2) if key_frame.relative else 1.0)
    outside = (boxes[:, :2] >= [width, height]).any(axis=1) | (boxes[:, 2:] <= 0).any(axis=1)
    if outside.any() and not key_frame.relative:
        box = ", ".join(f"{corner:g}" for corner in boxes[outside.argmax()])
        raise ValueError(
            f"{key_frame.place}: the box with the corners {box} is outside the frame of {key_frame.name}, which has "
            f"{width} × {height} pixels. Were the boxes made on a video of another size?"
        )
    last = np.maximum(boxes[:, 2:] - 1, boxes[:, :2])
    corners = np.clip(np.concatenate([boxes[:, :2], last], axis=1), 0, [width - 1, height - 1] * 2)
    kept = np.flatnonzero((corners[:, 2:] > corners[:, :2]).all(axis=1))
    return corners[kept].astype(np.float32), kept


def hold_out_videos(
    key_frames: Sequence[KeyFrame], fraction: float, seed: int
) -> tuple[list[KeyFrame], list[KeyFrame]]:
    """Training and evaluation key frames: those of a random fraction of the videos, rounded, at least one and never
    all, are held out.

    Raises:
        ValueError: the fraction is not between 0 and 1, or there is only one video.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"`eval_share` must be between 0 and 1, but is {fraction}.")
    videos = sorted({key_frame.video for key_frame in key_frames})
    if len(videos) < 2:
        raise ValueError("The key frames are of a single video, so that none can be held out for evaluation.")
    number = min(max(round(fraction * len(videos)), 1), len(videos) - 1)
    order = np.random.default_rng(seed).permutation(len(videos))
    held_out = {videos[index] for index in order[:number]}
    return (
        [key_frame for key_frame in key_frames if key_frame.video not in held_out],
        [key_frame for key_frame in key_frames if key_frame.video in held_out],
    )
