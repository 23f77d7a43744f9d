"""Persons from a file of boxes in place of a detector, for the videos that it names."""

import os
from collections.abc import Sequence
from pathlib import Path, PurePath

import numpy as np

from processing_umt.frame_sampling_umt import nearest_frames
from processing_umt.video_decoding_umt import VideoReader

from ..data.action_records import load_detected_persons
from ..data.key_frames import KeyFrame, inclusive_corners
from .detections import Person, PersonsOn


class PersonFile:
    """Detected persons of several videos.

    Args:
        path: PySlowFast's csv, or a `metadata.jsonl` (or its folder).
        threshold: persons with a lower score are left out; those of a file without scores have the score 1.
        every: keeps one key frame for every interval of so many seconds, the one nearest to its middle; by default all
            times of the file are key frames.

    Raises:
        ValueError: the file is another one or malformed, or no person reaches the threshold.
    """

    def __init__(self, path: str | os.PathLike, threshold: float, every: float | None = None):
        if Path(path).suffix.lower() == ".json":
            raise ValueError(
                f"{path} names its key frames by numbers, which only AVA's annotations explain; give the boxes as "
                "PySlowFast's .csv or as metadata.jsonl."
            )
        self.name, self.every = str(path), every
        self.folder = path if os.path.isdir(path) else os.path.dirname(os.path.abspath(path))
        self.key_frames: dict[str, list[KeyFrame]] = {}
        for key_frame in load_detected_persons(path, threshold=threshold)[0]:
            self.key_frames.setdefault(key_frame.video, []).append(key_frame)

    def open(self, video: str, reader: VideoReader, times: np.ndarray) -> tuple[list[tuple[float, int]], PersonsOn]:
        """The key frames of a video, and the persons on each; no key frames if the file does not name the video.

        A video is named by its path relative to the folder of the file, its file name, or that without extension.

        Args:
            video: path or URL.
            reader: the open video.
            times: its `frame_times`.

        Raises:
            ValueError: several names of the file fit, or a time or a box is outside of the video.
        """
        key_frames = self._of_video(video)
        for key_frame in key_frames:
            if not 0 <= key_frame.time <= reader.duration:
                raise ValueError(
                    f"{key_frame.place}: the key frame {key_frame.name} is outside of {video}, which lasts "
                    f"{reader.duration:.2f} s; times count from the beginning of the file."
                )
        frames = nearest_frames([key_frame.time for key_frame in key_frames], times).tolist()
        persons = [persons_of(key_frame, reader.height, reader.width) for key_frame in key_frames]
        pairs = [(key_frame.time, frame) for key_frame, frame in zip(key_frames, frames, strict=True)]
        return pairs, lambda number, _: persons[number]

    def _of_video(self, video: str) -> list[KeyFrame]:
        """The key frames of a video in the order of time."""
        names = [name for name in self.key_frames if _is_same_file(os.path.join(self.folder, name), video)]
        if not names:
            path = PurePath(video)
            names = [name for name in self.key_frames if name == path.stem or PurePath(name).name == path.name]
        if len(names) > 1:
            raise ValueError(
                f"{self.name} has boxes of {' and of '.join(names[:3])}, and either may be meant by {video}; move the "
                "file of boxes to the folder to which its paths are relative."
            )
        key_frames = sorted(self.key_frames[names[0]], key=lambda key_frame: key_frame.time) if names else []
        return key_frames if self.every is None else _thinned(key_frames, self.every)


def persons_of(key_frame: KeyFrame, height: int, width: int) -> list[Person]:
    """The persons of a key frame, with boxes in pixels of a frame of this size, clipped to it.

    Raises:
        ValueError: a box in pixels is outside the frame.
    """
    _, kept = inclusive_corners(key_frame, height, width)
    size = np.array([width, height] * 2)
    boxes = (key_frame.boxes * (size if key_frame.relative else 1.0)).clip(0, size)
    return [
        Person(track=0, box=tuple(boxes[index].tolist()), score=float(key_frame.scores[index]))
        for index in kept.tolist()
    ]


def _thinned(key_frames: Sequence[KeyFrame], every: float) -> list[KeyFrame]:
    nearest: dict[int, KeyFrame] = {}
    for key_frame in key_frames:
        interval = int(key_frame.time // every)
        middle = (interval + 0.5) * every
        other = nearest.get(interval)
        if other is None or abs(key_frame.time - middle) < abs(other.time - middle):
            nearest[interval] = key_frame
    return list(nearest.values())


def _is_same_file(first: str, second: str) -> bool:
    return os.path.exists(first) and os.path.exists(second) and os.path.samefile(first, second)
