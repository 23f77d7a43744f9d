"""Windows of time as arithmetic on timestamps."""

import numpy as np
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


def test_windows_of_uneven_frames():
    times = np.array([0.0, 0.1, 0.2, 5.0, 5.1, np.nan])
    found = [(start, end, frames.tolist()) for start, end, frames in time_windows(times, 6.0, 2.0, 2.0)]
    assert found == [(0.0, 2.0, [0, 1, 2]), (4.0, 6.0, [3, 4])]


def test_a_stride_may_be_longer_than_the_window():
    found = [(start, frames.tolist()) for start, _, frames in time_windows(np.arange(10) / 1.0, 10.0, 2.0, 7.0)]
    assert found == [(0.0, [0, 1]), (7.0, [7, 8])]
