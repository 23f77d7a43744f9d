"""Curves of runs: positions of the ink, panels, round ticks."""

import math

import numpy as np
import pytest

from umt_training.pictures.curves import COLOURS, draw_curves, points, tick_label, ticks


def logged(losses, every: int = 10, **columns) -> list[dict]:
    """A log with a loss and other values every `every` steps."""
    lines = [{"loss": loss, "step": every * number} for number, loss in enumerate(losses, start=1)]
    for name, values in columns.items():
        for line, value in zip(lines, values, strict=True):
            line[name] = value
    return [*lines, {"train_loss": 99.0, "train_runtime": 5.0, "step": every * len(lines)}]


def ink(picture, colour) -> np.ndarray:
    """Positions of the pixels with exactly a colour, as (row, column)."""
    return np.argwhere((np.asarray(picture) == colour).all(axis=-1))


def test_a_line_follows_the_values():
    """A loss that decreases linearly from 2 to 0 is drawn as a straight line."""
    picture = draw_curves({"run": logged(np.linspace(2, 0, 101))})
    rows, columns = ink(picture, COLOURS[0]).T
    height, width = np.ptp(rows), np.ptp(columns)
    assert 210 <= height <= 224 and 700 <= width <= 724  # the size of the axes: their ends are 2 and the last step
    line = rows.min() + (columns - columns.min()) / width * height
    assert abs(rows - line).max() <= 4


def test_the_higher_run_is_above_and_has_its_own_colour():
    picture = np.asarray(draw_curves({"low": logged([1.0] * 5), "high": logged([3.0] * 5)}, title="Two runs"))
    top_of_axes = 70  # below title and legend
    low, high = (ink(picture[top_of_axes:], COLOURS[run])[:, 0] for run in (0, 1))
    assert len(low) and len(high) and high.max() < low.min()
    legend = [len(ink(picture[:top_of_axes], COLOURS[run])) for run in (0, 1)]
    assert min(legend) > 20  # each run has its swatch
    assert not len(ink(draw_curves({"low": logged([1.0] * 5)}), COLOURS[1]))


def test_a_panel_is_drawn_if_its_values_were_logged():
    heights = []
    for columns in ({}, {"learning_rate": [1e-4] * 4}, {"learning_rate": [1e-4] * 4, "eval_top1": [5, 10, 20, 90]}):
        heights.append(draw_curves({"run": logged([1, 2, 3, 4], **columns)}).height)
    assert np.diff(heights).tolist() == [280, 280]
    # one run with values is enough, and evaluations alone are drawn as dots
    both = draw_curves({"a": logged([1.0]), "b": [{"eval_top1": 50.0, "eval_loss": 1.0, "step": 10}]})
    assert len(ink(both, COLOURS[0])) and len(ink(np.asarray(both)[60:], COLOURS[1])) > 30


def test_non_finite_values_are_left_out():
    history = logged([1.0, math.nan, math.inf, 2.0])
    history[1]["loss"], history[0]["eval_loss"] = None, math.nan
    assert points(history, "loss") == [(10, 1.0), (40, 2.0)] and points(history, "eval_loss") == []
    draw_curves({"run": history})
    for runs in ({}, {"run": []}, {"run": [{"train_runtime": 1.0, "step": 3}]}):
        with pytest.raises(ValueError, match="No values to draw"):
            draw_curves(runs)
    draw_curves({"run": logged([0.0, 0.0])})  # zeros alone give the axis no height


@pytest.mark.parametrize(
    ("maximum", "expected"),
    [(2.25, [0, 0.5, 1, 1.5, 2, 2.5]), (100, [0, 20, 40, 60, 80, 100]), (0.3, None), (1.46e-4, None), (12_345, None)],
)
def test_ticks_are_few_and_round_and_reach_the_maximum(maximum, expected):
    values = ticks(maximum)
    if expected:
        assert values == pytest.approx(expected)
    assert values[0] == 0 and maximum <= values[-1] * (1 + 1e-9) and 3 <= len(values) <= 7
    steps = np.diff(values)
    assert steps == pytest.approx(np.full(len(steps), steps[0]))
    assert all(len(tick_label(value)) <= 7 for value in values) and len(set(map(tick_label, values))) == len(values)


def test_tick_labels():
    assert [tick_label(v) for v in (0.0, 0.02, 1.5e-4, 2.5, 800.0, 20_000.0)] == [
        "0",
        "0.02",
        "1.5e-4",
        "2.5",
        "800",
        "20k",
    ]
