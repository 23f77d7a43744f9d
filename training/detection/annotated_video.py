"""The video with the persons drawn on every frame."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from processing_umt.video_decoding_umt import VideoReader

from ..pictures.h264 import write_h264
from .detections import Person
from .drawing import draw_persons


def write_annotated_video(
    path: str | os.PathLike,
    reader: VideoReader,
    times: np.ndarray,
    persons_at: Callable[[float], list[Person]],
    progress: Callable[[], object],
) -> Path:
    """Writes an MP4 file (H.264, without sound) with all frames of a video, of the same size and at the same times.

    Args:
        path: file to write, atomically.
        reader: the video; its frames are read one after the other.
        times: its `frame_times`.
        persons_at: persons to draw at a time in seconds; see `TrackedBoxes.at`.
        progress: called after every frame.

    Raises:
        VideoDecodeError: a frame can't be read; nothing is written.
    """
    return write_h264(path, _annotated_frames(reader, times, persons_at, progress), reader.fps)


def _annotated_frames(
    reader: VideoReader,
    times: np.ndarray,
    persons_at: Callable[[float], list[Person]],
    progress: Callable[[], object],
) -> Iterator[tuple[float, Image.Image]]:
    """Seconds and picture of every frame."""
    for index, image in reader.iterate(range(reader.num_frames)):
        picture = Image.fromarray(image)
        draw_persons(picture, persons_at(float(times[index])))
        yield float(times[index]), picture
        progress()
