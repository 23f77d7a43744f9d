"""Tracks: persons of consecutive key frames linked by the overlap of their boxes, and their boxes between key frames.

Pairs are linked greedily, the greatest overlap first, as simple trackers by detection do. A person that is absent on a
key frame gets a new track afterwards.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from .detections import DetectedKeyFrame, Person

MIN_OVERLAP = 0.3  # intersection over union
_LONGEST_GAP = 1.5  # of the usual time between key frames; beyond it persons are neither linked nor interpolated


def usual_spacing(times: Sequence[float] | np.ndarray) -> float:
    """Median of the seconds between consecutive key frames; 1 for a single one."""
    return float(np.median(np.diff(times))) if len(times) > 1 else 1.0


def link_tracks(key_frames: Sequence[DetectedKeyFrame]) -> None:
    """Numbers the persons by tracks from 0, in the order in which they appear.

    Args:
        key_frames: in the order of time; the tracks of their persons are replaced. Key frames much farther apart than
            the others are not linked.
    """
    spacing = usual_spacing([key_frame.time for key_frame in key_frames])
    num_tracks = 0
    before: DetectedKeyFrame | None = None
    for key_frame in key_frames:
        links = {}
        if before is not None and key_frame.time - before.time <= _LONGEST_GAP * spacing:
            links = _overlapping_pairs(before.persons, key_frame.persons)
        for index, person in enumerate(key_frame.persons):
            if index in links:
                person.track = before.persons[links[index]].track
            else:
                person.track = num_tracks
                num_tracks += 1
        before = key_frame


def _overlapping_pairs(before: Sequence[Person], after: Sequence[Person]) -> dict[int, int]:
    """Index of a person after → index of the person before. Of equal overlaps, that of the earlier persons wins."""
    pairs: dict[int, int] = {}
    if not before or not after:
        return pairs
    overlaps = box_overlaps(np.array([p.box for p in before]), np.array([p.box for p in after]))
    while overlaps.max() >= MIN_OVERLAP:
        row, column = np.unravel_index(overlaps.argmax(), overlaps.shape)
        pairs[int(column)] = int(row)
        overlaps[row, :] = overlaps[:, column] = -1.0
    return pairs


def box_overlaps(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union of each of `first (n, 4)` with each of `second (m, 4)`, `(n, m)`."""
    corners = np.minimum(first[:, None, 2:], second[None, :, 2:]) - np.maximum(first[:, None, :2], second[None, :, :2])
    common = corners.clip(min=0).prod(axis=-1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=-1) for boxes in (first, second)]
    return common / (areas[0][:, None] + areas[1][None, :] - common)


class TrackedBoxes:
    """The persons of a video at any time.

    Between two key frames, the box of a track that is on both changes linearly, and its actions are those of the
    nearer key frame. A track that begins or ends there is shown up to the middle between the two, for at most half of
    the usual time between key frames, so that nobody is shown long before or after being detected. Before the first
    and after the last key frame, its persons are shown for that time.

    Args:
        key_frames: in the order of time, with tracks.
        times: float `(frames,)`, presentation times of all frames of the video in seconds since the first one.
    """

    def __init__(self, key_frames: Sequence[DetectedKeyFrame], times: np.ndarray):
        self.key_frames = key_frames
        self.times = times[[key_frame.frame for key_frame in key_frames]]
        self.spacing = usual_spacing(self.times)

    def at(self, time: float) -> list[Person]:
        """The persons at a time in seconds, with their boxes."""
        after = int(np.searchsorted(self.times, time, side="right"))
        earlier = self.key_frames[after - 1] if after > 0 else None
        later = self.key_frames[after] if after < len(self.key_frames) else None
        if earlier is None or later is None:
            nearest, index = (later, after) if earlier is None else (earlier, after - 1)
            return list(nearest.persons) if abs(time - self.times[index]) <= self.spacing else []
        gap = self.times[after] - self.times[after - 1]
        is_linked = gap <= _LONGEST_GAP * self.spacing
        return list(self._between(earlier, later, time - self.times[after - 1], gap, is_linked))

    def _between(
        self, earlier: DetectedKeyFrame, later: DetectedKeyFrame, elapsed: float, gap: float, is_linked: bool
    ) -> Iterator[Person]:
        """The persons between two key frames, `elapsed` of `gap` seconds after the earlier one."""
        continued = {person.track: person for person in later.persons} if is_linked else {}
        shown = min(gap, self.spacing) / 2  # after the key frame on which a track ends, before that of a new one
        for person in earlier.persons:
            if (other := continued.pop(person.track, None)) is not None:
                weight = elapsed / gap
                box = (1 - weight) * np.array(person.box) + weight * np.array(other.box)
                nearer = person if weight <= 0.5 else other
                yield Person(person.track, tuple(box.tolist()), nearer.score, nearer.actions)
            elif elapsed <= shown:
                yield person
        if gap - elapsed < shown:
            yield from continued.values() if is_linked else later.persons
