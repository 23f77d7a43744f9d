"""Windows of time in a video, read one after the other.

Windows are laid out in seconds, not in frames, so that they mean the same in videos of any frame rate; each is sampled
and prepared exactly as a whole video of its length would be.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from transformers.video_utils import VideoMetadata

from processing_umt import VideoDecodeError
from processing_umt.video_decoding_umt import VideoReader

_ROUNDING = 1e-6  # seconds, far below the duration of a frame: times are products of an integer and a time base


def read_windows(
    file: str, processor, window: float | None, stride: float | None, announce: Callable[[int], None]
) -> Iterator[tuple[dict, torch.Tensor]]:
    """The windows of a video: `{"video", "start", "end"}` and `pixel_values_videos` `(1, frames, channels, h, w)`.

    `announce` is called with their number before the first is read. `window=None` is the whole video.

    Raises:
        VideoDecodeError: the video can't be read, or not to its end; then after the windows that can.
    """
    with VideoReader(file) as reader:
        if window is None:
            spans = [(0.0, reader.duration, np.arange(reader.num_frames))]
        else:
            spans = list(time_windows(reader.timestamps, reader.duration, window, stride))
        announce(len(spans))
        for start, end, frames in spans:
            places = processor.sample_frames(VideoMetadata(total_num_frames=len(frames)), num_clips=1)
            clip = processor(reader.read(frames[places]), num_clips=1, num_crops=1, return_tensors="pt")
            yield {"video": file, "start": start, "end": end}, clip["pixel_values_videos"]
        if num_lost := int(np.isnan(reader.timestamps).sum()):
            raise VideoDecodeError(file, "truncated", f"its last {num_lost} frames are missing")


def time_windows(
    timestamps: np.ndarray, duration: float, window: float, stride: float
) -> Iterator[tuple[float, float, np.ndarray]]:
    """Lays windows over a video: (start, end, indices of the frames shown from start to before end), in seconds from
    its first frame. The first window starts at 0, the last is the first to reach the end and is cut off there; windows
    without a frame are left out.

    Args:
        timestamps: float `(frames,)`, ascending seconds; NaN where a frame is lost.
        duration: seconds.
        window, stride: seconds, above 0.
    """
    times = timestamps - timestamps[0]
    number = 0
    while number == 0 or (number - 1) * stride + window < duration:
        start = number * stride
        if start >= duration:  # a stride beyond the window can step over the end
            return
        end = min(start + window, duration)
        # the last window takes what is shown at or after the nominal end, where the frame rate is only an average
        upper = np.inf if end == duration else end
        frames = np.flatnonzero((times >= start - _ROUNDING) & (times < upper - _ROUNDING))
        if len(frames):
            yield start, end, frames
        number += 1
