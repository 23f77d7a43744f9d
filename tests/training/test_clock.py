"""Times in a video as text."""

from umt_training.clock import clock


def test_times_are_minutes_and_seconds_with_hours_where_there_are_any():
    assert [clock(seconds) for seconds in (0, 9.96, 75.25, 3723.5)] == ["0:00.0", "0:10.0", "1:15.2", "1:02:03.5"]
