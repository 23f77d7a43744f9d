"""The key `motion_drop_ratio` of recipes: the fraction of tokens that is dropped by motion (EVEREST, arXiv
2211.10636)."""

from collections.abc import Mapping
from typing import Any


def with_motion_drop(fields: Mapping[str, Any], ratio: float | None) -> dict[str, Any]:
    """Fields of a configuration with a run's `motion_drop_ratio`; None leaves the model's own.

    Raises:
        ValueError: the fields state another ratio.
    """
    if ratio is None:
        return dict(fields)
    if fields.get("motion_drop_ratio", ratio) != ratio:
        raise ValueError(
            f"`motion_drop_ratio` is {ratio}, and {fields['motion_drop_ratio']} among the fields of the model; give "
            "one of them."
        )
    return dict(fields) | {"motion_drop_ratio": ratio}


def refuse_motion_drop(key: str, fields: Mapping[str, Any]) -> None:
    """Raise a ValueError if the fields of a model drop tokens in a pre-training, whose mask selects the tokens."""
    if fields.get("motion_drop_ratio"):
        raise ValueError(
            f"`{key}` sets `motion_drop_ratio`, which has no effect in pre-training: a mask selects the tokens there. "
            "Set it in fine-tuning."
        )
