"""Sections of a page about detected actions: average precision of each class, key frames of the highest errors."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from processing_umt import VideoDecodeError
from processing_umt.video_decoding_umt import VideoReader

from ..clock import clock
from ..data.ava_csv import ActionTable
from ..data.movie_files import Movie
from ..pictures.bars import draw_bars
from ..pictures.drawing import save_picture
from ..pictures.run_page import Link, Picture, Section, Text
from .detection_metrics import FrameMAP
from .detection_set import DetectionSet
from .mistakes import MOST_MISTAKES

_DETECTED, _ANNOTATED = (213, 94, 0), (0, 158, 115)  # colours of the boxes
_MAX_SIDE = 480  # pixels of a picture


def class_section(folder: Path, results: Mapping[str, FrameMAP], label_map: Mapping[int, str]) -> Section:
    """Draws the average precision of each class as bars.

    Args:
        folder: Folder of the page.
        results: Which persons were classified, such as "annotated boxes" → the result; the first picture is
            `per_class.png`, the second `per_class_2.png`.
        label_map: Action id → name of the class.
    """
    pictures = []
    for number, (persons, result) in enumerate(results.items(), 1):
        name = "per_class" if number == 1 else f"per_class_{number}"
        title = f"Average precision of each class, {persons}: mAP {result.map50:.2f} %"
        bars = draw_bars([*label_map.values()], [result.ap50[action] for action in label_map], title)
        pictures.append(Picture(save_picture(bars, folder / f"{name}.png"), title))
    return Section("Classes", pictures)


def errors_section(
    folder: Path, result: FrameMAP, detections: ActionTable, data: DetectionSet, label_map: Mapping[int, str]
) -> Section:
    """Key frames of the detections of the highest scores that are not correct, one for each key frame and person.

    Args:
        folder: Folder of the pictures; those of an earlier evaluation are removed.
        result: The result with its `highest_errors`.
        detections: The detections; corners as fractions.
        data: The evaluated data.
        label_map: Action id → name of the class.
    """
    for earlier in folder.glob("*.png"):
        earlier.unlink()
    parts: list[Picture | Text] = []
    seen = set()
    for row in result.highest_errors:
        video, time = detections.videos[detections.video[row]], float(detections.times[row])
        person = (video, time, tuple(detections.boxes[row]))
        if person in seen or len(parts) == MOST_MISTAKES:
            continue
        seen.add(person)
        annotated = _on_key_frame(data.annotations, video, time)
        actions = sorted({label_map.get(int(action), "") for action in data.annotations.actions[annotated]} - {""})
        text = (
            f"{len(parts) + 1}. {video} at {clock(time)}: {label_map[int(detections.actions[row])]} with a score of "
            f"{detections.scores[row]:.3f}; annotated on this key frame: {', '.join(actions) or 'nothing'}"
        )
        try:
            picture, path = read_key_frame(data.movies[video], time)
        except VideoDecodeError as error:
            parts.append(Text(f"{text} (the video can't be read: {error.reason})"))
            continue
        _draw_boxes(picture, data.annotations.boxes[annotated], _ANNOTATED)
        _draw_boxes(picture, detections.boxes[row : row + 1], _DETECTED)
        file = save_picture(picture, folder / f"{len(parts) + 1:02}.png")
        parts.append(Picture(file, text, Link(video, path)))
    caption = Text("The detected person in orange, annotated boxes in green.") if parts else Text("None.")
    return Section("Detections of the highest scores that are not correct", [caption, *parts])


def read_key_frame(movie: Movie, time: float) -> tuple[Image.Image, str]:
    """The frame of a movie that is nearest to a time in seconds, at most 480 pixels wide and high, and its file.

    Raises:
        VideoDecodeError: no file contains the time, or it can't be read.
    """
    (part, *_) = movie.parts_around(time, 0, 0)
    with VideoReader(part.path) as reader:
        times = part.start + reader.timestamps - reader.timestamps[0]
        frame = reader.read([int(np.nanargmin(np.abs(times - time)))])[0]
    picture = Image.fromarray(frame)
    picture.thumbnail((_MAX_SIDE, _MAX_SIDE))
    return picture, part.path


def _on_key_frame(annotations: ActionTable, video: str, time: float) -> np.ndarray:
    """Rows of the annotations of a key frame."""
    if video not in annotations.videos:
        return np.zeros(0, dtype=np.int64)
    number = list(annotations.videos).index(video)
    return np.flatnonzero((annotations.video == number) & np.isclose(annotations.times, time, rtol=0, atol=1e-6))


def _draw_boxes(picture: Image.Image, boxes: np.ndarray, colour: tuple[int, int, int]) -> None:
    """Outlines of boxes `(n, 4)`, corners as fractions."""
    draw = ImageDraw.Draw(picture)
    width, height = picture.size
    for box in np.unique(boxes[np.isfinite(boxes).all(axis=1)], axis=0):
        left, top, right, bottom = (box * (width, height, width, height)).tolist()
        if right >= left and bottom >= top:
            draw.rectangle((left, top, right, bottom), outline=colour, width=2)
