"""Links between the persons of key frames, and their boxes in between."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from umt_training.detection.detections import Action, DetectedKeyFrame, Person
from umt_training.detection.tracks import MIN_OVERLAP, TrackedBoxes, box_overlaps, link_tracks


def key_frames_of(*boxes_of_frames, times=None, fps=10) -> list[DetectedKeyFrame]:
    """Key frames at 0.5, 1.5 … seconds, or at `times`; every person does what its position in the list says."""
    times = [number + 0.5 for number in range(len(boxes_of_frames))] if times is None else times
    return [
        DetectedKeyFrame(
            time,
            round(time * fps),
            [
                Person(99, tuple(map(float, box)), 0.9, [Action(f"{number}/{place}", 0.8)])
                for place, box in enumerate(boxes)
            ],
        )
        for number, (time, boxes) in enumerate(zip(times, boxes_of_frames, strict=True))
    ]


def tracks(key_frames) -> list[list[int]]:
    return [[person.track for person in key_frame.persons] for key_frame in key_frames]


LEFT, RIGHT = (0, 0, 10, 20), (50, 0, 60, 20)


@pytest.mark.parametrize(
    ("boxes", "expected"),
    [
        pytest.param([[LEFT, RIGHT], [RIGHT, LEFT]], [[0, 1], [1, 0]], id="in any order of the detector"),
        pytest.param([[LEFT], [LEFT, RIGHT], [RIGHT]], [[0], [0, 1], [1]], id="one comes, one leaves"),
        pytest.param([[LEFT], [], [LEFT]], [[0], [], [1]], id="absence ends a track"),
        pytest.param([[LEFT], [(9, 0, 19, 20)]], [[0], [1]], id="too little overlap"),
        pytest.param([[(0, 0, 10, 10)], [(2, 0, 12, 10), (1, 0, 11, 10)]], [[0], [1, 0]], id="the greatest overlap"),
        pytest.param([[LEFT, LEFT], [LEFT, LEFT]], [[0, 1], [0, 1]], id="of equal overlaps the first"),
        pytest.param([[], [], [LEFT]], [[], [], [0]], id="numbers begin at 0"),
        pytest.param([[]], [[]], id="nobody"),
        pytest.param([], [], id="no key frames"),
    ],
)
def test_persons_are_linked_by_overlap(boxes, expected):
    key_frames = key_frames_of(*boxes)
    link_tracks(key_frames)
    assert tracks(key_frames) == expected


def test_key_frames_far_apart_are_not_linked():
    key_frames = key_frames_of([LEFT], [LEFT], [LEFT], [LEFT], times=[900.0, 901.0, 950.0, 951.0])
    link_tracks(key_frames)
    assert tracks(key_frames) == [[0], [0], [1], [1]]
    assert TrackedBoxes(key_frames, np.arange(9600) / 10).at(925.0) == []


boxes = st.tuples(*[st.integers(0, 30)] * 2, *[st.integers(1, 30)] * 2).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)


@given(st.lists(st.lists(boxes, max_size=4), max_size=5))
def test_tracks_are_numbered_in_order_and_only_overlapping_boxes_are_linked(boxes_of_frames):
    key_frames = key_frames_of(*boxes_of_frames)
    link_tracks(key_frames)
    numbers = tracks(key_frames)
    first_seen = list(dict.fromkeys(track for row in numbers for track in row))
    assert first_seen == list(range(len(first_seen)))
    for row in numbers:
        assert len(set(row)) == len(row)
    for before, after in itertools.pairwise(key_frames):
        for person in before.persons:
            for other in after.persons:
                overlap = box_overlaps(np.array([person.box]), np.array([other.box]))[0, 0]
                assert 0 <= overlap <= 1
                if person.track == other.track:
                    assert overlap >= MIN_OVERLAP


def test_overlap_is_intersection_over_union():
    overlaps = box_overlaps(
        np.array([[0.0, 0, 10, 10], [20, 20, 30, 30]]), np.array([[0.0, 0, 10, 10], [5, 0, 15, 10]])
    )
    assert overlaps == pytest.approx(np.array([[1, 1 / 3], [0, 0]]))


@given(st.floats(0, 1))
def test_boxes_between_key_frames_change_linearly_in_time(weight):
    key_frames = key_frames_of([LEFT], [(4, 2, 14, 22)])
    link_tracks(key_frames)
    [person] = TrackedBoxes(key_frames, np.arange(20) / 10).at(0.5 + weight)
    assert person.box == pytest.approx((4 * weight, 2 * weight, 10 + 4 * weight, 20 + 2 * weight), abs=1e-6)
    assert person.track == 0
    if abs(weight - 0.5) > 1e-6:
        assert person.actions[0].label == ("0/0" if weight < 0.5 else "1/0")


def test_boxes_at_key_frames_are_those_of_the_detector():
    """Also where the time of the frame differs from that of the key frame."""
    key_frames = key_frames_of([LEFT], [(4, 2, 14, 22)], [(8, 4, 18, 24)])
    link_tracks(key_frames)
    times = np.arange(40) / 10 + 0.03
    shown = TrackedBoxes(key_frames, times)
    for key_frame in key_frames:
        assert [person.box for person in shown.at(times[key_frame.frame])] == [key_frame.persons[0].box]


def test_persons_appear_and_disappear_halfway_between_key_frames():
    key_frames = key_frames_of([LEFT], [LEFT, RIGHT], [RIGHT])
    link_tracks(key_frames)
    shown = TrackedBoxes(key_frames, np.arange(40) / 10)
    present = {time: [person.track for person in shown.at(time)] for time in (0.0, 0.9, 1.1, 1.5, 1.9, 2.1, 2.9, 3.6)}
    assert present == {0.0: [0], 0.9: [0], 1.1: [0, 1], 1.5: [0, 1], 1.9: [0, 1], 2.1: [1], 2.9: [1], 3.6: []}
