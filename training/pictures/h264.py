"""MP4 files (H.264, without sound), which every browser and player shows."""

import os
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
from av.video.reformatter import ColorRange, Colorspace
from PIL import Image

from ..atomic_files import atomic_write

_TIME_BASE = Fraction(1, 90_000)  # seconds; divides the usual frame durations, and that of MPEG
_ENCODER = {"crf": "20", "preset": "veryfast"}


def write_h264(path: str | os.PathLike, frames: Iterable[tuple[float, Image.Image]], fps: float) -> Path:
    """Writes a video, atomically.

    Args:
        path: file to write.
        frames: time in seconds, ascending from 0, and picture of each frame, all of the same size.
        fps: average number of frames per second.

    Raises:
        ValueError: no frames are given.
        Exception: what `frames` raises; nothing is written then.
    """
    path = Path(path)
    with atomic_write(path) as temporary:
        options = {"movflags": "faststart"}  # playback may begin before the download is complete
        with av.open(str(temporary), "w", format="mp4", options=options) as container:
            stream, pts = None, -1
            for seconds, picture in frames:
                stream = stream or _add_stream(container, picture.size, fps)
                pts = max(pts + 1, round(seconds / _TIME_BASE))
                frame = av.VideoFrame.from_image(picture)
                frame.pts, frame.time_base = pts, _TIME_BASE
                container.mux(stream.encode(frame))
            if stream is None:
                raise ValueError(f"{path} would be a video without frames; give at least one.")
            container.mux(stream.encode())
    return path


def _add_stream(container: av.container.OutputContainer, size: tuple[int, int], fps: float) -> av.VideoStream:
    stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options=_ENCODER)
    stream.width, stream.height = size
    # colours of half resolution, which every player shows, need even sizes
    stream.pix_fmt = "yuv420p" if not (size[0] % 2 or size[1] % 2) else "yuv444p"
    stream.codec_context.time_base = _TIME_BASE
    # the matrix of FFmpeg's conversion from RGB, unlike the one that players assume for high definition
    stream.codec_context.colorspace = Colorspace.ITU601
    stream.codec_context.color_range = ColorRange.MPEG
    return stream
