"""Key frames of `UMTVideoProcessor`: the frame of each video around which its clip is, by index or by time."""

import math
import operator
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers.video_utils import VideoMetadata

from .frame_sampling_umt import nearest_frames, sample_key_frame


@dataclass(frozen=True)
class KeyFrame:
    """The key frame of a video, by its index or by its time in seconds since the first frame.

    `video` is what errors call the video.
    """

    video: str
    index: int | None = None
    seconds: float | None = None

    def index_in(self, num_frames: int, times: np.ndarray | None, duration: float | None) -> int:
        """Its index in a video of so many frames at `times` (None: not known) and so many seconds.

        Raises:
            ValueError: it is outside of the video, or a time is given and the video has none.
        """
        if self.index is not None:
            if not 0 <= self.index < num_frames:
                raise ValueError(
                    f"The key frame of {self.video} is {self.index}, but the video has the frames 0 to "
                    f"{num_frames - 1}."
                )
            return self.index
        if times is None:
            raise ValueError(
                f"The key time of {self.video} is {self.seconds} s, but frames in memory have no times; pass their "
                'rate as video_metadata=[{"fps": ...}], or key_frames.'
            )
        end = max(times[-1], duration or 0.0)
        if not 0 <= self.seconds <= end:
            raise ValueError(
                f"The key time of {self.video} is {self.seconds} s, but the video lasts from 0 to {end:.2f} s."
            )
        return int(nearest_frames([self.seconds], times)[0])


def key_frames_per_video(key_frames: Any, key_times: Any, num_videos: int) -> list[KeyFrame | None]:
    """The caller's key frames or times, one per video; None for a video without one.

    Raises:
        ValueError: both were given, their number is not that of the videos, or a value is not an index or a time.
    """
    if key_frames is not None and key_times is not None:
        raise ValueError("key_frames and key_times were given; a key frame has one of the two: leave the other out.")
    name, values = ("key_frames", key_frames) if key_times is None else ("key_times", key_times)
    if values is None:
        return [None] * num_videos
    if not hasattr(values, "__len__") or isinstance(values, str) or len(values) != num_videos:
        raise ValueError(
            f"{name} is {values!r}, but there are {num_videos} videos; expected a list with one for each video."
        )
    read = _read_index if name == "key_frames" else _read_seconds
    return [None if value is None else read(value, f"video {index}") for index, value in enumerate(values)]


def _read_index(value: Any, video: str) -> KeyFrame:
    try:
        return KeyFrame(video, index=operator.index(value))
    except TypeError as error:
        raise ValueError(
            f"key_frames contains {value!r} for {video}; expected a whole number of frames. Seconds are key_times."
        ) from error


def _read_seconds(value: Any, video: str) -> KeyFrame:
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not math.isfinite(seconds):
        raise ValueError(f"key_times contains {value!r} for {video}; expected seconds.")
    return KeyFrame(video, seconds=seconds)


def frames_around(
    key_frame: KeyFrame,
    metadata: VideoMetadata,
    num_frames: int,
    frame_stride: int,
    sampling_fps: float | None,
) -> np.ndarray:
    """Frame indices of the clip around a key frame; see `sample_key_frame`.

    Where neither times nor a rate of the video are known, as of frames in memory, the stride counts its frames.

    Raises:
        ValueError: the key frame is not in the video.
    """
    times = frame_times(metadata)
    index = key_frame.index_in(metadata.total_num_frames, times, metadata.duration)
    if times is None:
        times, sampling_fps = np.arange(metadata.total_num_frames), None
    return sample_key_frame(index, times, num_frames, frame_stride, sampling_fps)


def frame_times(metadata: VideoMetadata) -> np.ndarray | None:
    """Time of every frame of a video in seconds since its first one; None where neither times nor rate are known.

    The missing frames of a truncated file have the times that the frame rate gives them.
    """
    by_rate = np.arange(metadata.total_num_frames) / metadata.fps if metadata.fps else None
    stored = getattr(metadata, "frame_timestamps", None)
    if stored is None:
        return by_rate
    stored = np.asarray(stored, dtype=np.float64) - stored[0]
    return stored if by_rate is None else np.where(np.isnan(stored), by_rate, stored)
