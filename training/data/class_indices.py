"""Labels as class indices: class names, or the indices themselves.

Names are compared in the Unicode normal form C, because macOS stores the names of files and folders in another form,
and without surrounding spaces; names that are shown stay as they are. Sorted as text, the class of the folder `10` has
index 2, so where classes have numbers as names, an integer is never an index.
"""

import collections
import difflib
import math
import numbers
import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from datasets import ClassLabel, Dataset
from transformers import PreTrainedConfig

_MISSING = {"nan", "none", "null", "n/a"}  # texts for a missing number


def class_indices(labels: Sequence[str | int], names: Sequence[str], source: str, owner: str = "") -> list[int]:
    """The index of each label among the classes.

    Args:
        labels: results of `plain_labels`, none of them missing.
        names: class names in the order of their indices.
        source: name of the data, for the error.
        owner: whose classes they are, such as "the model's", for the error.

    Raises:
        ValueError: a label is neither the name nor the index of a class, or the name of several; or it is an integer
            that is not a name although classes have integers as names.
    """
    indices_of = collections.defaultdict(list)
    for index, name in enumerate(names):
        indices_of[normalize_name(name)].append(index)
    distinct = list(dict.fromkeys(labels))
    found: dict[str | int, int | None] = {}
    for label in distinct:
        matches = indices_of.get(normalize_name(str(label)), [])
        if len(matches) > 1:
            raise ValueError(
                f"{len(matches)} of the {len(names)} classes have the name {label!r}, a label of {source}."
            )
        found[label] = matches[0] if matches else None

    others = [label for label in distinct if isinstance(label, int) and found[label] is None]
    numbered = next((name for name in names if re.fullmatch(r"-?\d+", normalize_name(name))), None)
    if others and numbered is not None:
        named = next((label for label in distinct if isinstance(label, int) and label not in others), numbered)
        raise ValueError(
            f"The labels of {source} are ambiguous: {named} is the name of a class, but {others[0]} is not. Give the "
            f"name of the class of every video; the {len(names)} names are {list_names(names)}."
        )
    found |= {label: label for label in others if 0 <= label < len(names)}
    if unknown := [label for label in distinct if found[label] is None]:
        also = f" Unknown too: {list_names(map(repr, unknown[1:]))}." if unknown[1:] else ""
        raise ValueError(
            f"Row {list(labels).index(unknown[0])} of {source} has the label {unknown[0]!r}, which is not one of "
            f"{owner or 'the'} {len(names)} classes: {list_names(names)}.{also} {_hint(unknown, others, names)}"
        )
    return [found[label] for label in labels]


def _hint(unknown: Sequence[str | int], integers: Sequence[int], names: Sequence[str]) -> str:
    """What to do about labels that are not classes."""
    if isinstance(unknown[0], int):
        if min(integers) >= 1 and max(integers) == len(names):
            return f"The labels seem to be counted from 1; class indices are 0 to {len(names) - 1}: subtract 1."
        return f"Class indices are 0 to {len(names) - 1}; do the labels and the classes belong together?"
    by_key = {loose_key(name): name for name in names}
    if close := difflib.get_close_matches(loose_key(unknown[0]), by_key, n=1, cutoff=0.75):
        return f"Did you mean {by_key[close[0]]!r}?"
    return "Correct the label, or leave the video out."


def read_labels(records: Dataset, class_names: Collection[str] | None, source: str) -> list[str | int | None]:
    """The labels of a table as `plain_labels` returns them, with the names of a `ClassLabel`.

    Args:
        records: a table with a column `label`.
        class_names: the classes to which the labels belong, None if they are those of the table. Names `0`, `1` …,
            which `datasets` gives to classes that are only counted, are indices unless all of them are among these.
        source: name of the data, for the error.
    """
    feature = records.features["label"]
    if not isinstance(feature, ClassLabel):
        return plain_labels(records["label"], source)
    counted = feature.names == [str(index) for index in range(feature.num_classes)]
    if counted and class_names is not None and not {*feature.names} <= {*class_names}:
        return [None if label == -1 else label for label in records["label"]]
    names = dict(enumerate(feature.names))
    return [names.get(label) for label in records["label"]]  # -1 is a missing label


def plain_labels(labels: Iterable[Any], source: str) -> list[str | int | None]:
    """Labels as class names, integers, or None where a label is missing (None, NaN, an empty text).

    Texts lose surrounding spaces, `True` and `False` become these texts, and floats such as 3.0, which pandas makes of
    integers with gaps, integers; so do texts such as "3.0" if all labels are written in this way.

    Raises:
        ValueError: a label is of another type, such as a list or 2.5.
    """
    plain = [_plain_label(label, row, source) for row, label in enumerate(labels)]
    texts = {label for label in plain if isinstance(label, str)}
    numeric = {text for text in texts if re.fullmatch(r"-?\d+(\.0+)?", text)}
    if numeric and {text.lower() for text in texts - numeric} <= _MISSING:  # beside numbers, these are not names
        texts, plain = numeric, [None if label in texts - numeric else label for label in plain]
    if texts and all(re.fullmatch(r"(0|-?[1-9]\d{0,14})\.0+", text) for text in texts):
        return [int(float(label)) if isinstance(label, str) else label for label in plain]
    return plain


def _plain_label(label: Any, row: int, source: str) -> str | int | None:
    if isinstance(label, str):
        return label.strip() or None
    if type(label).__name__ in ("bool", "bool_"):  # Python's, which is an integer too, and NumPy's
        return str(bool(label))
    if isinstance(label, numbers.Integral) and -(1 << 63) <= label < 1 << 63:
        return int(label)
    is_float = isinstance(label, numbers.Real) and not isinstance(label, numbers.Integral)
    if label is None or (is_float and math.isnan(label)):
        return None
    if is_float and abs(label) < 1 << 53 and label == int(label):
        return int(label)
    raise ValueError(
        f"The label of row {row} of {source} is {label!r:.60}; expected a class name or an integer. Correct it, or "
        "remove the column."
    )


def check_distinct(names: Iterable[str], source: str) -> None:
    """Raises a ValueError if a class has no name, or two names differ in Unicode form, case or spaces only."""
    seen: dict[str, str] = {}
    for name in names:
        key = " ".join(normalize_name(name).casefold().split())
        if not key:
            raise ValueError(f"A class of {source} has the name {name!r}; give every class a name.")
        if key in seen:
            raise ValueError(
                f"The classes {seen[key]!r} and {name!r} of {source} differ only in case, spaces or Unicode form. "
                "Give the videos of a class one label, or the classes different names."
            )
        seen[key] = name


def class_names_of(config: PreTrainedConfig) -> list[str]:
    """The class names of a model in the order of its logits, from `id2label` only.

    `label2id` is not read: `from_pretrained(…, id2label=…)` leaves it as it was.

    Raises:
        ValueError: the keys of `id2label` are not 0, 1, ….
    """
    if sorted(config.id2label) != list(range(len(config.id2label))):
        raise ValueError(
            f"`id2label` of the model has the keys {list_names(map(str, config.id2label))}; expected 0 to "
            f"{len(config.id2label) - 1}. Correct it in the configuration."
        )
    return [str(config.id2label[index]) for index in range(len(config.id2label))]


def normalize_name(name: str) -> str:
    """A class name in the form in which names are compared."""
    return unicodedata.normalize("NFC", name).strip()


def loose_key(name: str) -> str:
    """A class name without differences that spelling mistakes make: in case, spaces, hyphens and underscores."""
    return " ".join(re.split(r"[\s_-]+", normalize_name(name).casefold()))


def list_names(names: Iterable[str]) -> str:
    """The first eight names of classes, separated by commas."""
    names = list(names)
    return f"{', '.join(names[:8])}{' …' if len(names) > 8 else ''}"
