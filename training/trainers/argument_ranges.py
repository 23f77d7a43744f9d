"""Ranges of numeric arguments, checked before anything is loaded."""

import math
from collections.abc import Mapping
from typing import Any


def require_ranges(arguments: Any, ranges: Mapping[str, str]) -> None:
    """Raise a ValueError if an argument is outside its range; arguments without a value (None) are not checked.

    Args:
        arguments: An object with the arguments as attributes.
        ranges: Name to interval, such as `"[0, 1)"`, `"(0, inf)"`, or `"[1, inf)"`.
    """
    for name, interval in ranges.items():
        value = getattr(arguments, name)
        if value is not None and not is_in(value, interval):
            raise ValueError(f"`{name}` must be {describe(interval)}, but is {value}{advice(value, interval)}.")


def is_in(value: float, interval: str) -> bool:
    low, high = bounds(interval)
    above = value >= low if interval.startswith("[") else value > low
    below = value <= high if interval.endswith("]") else value < high
    return above and below  # False for NaN


def bounds(interval: str) -> tuple[float, float]:
    low, high = interval[1:-1].split(",")
    return float(low), float(high)


def describe(interval: str) -> str:
    """`at least 1`, `a finite number above 0`, `between 0 and 1`, or `in [0, 1)`."""
    low, high = bounds(interval)
    if high == math.inf:
        return f"at least {low:g}" if interval.startswith("[") else f"a finite number above {low:g}"
    return f"between {low:g} and {high:g}" if interval.startswith("(") and interval.endswith(")") else f"in {interval}"


def advice(value: float, interval: str) -> str:
    """A percentage is the commonest mistake."""
    _, high = bounds(interval)
    return f"; for {value:g} % give {value / 100:g}" if high == 1 and 1 < value <= 100 else ""
