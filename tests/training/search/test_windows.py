"""Windows of time as arithmetic on timestamps."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from umt_training.search.windows import time_windows


@settings(deadline=None)
@given(
    num_frames=st.integers(1, 200),
    rate=st.sampled_from([1.0, 10.0, 24.0, 30000 / 1001]),
    offset=st.sampled_from([0.0, 1.4]),
    window=st.floats(0.05, 20),
    ratio=st.floats(0.1, 1),
)
def test_windows_cover_the_video_and_contain_their_frames(num_frames, rate, offset, window, ratio):
    times = np.arange(num_frames) / rate
    windows = list(time_windows(times + offset, num_frames / rate, window, window * ratio))
    assert windows[0][0] == 0 and windows[-1][1] <= num_frames / rate
    assert set(np.concatenate([frames for _, _, frames in windows])) == set(range(num_frames))
    for start, end, frames in windows:
        assert len(frames) and (np.diff(frames) == 1).all()
        assert end - start <= window + 1e-9
        assert start - 1e-6 <= times[frames[0]] and times[frames[-1]] <= end + 1e-6
        # no frame of the window is missing
        assert frames[0] == 0 or times[frames[0] - 1] < start + 1e-6
        assert frames[-1] == num_frames - 1 or times[frames[-1] + 1] >= end - 1e-6
    starts = [start for start, _, _ in windows]
    assert starts == sorted(set(starts))


def every_window(timestamps, duration, window, stride):
    """The definition: every window is looked at, and every frame for each."""
    times = timestamps - timestamps[0]
    index = 0
    while index == 0 or (index - 1) * stride + window < duration:
        start = index * stride
        if start >= duration:
            return
        end = min(start + window, duration)
        upper = np.inf if end == duration else end
        frames = np.flatnonzero((times >= start - 1e-6) & (times < upper - 1e-6))
        if len(frames):
            yield start, end, frames
        index += 1


@settings(deadline=None, max_examples=300)
@given(
    gaps=st.lists(st.sampled_from([1e-7, 0.001, 0.04, 0.1, 1.0, 7.0, 250.0]), min_size=0, max_size=30),
    num_missing=st.integers(0, 3),
    offset=st.sampled_from([0.0, 1.4, -3.0]),
    extra=st.sampled_from([-5.0, 0.0, 0.04, 3.0]),
    window=st.one_of(st.floats(0.05, 20), st.sampled_from([0.1, 1.0, 7.0])),
    ratio=st.one_of(st.floats(0.1, 3), st.just(1.0)),
)
def test_windows_are_those_of_looking_at_every_window(gaps, num_missing, offset, extra, window, ratio):
    times = np.concatenate([np.cumsum([0.0, *gaps]) + offset, np.full(num_missing, np.nan)])
    duration = max(sum(gaps) + extra, 0.01)
    found = list(time_windows(times, duration, window, window * ratio))
    expected = list(every_window(times, duration, window, window * ratio))
    assert [(start, end, list(frames)) for start, end, frames in found] == [
        (start, end, list(frames)) for start, end, frames in expected
    ]


@pytest.mark.parametrize("jump", [1e9, 9e15, 1e28])
@pytest.mark.parametrize("window", [0.04, 5.0])
def test_a_clock_that_jumps_by_years_takes_no_time(jump, window):
    times = np.concatenate([[0.0, 1.0], jump + np.array([0.0, 1.0]), 2 * jump + np.array([0.0, 1.0])])
    started = time.monotonic()
    windows = list(time_windows(times, 2 * jump + 2, window, window))
    assert time.monotonic() - started < 1
    assert 1 <= len(windows) <= 6
    if jump == 1e9:  # the times of the others are too coarse for such windows
        assert np.concatenate([frames for _, _, frames in windows]).tolist() == list(range(6))


def test_the_time_for_windows_grows_with_their_number_alone():
    times = np.arange(200_000) / 25
    started = time.monotonic()
    assert sum(1 for _ in time_windows(times, 8000.0, 1.0, 0.1)) == 79_991
    assert time.monotonic() - started < 5


def test_windows_of_uneven_frames():
    times = np.array([0.0, 0.1, 0.2, 5.0, 5.1, np.nan])
    found = [(start, end, frames.tolist()) for start, end, frames in time_windows(times, 6.0, 2.0, 2.0)]
    assert found == [(0.0, 2.0, [0, 1, 2]), (4.0, 6.0, [3, 4])]


def test_a_stride_may_be_longer_than_the_window():
    found = [(start, frames.tolist()) for start, _, frames in time_windows(np.arange(10) / 1.0, 10.0, 2.0, 7.0)]
    assert found == [(0.0, [0, 1]), (7.0, [7, 8])]
