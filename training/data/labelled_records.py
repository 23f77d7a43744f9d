"""Labelled videos: their classes, checks of their labels, and a part of them held out for evaluation."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from datasets import ClassLabel, Dataset, IterableDataset


def check_classes(records: Dataset | IterableDataset, class_names: Sequence[str] | None = None) -> list[str]:
    """The names of the classes, in the order of their labels.

    Args:
        records: Training videos, as `load_video_records` returns them.
        class_names: Names of all classes. Default: those of the `label` column, or `LABEL_0`, `LABEL_1` … if it has
            no names.

    Raises:
        ValueError: a label is missing or is not the index of a class, or a class has no video.
    """
    if class_names is None and isinstance((records.features or {}).get("label"), ClassLabel):
        class_names = records.features["label"].names
    labels = check_labels(records, class_names and len(class_names), "training")
    if class_names is None:
        class_names = placeholder_names(max(labels) + 1)
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
            f"The {purpose} videos have no labels; give class folders, a list with labels or a table with a `label`."
        )
    labels = Counter(records["label"])
    missing = sum(count for label, count in labels.items() if not isinstance(label, int))
    if missing:
        raise ValueError(f"{missing} of {len(records)} {purpose} videos have no label, or one that is not an integer.")
    limit = len(records) if num_classes is None else num_classes  # every class has a clip
    wrong = sorted(label for label in labels if not 0 <= label < limit)
    if wrong:
        raise ValueError(
            f"Labels {wrong[:10]} of the {purpose} videos are not class indices; expected 0 to {limit - 1}."
        )
    return labels


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
