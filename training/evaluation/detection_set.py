"""What action detection is evaluated on: annotated actions, the persons to classify, and the files of their videos.

All boxes are compared as fractions of the frame. Boxes in pixels, of own data, are divided by the size of their video.
"""

import dataclasses
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from processing_umt import VideoDecodeError
from processing_umt.video_decoding_umt import VideoReader

from ..data.annotated_actions import AnnotatedActions
from ..data.ava_csv import ActionTable
from ..data.key_frame_clips import check_key_times
from ..data.key_frames import KeyFrame, group_by_key_frame
from ..data.movie_files import Movie, find_movies, present_key_frames


@dataclass(frozen=True, eq=False)
class KeyFramePersons:
    """The persons on a key frame that are classified.

    Args:
        annotated: those with annotated boxes; None if there are none.
        detected: those that a detector found; None if there are none.
    """

    annotated: KeyFrame | None
    detected: KeyFrame | None

    @property
    def key_frame(self) -> KeyFrame:
        """One of the two, for the video and the time."""
        return self.annotated or self.detected

    @property
    def num_persons(self) -> int:
        return sum(len(key_frame.boxes) for key_frame in (self.annotated, self.detected) if key_frame is not None)


@dataclass(frozen=True, eq=False)
class DetectionSet:
    """Annotated actions and the persons to classify.

    Args:
        annotations: annotated actions, corners as fractions of the frame.
        label_map: action id → name of the classes that are evaluated.
        persons: the key frames with persons to classify, in the order of their videos and times.
        movies: files of the videos.
        are_detected: whether detected persons were given; else only annotated boxes are classified.
        protocol: protocol of the metric, see `frame_map`.
        excluded: (video, time in seconds) of key frames that are left out.
        missing: for each video the number of its key frames whose file does not exist.
    """

    annotations: ActionTable
    label_map: Mapping[int, str]
    persons: Sequence[KeyFramePersons]
    movies: Mapping[str, Movie]
    are_detected: bool = False
    protocol: str = "ava"
    excluded: Collection[tuple[str, float]] = ()
    missing: Counter[str] = dataclasses.field(default_factory=Counter)

    def __len__(self) -> int:
        """Number of key frames with persons to classify."""
        return len(self.persons)


def detection_set(
    actions: AnnotatedActions,
    root: str | Path,
    *,
    start: float = 0.0,
    detected: Sequence[KeyFrame] | None = None,
    protocol: str = "ava",
    excluded: Collection[tuple[str, float]] = (),
) -> DetectionSet:
    """Finds the videos of annotated actions and of detected persons.

    Key frames that the metric ignores are left out: excluded ones, and with the protocol "ava-kinetics" those that the
    annotations do not list.

    Args:
        actions: result of `load_annotated_actions`.
        root, start: folder of the videos, and second at which their files begin; see `find_movies`.
        detected: result of `load_detected_persons`. Default: only the annotated boxes are classified.
        protocol, excluded: see `frame_map`.

    Raises:
        ValueError: none of the files exists, a key frame is outside of its video, or no person is left.
    """
    listed = {_key(key_frame): key_frame for key_frame in group_by_key_frame(actions.table)}
    found = {_key(key_frame): key_frame for key_frame in detected or ()}
    if protocol == "ava-kinetics":
        found = {key: key_frame for key, key_frame in found.items() if key in listed}
    annotated = {key: key_frame for key, key_frame in listed.items() if len(key_frame.boxes)}
    left_out = {(video, round(time, 6)) for video, time in excluded}
    persons = [KeyFramePersons(annotated.get(key), found.get(key)) for key in sorted({*annotated, *found} - left_out)]
    if not persons:
        raise ValueError("No key frame has a person to classify: all are excluded, or nobody is on them.")
    movies = find_movies([pair.key_frame.video for pair in persons], root, start)
    present, missing = present_key_frames([pair.key_frame for pair in persons], movies, root)
    check_key_times(present, movies)
    kept = {_key(key_frame) for key_frame in present}
    return DetectionSet(
        annotations=as_fractions(actions.table, movies),
        label_map=actions.label_map,
        persons=[pair for pair in persons if _key(pair.key_frame) in kept],
        movies=movies,
        are_detected=detected is not None,
        protocol=protocol,
        excluded=excluded,
        missing=missing,
    )


def videos_folder(source: str, split: str | None, root: str | None) -> Path:
    """The folder of the videos of annotations: `root`, or the folder of the annotations, or their sub-folder
    `split`."""
    if root is not None:
        return Path(root)
    path = Path(source).expanduser()
    return path / (split or "") if path.is_dir() else path.parent


def as_fractions(table: ActionTable, movies: Mapping[str, Movie], all_needed: bool = False) -> ActionTable:
    """Annotated actions with corners as fractions of the frame.

    On a video without a file, or with a broken one, nothing can be detected: its boxes lose their area and are missed.

    Args:
        table: annotated actions, in any unit.
        movies: files of the videos.
        all_needed: whether every video must be read, because detections of it may exist.

    Raises:
        ValueError: a video is missing or broken, and `all_needed`.
    """
    if table.relative:
        return table
    sizes: dict[str, tuple[float, float]] = {}
    for name in table.videos:
        try:
            sizes[name] = _frame_size(name, movies)
        except VideoDecodeError as error:
            if all_needed:
                raise ValueError(f"The boxes of {name} are in pixels, but its size is not known: {error}") from error
            sizes[name] = (np.inf, np.inf)
    return table.in_fractions(sizes)


def _frame_size(name: str, movies: Mapping[str, Movie]) -> tuple[int, int]:
    """Height and width of a video in pixels."""
    if name not in movies:
        raise VideoDecodeError(name, "missing")
    with VideoReader(movies[name].parts[0].path) as reader:
        return reader.height, reader.width


def _key(key_frame: KeyFrame) -> tuple[str, float]:
    """Video and time, which the metric compares with six decimals."""
    return key_frame.video, round(key_frame.time, 6)
