"""The labels of a data set as class indices of a model."""

import datasets
import numpy as np
from transformers import PreTrainedConfig

from ..data.class_indices import list_names, name_integers


def match_labels(records: datasets.Dataset, config: PreTrainedConfig) -> np.ndarray:
    """The labels of a table as class indices of a model.

    Class names are looked up in `config.label2id`, so the order of the classes in the data does not matter. Integers
    without names are class names if the model has classes of these names, and else the model's indices.

    Args:
        records: a table whose column `label` contains integers, `ClassLabel`s or class names.
        config: configuration of a classifier.

    Returns:
        int64 `(videos,)`.

    Raises:
        ValueError: a stream, an empty table, missing labels, names that the model does not know, or indices outside
            the model's classes; integers of which only some are names of the model's classes.
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
    feature, labels = records.features["label"], list(records["label"])
    if isinstance(feature, datasets.ClassLabel):
        # classes that are only counted have the names "0", "1", ...
        counted = feature.names == [str(index) for index in range(feature.num_classes)]
        if not counted or set(feature.names) <= config.label2id.keys():
            names = dict(enumerate(feature.names))
            labels = [names.get(label) for label in labels]  # -1 is a missing label
    labels = name_integers(labels, config.label2id, "the data")
    absent = [row for row, label in enumerate(labels) if label is None]
    if absent:
        raise ValueError(f"{len(absent)} of {len(labels)} videos have no label, first that of row {absent[0]}.")

    unknown = sorted({label for label in labels if isinstance(label, str)} - config.label2id.keys())
    if unknown:
        raise ValueError(
            f"The data has {len(unknown)} class names that are not among the model's {config.num_labels}: "
            f"{list_names(map(repr, unknown))}. The model knows {list_names(map(repr, config.label2id))}. Rename the "
            "classes of the data, or give the labels as the model's class indices."
        )
    labels = [config.label2id[label] if isinstance(label, str) else label for label in labels]
    outside = sorted({label for label in labels if not 0 <= label < config.num_labels})
    if outside:
        row = next(row for row, label in enumerate(labels) if label in outside)
        raise ValueError(
            f"The data has {len(outside)} labels that are not from 0 to {config.num_labels - 1}, the model's classes: "
            f"{list_names(map(repr, outside))}; first that of row {row}. Do model and data agree on the classes?"
        )
    return np.array(labels, dtype=np.int64)
