"""A video as a browser plays it: the file itself, or a converted copy of its beginning."""

import os
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from PIL import Image

from processing_umt.video_decoding_umt import VideoReader

from ..pictures.h264 import write_h264

PREVIEW_SECONDS = 60.0  # of a converted copy
SMALLEST_HEIGHT = 240  # pixels; browsers blur smaller pictures
# codecs that Chromium, Firefox and Safari play in these containers
_PLAYED = {
    ".mp4": {"h264", "av1", "vp9"},
    ".m4v": {"h264"},
    ".webm": {"vp8", "vp9", "av1"},
}


def is_playable(path: str | os.PathLike) -> bool:
    """Whether browsers play a video file without conversion, and it is not too small to be seen.

    Raises:
        OSError: the file can't be read, or is not a video.
    """
    with av.open(str(path)) as container:
        codec = container.streams.video[0].codec_context
        is_played = codec.name in _PLAYED.get(Path(path).suffix.lower(), ()) and codec.pix_fmt == "yuv420p"
        return is_played and codec.height >= SMALLEST_HEIGHT // 2


def write_preview(path: Path, reader: VideoReader, start: float = 0.0, end: float = PREVIEW_SECONDS) -> Path:
    """Writes the frames of a video from `start` to `end` (seconds) as H.264, small ones enlarged.

    Args:
        path: file to write, atomically.
        reader: the open video.

    Raises:
        VideoDecodeError: a frame can't be read.
        ValueError: the video has no frame in this time.
    """
    times = reader.timestamps - reader.timestamps[0]
    (frames,) = np.nonzero((times >= start) & (times < end))  # False for lost frames, whose time is NaN
    return write_h264(path, _pictures(reader, frames, times - start), reader.fps)


def _pictures(reader: VideoReader, frames: np.ndarray, times: np.ndarray) -> Iterator[tuple[float, Image.Image]]:
    factor = max(1, -(-SMALLEST_HEIGHT // reader.height)) if reader.height < SMALLEST_HEIGHT // 2 else 1
    first = float(times[frames[0]]) if len(frames) else 0.0
    for index, image in reader.iterate(frames.tolist()):
        picture = Image.fromarray(image)
        size = (factor * picture.width, factor * picture.height)
        yield float(times[index]) - first, picture.resize(size, Image.Resampling.NEAREST)
