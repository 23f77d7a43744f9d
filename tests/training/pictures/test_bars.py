"""Bars of percentages: their lengths, their order, and what is left out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from umt_training.pictures.bars import MOST_BARS, draw_bars

BAR = (49, 130, 189)


def lengths(picture: Image.Image) -> list[int]:
    """Pixels of each bar from the top; bars of 0 % are left out."""
    per_row = (np.asarray(picture) == BAR).all(axis=2).sum(axis=1)
    starts = np.flatnonzero((per_row > 0) & (np.roll(per_row, 1) == 0))
    return per_row[starts].tolist()


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(1, 100), min_size=1, max_size=MOST_BARS), st.booleans())
def test_a_bar_is_as_long_as_its_value(values, lowest_first):
    drawn = lengths(draw_bars([f"class {index}" for index in range(len(values))], values, "title", lowest_first))
    expected = sorted(values) if lowest_first else values
    assert drawn == pytest.approx([480 * value / 100 for value in expected], abs=2)


def test_of_many_values_the_first_and_the_last_are_drawn():
    values = np.linspace(1, 100, 400)
    drawn = lengths(draw_bars([str(index) for index in range(400)], values.tolist(), "title"))
    assert drawn == pytest.approx((480 * np.concatenate([values[:25], values[-25:]]) / 100).tolist(), abs=2)


def test_unknown_values_are_not_drawn():
    assert len(lengths(draw_bars(["a", "b", "c"], [None, 50.0, 0.0], "title"))) == 1
    with pytest.raises(ValueError, match="None of the 2 values of 'title' is known"):
        draw_bars(["a", "b"], [None, None], "title")
