"""Labelled videos: their classes, checks of their labels, and a part of them held out for evaluation."""

import difflib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from datasets import ClassLabel, Dataset, IterableDataset

from .class_indices import loose_key
from .column_names import LABEL_NAMES, accepted_names

_MOST_CLASSES = 20  # that are listed
_MOST_NOTES = 10
_MUCH_LARGER = 5  # a name of which so many times more videos have another spelling may be misspelt


def check_classes(records: Dataset | IterableDataset, class_names: Sequence[str] | None = None) -> list[str]:
    """The names of the classes, in the order of their labels.

    Args:
        records: Training videos, as `load_video_records` returns them.
        class_names: Names of all classes. Default: those of the `label` column, or `LABEL_0`, `LABEL_1` … if it has
            no names.

    Raises:
        ValueError: a label is missing or is not the index of a class, a class has no video, or there is only one.
    """
    if class_names is None and isinstance((records.features or {}).get("label"), ClassLabel):
        class_names = records.features["label"].names
    labels = check_labels(records, class_names and len(class_names), "training")
    if class_names is None:
        class_names = placeholder_names(max(labels) + 1)
    if len(class_names) == 1:
        raise ValueError(
            f"The training videos have one class only, {class_names[0]!r}, so there is nothing to learn and every "
            "accuracy is 100 %. Add videos of other classes."
        )
    missing = [name for index, name in enumerate(class_names) if index not in labels]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(class_names)} classes have no training clip: {', '.join(missing[:10])}. Add "
            "clips, or leave these classes out."
        )
    return list(class_names)


def check_labels(records: Dataset | IterableDataset, num_classes: int | None, purpose: str) -> Counter[int]:
    """How often each label occurs.

    Args:
        records: Videos, as `load_video_records` returns them.
        num_classes: Labels must be below this number. None: at most as many classes as videos.
        purpose: "training" or "evaluation", for the error.

    Raises:
        ValueError: the videos are a stream, or a label is missing or is not the index of a class.
    """
    if not isinstance(records, Dataset):
        raise ValueError(
            f"The {purpose} videos are a stream, but their labels are checked before the first step: unpack tar "
            "shards, or give a folder, a list file or a data set that is not streamed."
        )
    if "label" not in records.column_names:
        raise ValueError(
            f"The {purpose} videos have no labels; their columns are {', '.join(records.column_names)}. Give class "
            f"folders, a list with labels, or a table with a column label (also read: "
            f"{accepted_names(LABEL_NAMES)[len('label, ') :]})."
        )
    labels = Counter(label if type(label) is int else None for label in records["label"])
    if missing := labels.pop(None, 0):
        raise ValueError(f"{missing} of {len(records)} {purpose} videos have no label, or one that is not an integer.")
    highest = len(labels) if num_classes is None else num_classes
    if min(labels) >= 1 and max(labels) == highest:
        raise ValueError(
            f"The labels of the {purpose} videos seem to be counted from 1, up to {highest}; class indices are 0 to "
            f"{highest - 1}. Subtract 1, or give class names."
        )
    limit = len(records) if num_classes is None else num_classes  # every class has a clip
    wrong = sorted(label for label in labels if not 0 <= label < limit)
    if wrong:
        raise ValueError(
            f"Labels {wrong[:10]} of the {purpose} videos are not class indices; expected 0 to {limit - 1}."
        )
    return labels


def describe_classes(counts: Mapping[int, int], class_names: Sequence[str]) -> list[str]:
    """The classes with their numbers of videos, for people, and notes on names that may be misspelt.

    Args:
        counts: Class index → number of videos, as `check_labels` returns it.
        class_names: Names in the order of the indices.

    Returns:
        Lines: a total; every class, or the largest and smallest of many; a note for each class whose name resembles
        that of a class with at least five times as many videos, or differs from another in hyphens and underscores.
    """
    counts = Counter(counts)
    order = sorted(range(len(class_names)), key=lambda index: -counts[index])
    shown = [repr(name)[1:-1] for name in class_names]  # control characters escaped
    width = max(map(len, shown))
    lines = [f"{shown[index]:<{width}}  {counts[index]}" for index in order]
    if len(lines) > _MOST_CLASSES:
        left_out = len(lines) - _MOST_CLASSES
        lines = [*lines[: _MOST_CLASSES // 2], f"… {left_out} more classes", *lines[-_MOST_CLASSES // 2 :]]
    notes = [
        f"note: the class {class_names[index]!r} ({counts[index]}) may be a misspelling of "
        f"{class_names[other]!r} ({counts[other]})"
        for index, other in _misspelt(order, counts, class_names)
    ]
    return [
        f"{len(class_names)} classes, {sum(counts.values())} videos:",
        *(f"  {line}" for line in lines),
        *notes[:_MOST_NOTES],
    ]


def _misspelt(order: Sequence[int], counts: Counter[int], names: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Pairs of a class and the larger one that it may be a misspelling of; `order` starts with the largest."""
    keys = [loose_key(name) for name in names]
    # names that differ in a number, such as "round 1" and "round 2", are not misspelt
    texts = [re.sub(r"\d+", "", key) for key in keys]
    for position, index in enumerate(order):
        larger = {}
        for other in reversed(order[:position]):
            if keys[other] == keys[index]:
                yield index, other
                break
            if counts[other] >= _MUCH_LARGER * counts[index] and texts[other] != texts[index]:
                larger[keys[other]] = other
        else:
            cutoff = max(0.75, 1 - 2 / len(keys[index]))  # two characters of a long name
            for match in difflib.get_close_matches(keys[index], larger, n=1, cutoff=cutoff):
                yield index, larger[match]


def placeholder_names(num_classes: int) -> list[str]:
    """The names that Transformers gives to classes without names."""
    return [f"LABEL_{index}" for index in range(num_classes)]


def hold_out(records: Dataset, fraction: float, seed: int) -> tuple[Dataset, Dataset]:
    """Training and evaluation videos: a random fraction of each class is held out, rounded, and never all of it.

    Raises:
        ValueError: the fraction is not between 0 and 1, or not a single video would be held out.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"`eval_share` must be between 0 and 1, but is {fraction}.")
    generator = np.random.default_rng(seed)
    labels = np.array(records["label"])
    held_out = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        held_out += generator.permutation(rows)[: min(round(fraction * len(rows)), len(rows) - 1)].tolist()
    if not held_out:
        raise ValueError(
            f"`eval_share` is {fraction}, which is less than one of the {max(np.bincount(labels))} videos of the "
            "largest class; raise it."
        )
    return records.select(np.setdiff1d(np.arange(len(records)), held_out)), records.select(sorted(held_out))
