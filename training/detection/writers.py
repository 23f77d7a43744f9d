"""Files of detections: JSON, AVA's csv, and the metadata of a folder of videos to be annotated."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ..atomic_files import atomic_write
from ..data.ava_csv import ActionTable, write_detections
from .detections import DetectedVideo


def write_json(path: str | os.PathLike, video: DetectedVideo, model: str, detector: str) -> None:
    """Writes the key frames of a video, atomically.

    The content is `{"video", "fps", "width", "height", "model", "detector", "key_frames": [{"time", "frame",
    "persons": [{"track", "box", "score", "actions": [{"label", "score"}]}]}]}`.

    Args:
        path: file to write.
        video: its key frames.
        model: name of the action detection model.
        detector: name of the detector, or of the file of boxes.
    """
    fields = asdict(video)
    key_frames = fields.pop("key_frames")
    content = fields | {"model": model, "detector": detector, "key_frames": key_frames}
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8", errors="backslashreplace") as file:
        json.dump(content, file, indent=2, ensure_ascii=False)


def write_ava_csv(path: str | os.PathLike, name: str, video: DetectedVideo, label2id: Mapping[str, int]) -> None:
    """Writes a row for each action of each person in AVA's format of results, atomically.

    The columns are name of the video, seconds, corners as fractions of the frame, action id and score.

    Args:
        path: file to write.
        name: name of the video.
        video: its key frames.
        label2id: index of each class; the action id is the index + 1.
    """
    rows = [
        (key_frame.time, person.box, label2id[action.label] + 1, action.score)
        for key_frame in video.key_frames
        for person in key_frame.persons
        for action in person.actions
    ]
    size = np.array([video.width, video.height] * 2)
    table = ActionTable(
        videos=[name],
        video=np.zeros(len(rows), dtype=np.int32),
        times=np.array([time for time, *_ in rows]),
        boxes=np.array([box for _, box, _, _ in rows]).reshape(-1, 4) / size,
        actions=np.array([action for *_, action, _ in rows], dtype=np.int32),
        scores=np.array([score for *_, score in rows]),
    )
    write_detections(path, table)


def metadata_rows(video: DetectedVideo, file_name: str) -> list[dict[str, Any]]:
    """Rows of `metadata.jsonl` with empty categories, one for each key frame with persons.

    Args:
        video: its key frames.
        file_name: path of the video relative to the folder of the file.
    """
    rows = []
    for key_frame in video.key_frames:
        persons = key_frame.persons
        if not persons:
            continue
        objects = {
            "bbox": [[x1, y1, x2 - x1, y2 - y1] for x1, y1, x2, y2 in (person.box for person in persons)],
            "categories": [[] for _ in persons],
            "scores": [person.score for person in persons],
            "track": [person.track for person in persons],
        }
        rows.append({"file_name": file_name, "time": key_frame.time, "objects": objects})
    return rows


def write_metadata(path: str | os.PathLike, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Writes rows as JSON Lines, atomically."""
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return Path(path)
