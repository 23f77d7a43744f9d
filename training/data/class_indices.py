"""Whether integer labels are class names or class indices.

Sorted as text, the class of the folder `10` has index 2, so an integer that is the name of a class is not its index.
"""

from collections.abc import Collection, Iterable
from typing import Any


def integers_are_names(labels: Iterable[Any], names: Collection[str], source: str) -> bool:
    """Whether the integers among the labels are names of classes, such as folders `0` to `11`; else they are indices.

    Args:
        labels: Labels of a data set, of any type.
        names: Names of the classes.
        source: Name of the data, for the error.

    Raises:
        ValueError: only some of the integers are names of classes.
    """
    integers = sorted({label for label in labels if isinstance(label, int)})
    others = [label for label in integers if str(label) not in names]
    if not others or len(others) == len(integers):
        return bool(integers) and not others
    name = next(label for label in integers if label not in others)
    raise ValueError(
        f"The labels of {source} are ambiguous: {name} is the name of a class, but {others[0]} is not. Give the name "
        f"of the class of every video; the {len(names)} names are {list_names(names)}."
    )


def list_names(names: Iterable[str]) -> str:
    """The first names of classes, separated by commas."""
    names = list(names)
    return f"{', '.join(names[:8])}{' …' if len(names) > 8 else ''}"
