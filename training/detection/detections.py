"""Records of what is detected in a video: key frames, the persons on each, their actions."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass
class Action:
    """An action of a person.

    Args:
        label: name of the class.
        score: probability of the class, times the score of the person.
    """

    label: str
    score: float


@dataclass
class Person:
    """A person on a key frame.

    Args:
        track: number of the person within the video, the same on key frames on which the boxes overlap.
        box: corners x1, y1, x2, y2 in pixels of the displayed frame; the width of the box is x2 - x1.
        score: score of the detector, from 0 to 1; 1 for a box without one.
        actions: those above the threshold, highest score first.
    """

    track: int
    box: tuple[float, float, float, float]
    score: float
    actions: list[Action] = field(default_factory=list)


# the persons on the key frame with a number, of which the picture, uint8 `(height, width, 3)`, is given
PersonsOn = Callable[[int, np.ndarray], list[Person]]


@dataclass
class DetectedKeyFrame:
    """The persons on a key frame.

    Args:
        time: seconds since the first frame of the video.
        frame: index of the frame nearest to this time.
        persons: in the order of the detector.
    """

    time: float
    frame: int
    persons: list[Person]


@dataclass(frozen=True)
class DetectedVideo:
    """The key frames of a video, and what is known of the video.

    Args:
        video: path or URL.
        fps: average number of frames per second.
        width, height: size of the displayed frame in pixels.
        key_frames: in the order of time.
    """

    video: str
    fps: float
    width: int
    height: int
    key_frames: list[DetectedKeyFrame]

    @property
    def num_boxes(self) -> int:
        """Number of boxes on all key frames."""
        return sum(len(key_frame.persons) for key_frame in self.key_frames)

    @property
    def num_tracks(self) -> int:
        return len({person.track for key_frame in self.key_frames for person in key_frame.persons})


def detected_video(content: dict[str, Any]) -> DetectedVideo:
    """The record of a video from the content of its JSON file (`write_json`).

    Raises:
        TypeError, KeyError: the content is another one.
    """
    key_frames = []
    for key_frame in content["key_frames"]:
        persons = []
        for person in key_frame["persons"]:
            actions = [Action(**action) for action in person["actions"]]
            persons.append(Person(person["track"], tuple(person["box"]), person["score"], actions))
        key_frames.append(DetectedKeyFrame(key_frame["time"], key_frame["frame"], persons))
    return DetectedVideo(*(content[name] for name in ("video", "fps", "width", "height")), key_frames)


def describe(video: DetectedVideo) -> str:
    """`10 key frames, 20 boxes of persons, 2 tracks`."""
    counts = ((len(video.key_frames), "key frame"), (video.num_boxes, "box"), (video.num_tracks, "track"))
    plural = {"box": "boxes"}
    named = [f"{number} {name if number == 1 else plural.get(name, f'{name}s')}" for number, name in counts]
    return f"{named[0]}, {named[1]} of persons, {named[2]}"
