"""The video with the persons drawn on every frame."""

import os
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from PIL import Image

from processing_umt.video_decoding_umt import VideoReader

from ..atomic_files import atomic_write
from .detections import Person
from .drawing import draw_persons

_TIME_BASE = Fraction(1, 90_000)  # seconds; divides the usual frame durations, and that of MPEG
_ENCODER = {"crf": "20", "preset": "veryfast"}


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
    path = Path(path)
    with atomic_write(path) as temporary:
        options = {"movflags": "faststart"}  # playback may begin before the download is complete
        with av.open(str(temporary), "w", format="mp4", options=options) as container:
            stream = container.add_stream(
                "libx264", rate=Fraction(reader.fps).limit_denominator(1001), options=_ENCODER
            )
            stream.height, stream.width = reader.height, reader.width
            # colours of half resolution, which every player shows, need even sizes
            is_even = reader.height % 2 == 0 and reader.width % 2 == 0
            stream.pix_fmt = "yuv420p" if is_even else "yuv444p"
            stream.codec_context.time_base = _TIME_BASE
            # the matrix of FFmpeg's conversion from RGB, unlike the one that players assume for high definition
            stream.codec_context.colorspace = Colorspace.ITU601
            stream.codec_context.color_range = ColorRange.MPEG
            for pts, picture in _annotated_frames(reader, times, persons_at):
                frame = av.VideoFrame.from_image(picture)
                frame.pts, frame.time_base = pts, _TIME_BASE
                container.mux(stream.encode(frame))
                progress()
            container.mux(stream.encode())
    return path


def _annotated_frames(
    reader: VideoReader, times: np.ndarray, persons_at: Callable[[float], list[Person]]
) -> Iterator[tuple[int, Image.Image]]:
    """Presentation time in units of the time base, and picture, of every frame."""
    pts = -1
    for index, image in reader.iterate(range(reader.num_frames)):
        picture = Image.fromarray(image)
        draw_persons(picture, persons_at(float(times[index])))
        pts = max(pts + 1, round(float(times[index]) / _TIME_BASE))
        yield pts, picture
