"""The video files of key frames.

Movies of AVA exist in three forms: the whole movie, a part of it that begins at some second (900 in most copies), or
one file for each second (`MOVIE/902.mp4`), as AlphAction's tools make them. Clips of Kinetics are named
`ID_START_END.mp4`, with the seconds of the video on YouTube, by which AVA-Kinetics counts. All are found by the name
of the video in a folder, at any depth; own data name their files themselves.
"""

import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from processing_umt.video_source_umt import VideoDecodeError

from .key_frames import KeyFrame
from .video_files import is_video_name, walk_folder

_KINETICS_NAME = re.compile(r"(.+)_(\d{6})_(\d{6})")


@dataclass(frozen=True)
class MoviePart:
    """A video file that begins at the second `start` of its movie, and ends at `end` (None: not known before it is
    read)."""

    path: str
    start: float
    end: float | None = None


@dataclass(frozen=True)
class Movie:
    """The files of a movie.

    Args:
        parts: in the order of their times.
        is_continuous: whether a part begins where the one before it ends, so that a clip may extend over several.
    """

    parts: tuple[MoviePart, ...]
    is_continuous: bool = False

    def part_at(self, time: float) -> int | None:
        """Index of the part that contains a time, of several the one in which it is farthest from the ends; None if
        there is none."""
        margins = {
            index: min(time - part.start, math.inf if part.end is None else part.end - time)
            for index, part in enumerate(self.parts)
            if part.end is None or part.start <= time < part.end
        }
        return max(margins, key=margins.get) if margins else None

    def parts_around(self, time: float, before: float, after: float) -> Sequence[MoviePart]:
        """The parts of a clip from `before` seconds before a time to `after` seconds after it, as far as they exist.

        Raises:
            VideoDecodeError: no part contains the time, or a part within the clip is missing.
        """
        index = self.part_at(time)
        if index is None:
            raise VideoDecodeError(_file_of_second(self.parts[0].path, time), "missing")
        if not self.is_continuous:
            return self.parts[index : index + 1]
        wanted = [part for part in self.parts if part.end > time - before and part.start <= time + after]
        # a second that is missing within the movie does not end it
        first, last = max(time - before, self.parts[0].start), min(time + after, self.parts[-1].end)
        ends = [first, *(part.end for part in wanted)]
        for end, following in zip(ends, [*(part.start for part in wanted), last], strict=True):
            if following > end:
                raise VideoDecodeError(_file_of_second(self.parts[0].path, end), "missing")
        return wanted


def find_movies(videos: Iterable[str], root: str | os.PathLike, start: float = 0.0) -> dict[str, Movie]:
    """The movies of a folder, by the names of the videos; those that are not found are left out.

    Args:
        videos: names of the videos, as `KeyFrame.video`: paths relative to the folder, or names without extension.
        root: the folder, which is searched at any depth.
        start: second of the movies at which their files begin: 900 where the first 15 minutes were cut off. It has no
            meaning for files of one second and of Kinetics, whose names state their times.

    Raises:
        ValueError: the folder does not exist, a video has several files, or `start` is given and none of the files is
            a movie.
        OSError: a folder can't be read.
    """
    root, names = Path(root).expanduser(), list(dict.fromkeys(videos))
    if not root.is_dir():
        raise ValueError(f"The folder {root} of the movies does not exist; check the path.")
    for name in names:
        if os.path.isabs(name) or os.pardir in Path(name).parts:
            raise ValueError(f"The video {name} is not in the folder {root}; name it relative to the folder.")
    movies = {name: _one_file(root / name, start) for name in names if (root / name).is_file()}
    others = [name for name in names if name not in movies]
    if others:
        folder = _MovieFolder(root)
        found = {name: folder.find(name, start) for name in others}
        movies |= {name: movie for name, movie in found.items() if movie is not None}
    if start and movies and not any(movie.parts[0].end is None for movie in movies.values()):
        raise ValueError(
            f"start is {start:g}, but the names of the files in {root} state their seconds: leave it out."
        )
    return {name: movies[name] for name in names if name in movies}


def present_key_frames(
    key_frames: Sequence[KeyFrame], movies: Mapping[str, Movie], root: str | os.PathLike
) -> tuple[list[KeyFrame], Counter[str]]:
    """The key frames whose file exists, and for each video the number of the others.

    Raises:
        ValueError: none of the files exists.
    """
    present, missing = [], Counter()
    for key_frame in key_frames:
        movie = movies.get(key_frame.video)
        if movie is not None and movie.part_at(key_frame.time) is not None:
            present.append(key_frame)
        else:
            missing[key_frame.video] += 1
    if missing and not present:
        raise ValueError(describe_missing(missing, root))
    return present, missing


def describe_missing(missing: Counter[str], root: str | os.PathLike) -> str:
    """One line about the videos whose files were not found, as `present_key_frames` counts them."""
    shown = ", ".join(list(missing)[:5]) + (" …" if len(missing) > 5 else "")
    return (
        f"{missing.total()} key frames of {len(missing)} videos have no file in {root}: {shown}. Movies are found as "
        "MOVIE.mp4 (or another extension), whole or cut (--start 900 if they begin at second 900), as one file for "
        "each second (MOVIE/902.mp4), or as clips of Kinetics (ID_000010_000020.mp4)."
    )


def _file_of_second(path: str, time: float) -> str:
    return os.path.join(os.path.dirname(path), f"{math.floor(time)}{os.path.splitext(path)[1]}")


def _one_file(path: Path, start: float) -> Movie:
    return Movie((MoviePart(str(path), start),))


class _MovieFolder:
    """The video files of a folder, by the name of their movie."""

    def __init__(self, root: Path):
        self.root = root
        self.files: dict[str, list[Path]] = defaultdict(list)
        self.seconds: dict[str, list[Path]] = defaultdict(list)
        self.clips: dict[str, list[Path]] = defaultdict(list)
        for parts in walk_folder(root, is_video_name):
            path = Path(*parts)
            self.files[path.stem].append(path)
            if len(parts) > 1 and path.stem.isdecimal():
                self.seconds[parts[-2]].append(path)
            if match := _KINETICS_NAME.fullmatch(path.stem):
                self.clips[match[1]].append(path)

    def find(self, name: str, start: float) -> Movie | None:
        files, seconds = self.files.get(name, []), self.seconds.get(name, [])
        by_second = {(path.parent, int(path.stem)): path for path in seconds}
        candidates = [*files, *{parent: None for parent, _ in by_second}]
        if len(candidates) > 1 or len(by_second) < len(seconds):
            found = " and ".join(map(str, candidates[:2])) or seconds[0].parent
            raise ValueError(f"The video {name} has several files in {self.root}: {found}. Keep one of them.")
        if files:
            return _one_file(self.root / files[0], start)
        if seconds:
            parts = [self._part(path, int(path.stem), int(path.stem) + 1) for path in seconds]
            return Movie(tuple(sorted(parts, key=lambda part: part.start)), is_continuous=True)
        clips = [(path, _KINETICS_NAME.fullmatch(path.stem)) for path in self.clips.get(name, [])]
        parts = [self._part(path, int(match[2]), int(match[3])) for path, match in clips]
        return Movie(tuple(sorted(parts, key=lambda part: part.start))) if parts else None

    def _part(self, path: Path, start: int, end: int) -> MoviePart:
        return MoviePart(str(self.root / path), start, end)
