"""The times of the frames of a video, and its key frames at regular times."""

import numpy as np

from processing_umt import VideoDecodeError
from processing_umt.frame_sampling_umt import nearest_frames
from processing_umt.video_decoding_umt import VideoReader

_ROUNDING = 1e-6  # seconds, far below the duration of a frame


def frame_times(video: str, reader: VideoReader) -> np.ndarray:
    """Presentation times of all frames of a video, float `(frames,)`, in seconds since the first one.

    Raises:
        VideoDecodeError: the end of the video is missing.
    """
    if num_lost := int(np.isnan(reader.timestamps).sum()):
        raise VideoDecodeError(video, "truncated", f"its last {num_lost} frames are missing")
    return reader.timestamps - reader.timestamps[0]


def regular_key_frames(times: np.ndarray, duration: float, every: float) -> list[tuple[float, int]]:
    """One key frame for every interval of a video that contains a frame: (time, index of the frame nearest to it).

    The times are the middles of the intervals, (k + 1/2) · every, as far as the video has them. A video that ends
    before the first one has a key frame in its own middle. No frame is taken twice, so that there are fewer key frames
    where frames are farther apart than `every`.

    Args:
        times: float `(frames,)`, ascending seconds since the first frame.
        duration: seconds.
        every: length of an interval in seconds, above 0.
    """
    end = max(duration, float(times[-1]))
    middles = (np.unique(np.floor((times + _ROUNDING) / every)) + 0.5) * every
    middles = middles[middles < end - _ROUNDING]
    if not len(middles):
        middles = np.array([end / 2])
    frames, first = np.unique(nearest_frames(middles, times), return_index=True)
    return list(zip(middles[first].tolist(), frames.tolist(), strict=True))
