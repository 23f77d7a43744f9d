"""Items in batches, and data loaders without batches or with a dead worker."""

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


def is_dead_worker(error: Exception) -> bool:
    """Whether an error is PyTorch's report that a worker process of a data loader died. A signal handler raises it,
    wherever the process of the loader happens to be."""
    return isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker")
