"""Persons that a detector finds on given key frames, in place of those of a file."""

from collections.abc import Iterable, Mapping

import numpy as np

from processing_umt import VideoDecodeError

from ..data.key_frame_clips import KeyFrameClips
from ..data.key_frames import KeyFrame
from ..data.movie_files import Movie
from .persons import PersonDetector


def detect_persons(
    detector: PersonDetector, key_frames: Iterable[KeyFrame], movies: Mapping[str, Movie]
) -> list[KeyFrame]:
    """The key frames with at least one person, whose boxes and scores are the detector's, in pixels.

    A key frame whose file can't be read has no persons.

    Args:
        detector: finds persons on a frame.
        key_frames: their persons are not read; fastest in the order of their videos and times.
        movies: files of their videos.
    """
    frames = KeyFrameClips(movies, num_frames=1, frame_stride=1)  # the key frame itself
    found = []
    for key_frame in key_frames:
        try:
            [image] = frames.read(key_frame)
        except VideoDecodeError:
            continue
        persons = detector.find(image)
        if persons:
            found.append(
                KeyFrame(
                    video=key_frame.video,
                    time=key_frame.time,
                    boxes=np.array([person.box for person in persons], dtype=np.float64),
                    relative=False,
                    labels=((),) * len(persons),
                    person_ids=(-1,) * len(persons),
                    scores=np.array([person.score for person in persons], dtype=np.float64),
                    place=key_frame.place,
                )
            )
    frames.close()
    return found
