"""Class names of the data sets that UMT's official classifiers were trained on.

The order of the Kinetics heads is not alphabetical; `labels/README.md` gives its evidence. The order of Moments in
Time is not verified, so a head of 339 classes is named only on request.
"""

import functools
import json
from pathlib import Path

LABELS_FOLDER = Path(__file__).parent / "labels"
# number of classes of a head -> label list
OFFICIAL_LABEL_SETS = {400: "k400", 600: "k600", 700: "k700", 710: "k710", 174: "ssv2"}


def label_sets() -> list[str]:
    """Names of the label lists.

    `k400`, `k600`, `k700` and `k710` are in the order of the official heads, the same with `_alphabetical` in the
    order of sorted names; `ava` has the actions of AVA by id; the others are `mitv1` and `ssv2`.
    """
    return sorted(path.stem for path in LABELS_FOLDER.glob("*.txt"))


def load_labels(name: str) -> list[str]:
    """Class names of the label list `name`, in index order.

    Raises:
        ValueError: if the list does not exist.
    """
    if name not in label_sets():
        raise ValueError(f"Unknown label list {name!r}; choose one of {', '.join(label_sets())}.")
    return (LABELS_FOLDER / f"{name}.txt").read_text(encoding="utf-8").splitlines()


def id2label_for(num_labels: int, name: str | None = None) -> dict[int, str]:
    """`id2label` of an official head with `num_labels` classes.

    Without `name` the label list follows from the number of classes (`OFFICIAL_LABEL_SETS`); other heads get
    `LABEL_0`, `LABEL_1`, ...

    Raises:
        ValueError: if the list `name` has another number of classes.
    """
    name = OFFICIAL_LABEL_SETS.get(num_labels) if name is None else name
    if name is None:
        return {index: f"LABEL_{index}" for index in range(num_labels)}
    labels = load_labels(name)
    if len(labels) != num_labels:
        raise ValueError(
            f"The label list {name!r} has {len(labels)} classes, but the checkpoint's head has {num_labels}."
        )
    return dict(enumerate(labels))


@functools.cache
def k710_rows() -> dict[str, int]:
    """Class name of Kinetics-400, -600, -700 or -710 to its row in an official Kinetics-710 head.

    Some classes have different names in these data sets (row lists of the official fine-tuning code).
    """
    rows = json.loads((LABELS_FOLDER / "k710_rows.json").read_text(encoding="utf-8"))
    by_name = {name: row for row, name in enumerate(load_labels("k710"))}
    for label_set, rows_of_set in rows.items():
        by_name |= zip(load_labels(label_set), rows_of_set, strict=True)
    return by_name
