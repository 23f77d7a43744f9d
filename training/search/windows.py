"""Windows of time in a video, read one after the other.

Windows are defined in seconds, not in frames, so that they mean the same at any frame rate. Each window is sampled and
processed exactly as a video of its length.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from transformers import BaseVideoProcessor
from transformers.video_utils import VideoMetadata

from processing_umt import VideoDecodeError
from processing_umt.video_decoding_umt import VideoReader

from ..data.video_dataset import open_video

_ROUNDING = 1e-6  # seconds, far below the duration of a frame: times are products of an integer and a time base


@dataclass(frozen=True)
class WindowReader:
    """Reads the windows of a video as rows of `process_videos`: start and end in seconds, and one clip.

    Args:
        processor: a `UMTVideoProcessor`.
        window: seconds; None is the entire video.
        stride: seconds between the starts of two windows; default: the window.
    """

    processor: BaseVideoProcessor
    window: float | None
    stride: float | None = None

    def __call__(self, video: str | bytes) -> Iterator[tuple[tuple[float, float], torch.Tensor]]:
        for row, clip in read_windows(video, self.processor, self.window, self.stride or self.window):
            yield (row["start"], row["end"]), clip


def read_windows(
    file: str | bytes,
    processor: BaseVideoProcessor,
    window: float | None,
    stride: float | None,
) -> Iterator[tuple[dict, torch.Tensor]]:
    """The windows of a video: `{"video", "start", "end"}` and `pixel_values_videos` `(1, frames, channels, h, w)`.

    Args:
        file: path, URL or content of the video.
        processor: a `UMTVideoProcessor`.
        window, stride: seconds; `window=None` is the entire video.

    Raises:
        VideoDecodeError: the video can't be read; if its end is missing, after the windows that can be read.
    """
    with VideoReader(open_video(file)) as reader:
        for start, end, frames in _spans(reader, window, stride):
            sampled = processor.sample_frames(VideoMetadata(total_num_frames=len(frames)), num_clips=1)
            clip = processor(reader.read(frames[sampled]), num_clips=1, num_crops=1, return_tensors="pt")
            yield {"video": file, "start": start, "end": end}, clip["pixel_values_videos"]
        if num_lost := int(np.isnan(reader.timestamps).sum()):
            name = file if isinstance(file, str) else f"<{len(file)} bytes>"
            raise VideoDecodeError(name, "truncated", f"its last {num_lost} frames are missing")


def _spans(
    reader: VideoReader, window: float | None, stride: float | None
) -> Iterable[tuple[float, float, np.ndarray]]:
    if window is None:
        return [(0.0, reader.duration, np.arange(reader.num_frames))]
    return time_windows(reader.timestamps, reader.duration, window, stride)


def time_windows(
    timestamps: np.ndarray, duration: float, window: float, stride: float
) -> Iterator[tuple[float, float, np.ndarray]]:
    """Divides a video into windows: (start, end, indices of the frames shown from start until before end), in seconds
    from its first frame.

    The first window starts at 0. The last window is the first one that reaches the end of the video, and is cut off
    there. Windows without a frame are left out.

    Args:
        timestamps: float `(frames,)`, ascending seconds; NaN for frames that are missing.
        duration: seconds.
        window, stride: seconds, above 0.
    """
    times = (timestamps - timestamps[0])[~np.isnan(timestamps)]
    index = 0
    while index == 0 or (index - 1) * stride + window < duration:
        start = index * stride
        if start >= duration:  # a stride longer than the window can pass the end
            return
        first = int(np.searchsorted(times, start - _ROUNDING))
        if first == len(times):
            return
        end = _window_end(index, duration, window, stride)
        # the duration may be an estimate from the average frame rate: the last window includes frames after it
        last = len(times) if end == duration else int(np.searchsorted(times, end - _ROUNDING))
        if first < last:
            yield start, end, np.arange(first, last)
            index += 1
        else:  # a clock may jump by years
            index = _first_window_after(times[first], index, duration, window, stride)


def _window_end(index: int, duration: float, window: float, stride: float) -> float:
    return min(index * stride + window, duration)


def _first_window_after(time: float, index: int, duration: float, window: float, stride: float) -> int:
    """The first window after `index` that ends after `time`, or else at the end of the video. Found by bisection, as a
    quotient is rounded."""

    def is_later(index: int) -> bool:
        end = _window_end(index, duration, window, stride)
        return end == duration or time < end - _ROUNDING

    before, step = index, 1
    while not is_later(before + step):
        before, step = before + step, 2 * step
    after = before + step
    while after - before > 1:
        middle = (before + after) // 2
        before, after = (before, middle) if is_later(middle) else (middle, after)
    return after
