"""Batches in which each clip has a place of its own."""

import torch

from umt_training.evaluation.clips import batches_in_place


def test_a_clip_has_the_same_place_whichever_others_are_there():
    read = []

    def clips(numbers):
        for number in numbers:
            read.append(number)
            yield number, torch.full((2,), 10 + number)

    found = [(numbers, batch[:, 0].tolist()) for numbers, batch in batches_in_place(clips([0, 1, 2, 4, 7]), 3, 8)]
    assert found == [([0, 1, 2], [10, 11, 12]), ([None, 4, None], [0, 14, 0]), ([None, 7], [0, 17])]
    # a complete batch does not wait for the next clip
    read.clear()
    next(batches_in_place(clips(range(8)), 3, 8))
    assert read == [0, 1, 2]
