"""The frames around a key frame, read from the files of its movie.

Times count from the first frame of a file. A clip that begins before the first frame of a movie or ends after its last
one repeats it.
"""

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from processing_umt.frame_sampling_umt import nearest_frames, sample_key_frame
from processing_umt.video_decoding_umt import VideoReader
from processing_umt.video_source_umt import VideoDecodeError

from .key_frames import KeyFrame
from .movie_files import Movie, MoviePart


class KeyFrameClips:
    """Reads the clips around key frames; see `sample_key_frame`. Not thread-safe.

    The files of the last clip stay open: to scan the packets of a movie takes much longer than to decode a clip of it,
    so that key frames in the order of their videos and times are read fastest.

    Args:
        movies: name of a video → its files, as `find_movies` returns them.
        num_frames: number of frames T of a clip.
        frame_stride, sampling_fps: see `sample_key_frame`.
    """

    def __init__(
        self,
        movies: Mapping[str, Movie],
        num_frames: int,
        frame_stride: int = 8,
        sampling_fps: float | None = 25.0,
    ):
        self.movies, self.num_frames = movies, num_frames
        self.frame_stride, self.sampling_fps = frame_stride, sampling_fps
        self._readers: dict[str, VideoReader] = {}
        self._process = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_readers": {}}

    def close(self) -> None:
        """Closes the files of the last clip."""
        for reader in self._readers.values():
            reader.close()
        self._readers = {}

    def read(self, key_frame: KeyFrame) -> np.ndarray:
        """The frames around a key frame, uint8 `(T, height, width, 3)`.

        Raises:
            ValueError: the key frame is outside of its video; `sampling_fps` is None, and a file contains one second.
            VideoDecodeError: a file is missing, can't be read, or has frames of another size than the one before it.
        """
        movie, reach = self.movies[key_frame.video], self.num_frames * self.frame_stride / 2
        if movie.is_continuous and self.sampling_fps is None:
            raise ValueError(
                f"sampling_fps is None, but {key_frame.video} has a file for each second: a stride of so many frames "
                "of a file needs the frame rate. Set sampling_fps."
            )
        seconds = reach / (self.sampling_fps or 1)
        parts = movie.parts_around(key_frame.time, seconds, seconds)
        try:
            return self._read(key_frame, parts, self._open(parts))
        except BaseException:
            self.close()
            raise

    def _open(self, parts: Sequence[MoviePart]) -> list[VideoReader]:
        """Readers of the parts; those of other parts are closed."""
        if self._process != os.getpid():  # a worker shares the positions in files with the process that opened them
            self._readers, self._process = {}, os.getpid()
        paths = [part.path for part in parts]
        for path in self._readers.keys() - set(paths):
            self._readers.pop(path).close()
        for path in paths:
            if path not in self._readers:
                self._readers[path] = VideoReader(path)
        return [self._readers[path] for path in paths]

    def _read(self, key_frame: KeyFrame, parts: Sequence[MoviePart], readers: Sequence[VideoReader]) -> np.ndarray:
        times = [part.start + _frame_times(reader) for part, reader in zip(parts, readers, strict=True)]
        all_times = np.concatenate(times)
        _check_inside(key_frame, all_times, parts[-1])
        nearest = int(nearest_frames([key_frame.time], all_times)[0])
        indices = sample_key_frame(nearest, all_times, self.num_frames, self.frame_stride, self.sampling_fps)
        frames, first = [], 0
        for part, reader, own_times in zip(parts, readers, times, strict=True):
            inside = indices[(indices >= first) & (indices < first + len(own_times))] - first
            if len(inside):
                frames.append(reader.read(inside))
                if frames[-1].shape[1:] != frames[0].shape[1:]:
                    detail = f"frames of {frames[-1].shape[1:3]} pixels beside frames of {frames[0].shape[1:3]}"
                    raise VideoDecodeError(part.path, "unreadable", detail)
            first += len(own_times)
        return np.concatenate(frames)


def check_key_times(key_frames: Iterable[KeyFrame], movies: Mapping[str, Movie]) -> None:
    """Opens each movie once and checks that its key frames are within it, except movies with a file for each second.
    Broken videos are passed over; they are counted when they are read.

    A file is read to its end, without decoding: of whole movies this takes about a second for each.

    Args:
        key_frames: those for which there is a file, see `present_key_frames`.
        movies: result of `find_movies`.

    Raises:
        ValueError: a key frame is outside of its video; the message names file and line of the key frame.
    """
    of_file: dict[MoviePart, list[KeyFrame]] = defaultdict(list)
    for key_frame in key_frames:
        movie = movies[key_frame.video]
        if not movie.is_continuous:
            of_file[movie.parts[movie.part_at(key_frame.time)]].append(key_frame)
    for part, found in of_file.items():
        try:
            with VideoReader(part.path) as reader:
                times = part.start + _frame_times(reader)
        except VideoDecodeError:
            continue
        for key_frame in found:
            _check_inside(key_frame, times, part)


def _frame_times(reader: VideoReader) -> np.ndarray:
    """Seconds of each frame since the first one; frames missing from a truncated file get those of the frame rate."""
    times = reader.timestamps - reader.timestamps[0]
    return np.where(np.isnan(times), np.arange(len(times)) / reader.fps, times)


def _check_inside(key_frame: KeyFrame, times: np.ndarray, part: MoviePart) -> None:
    frame = (times[-1] - times[0]) / max(len(times) - 1, 1)
    if not times[0] <= key_frame.time <= times[-1] + frame:
        raise ValueError(
            f"{key_frame.place}: the key frame {key_frame.name} is outside of {part.path}, which lasts from "
            f"{times[0]:.2f} to {times[-1] + frame:.2f} s. Times count from the start of the movie: if its file "
            "begins at a later second, give that (--start 900 for most copies of AVA)."
        )
