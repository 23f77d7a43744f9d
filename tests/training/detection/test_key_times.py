"""Key frames at regular times."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from umt_training.detection.key_times import regular_key_frames


def test_key_frames_are_in_the_middle_of_every_interval():
    times = np.arange(100) / 25
    assert regular_key_frames(times, 4.0, 1.0) == [(0.5, 12), (1.5, 37), (2.5, 62), (3.5, 87)]
    assert regular_key_frames(times, 4.0, 2.0) == [(1.0, 25), (3.0, 75)]


@pytest.mark.parametrize(
    ("num_frames", "fps", "expected"), [(3, 10, (0.15, 1)), (1, 25, (0.02, 0)), (5, 10, (0.25, 2)), (10, 10, (0.5, 5))]
)
def test_a_video_that_is_shorter_than_an_interval_has_one_key_frame(num_frames, fps, expected):
    [(time, frame)] = regular_key_frames(np.arange(num_frames) / fps, num_frames / fps, 1.0)
    assert (pytest.approx(time), frame) == expected


def test_a_clock_that_jumps_by_years_adds_no_key_frames_without_frames():
    times = np.append(np.arange(20) / 10, 1e9 + np.arange(20) / 10)
    key_frames = regular_key_frames(times, float(times[-1]), 1.0)
    assert [frame for _, frame in key_frames] == [5, 15, 25, 35]


@given(
    st.lists(st.floats(0.001, 3.0), min_size=1, max_size=60),
    st.floats(0.01, 5.0),
)
def test_key_frames_are_distinct_frames_nearest_to_the_middles_of_intervals(steps, every):
    times = np.cumsum(steps) - steps[0]
    duration = float(times[-1]) + 0.04
    key_frames = regular_key_frames(times, duration, every)
    frames = [frame for _, frame in key_frames]
    assert len(frames) >= 1 and frames == sorted(set(frames))
    for time, frame in key_frames:
        assert abs(times[frame] - time) <= np.abs(times - time).min() + 1e-5
        assert 0 <= time < duration
        if len(key_frames) > 1:
            assert (time / every - 0.5) == pytest.approx(round(time / every - 0.5), abs=1e-6)
