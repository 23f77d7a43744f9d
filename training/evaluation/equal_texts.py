"""Texts that are equal to a model: after cleaning, tokenisation and truncation they have the same tokens.

The scores of such texts differ by rounding only, so that a choice between them depends on their order.
"""

import collections

import torch


def first_equal(input_ids: torch.Tensor) -> list[int]:
    """For each text the index of the first text with the same tokens.

    Args:
        input_ids: int64 `(texts, length)`, padded to one length.
    """
    first: dict[tuple[int, ...], int] = {}
    return [first.setdefault(tuple(ids), index) for index, ids in enumerate(input_ids.tolist())]


def equal_to_another(first: list[int]) -> list[int]:
    """The texts that have the same tokens as another one, ascending; `first` is the result of `first_equal`."""
    counts = collections.Counter(first)
    return [index for index, group in enumerate(first) if counts[group] > 1]
