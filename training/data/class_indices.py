"""Integer labels: class names or class indices.

Sorted as text, the class of the folder `10` has index 2, so an integer that is the name of a class is not its index.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Any


def name_integers(labels: Sequence[Any], names: Collection[str], source: str) -> Sequence[Any]:
    """The labels, with integers as text if they are names of classes, such as folders `0` to `11`.

    Integers that are not names of classes are indices and stay unchanged, as do labels of other types.

    Args:
        labels: Labels of a data set, of any type.
        names: Names of the classes.
        source: Name of the data, for the error.

    Raises:
        ValueError: only some of the integers are names of classes.
    """
    integers = sorted({label for label in labels if isinstance(label, int)})
    others = [label for label in integers if str(label) not in names]
    if len(others) == len(integers):
        return labels
    if not others:
        return [str(label) if isinstance(label, int) else label for label in labels]
    name = next(label for label in integers if label not in others)
    raise ValueError(
        f"The labels of {source} are ambiguous: {name} is the name of a class, but {others[0]} is not. Give the name "
        f"of the class of every video; the {len(names)} names are {list_names(names)}."
    )


def list_names(names: Iterable[str]) -> str:
    """The first eight names of classes, separated by commas."""
    names = list(names)
    return f"{', '.join(names[:8])}{' …' if len(names) > 8 else ''}"
