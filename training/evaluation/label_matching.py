"""The labels of a data set as class indices of a model."""

import datasets
import numpy as np
from transformers import PreTrainedConfig

from ..data.class_indices import class_indices, class_names_of, read_labels


def match_labels(records: datasets.Dataset, config: PreTrainedConfig) -> np.ndarray:
    """The labels of a table as class indices of a model.

    Class names are looked up in `config.id2label`, so the order of the classes in the data does not matter;
    `label2id`, which may differ from it, is not read. Integers without names are class names if the model has classes
    of these names, and else the model's indices.

    Args:
        records: a table whose column `label` contains integers, `ClassLabel`s or class names.
        config: configuration of a classifier.

    Returns:
        int64 `(videos,)`.

    Raises:
        ValueError: a stream, an empty table, missing labels, names that the model does not know, or indices outside
            the model's classes; integers of which only some are names of the model's classes; a model with one class.
    """
    if not isinstance(records, datasets.Dataset):
        raise ValueError(
            f"Videos to evaluate are given as {type(records).__name__}; expected a table (datasets.Dataset). Unpack "
            "tar shards, and load a data set of the Hub without streaming."
        )
    if len(records) == 0 or "label" not in records.column_names:
        raise ValueError(
            f"Evaluation needs videos with labels; the table has {len(records)} rows and the columns "
            f"{', '.join(records.column_names)}. Use class folders, a list with labels, or a column `label`."
        )
    names = class_names_of(config)
    if len(names) < 2:
        raise ValueError(f"The model has the class {names[0]!r} only, so every accuracy would be 100 %.")
    labels = read_labels(records, names, "the data")
    absent = [row for row, label in enumerate(labels) if label is None]
    if absent:
        raise ValueError(f"{len(absent)} of {len(labels)} videos have no label, first that of row {absent[0]}.")
    return np.array(class_indices(labels, names, "the data", owner="the model's"), dtype=np.int64)
