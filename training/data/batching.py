"""Items in batches, and data loaders without batches."""

from collections.abc import Iterable, Iterator
from typing import Any


def batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Groups `items` into lists of `size`; the last list may be shorter.

    Raises:
        ValueError: the size is below 1.
    """
    if size < 1:
        raise ValueError(f"The batch size is {size}; expected at least 1.")
    batch = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def identity_collate(item: Any) -> Any:
    """Returns an item unchanged. As `collate_fn` of a `DataLoader` with `batch_size=None` it replaces the default,
    which converts arrays to tensors; unlike a lambda it can be pickled for workers."""
    return item
