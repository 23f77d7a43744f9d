"""Class names of the data sets that UMT's official classifiers were trained on.

Unusual: names are given out only where the index order of the official heads is known. Kinetics-600, Kinetics-700 and
Moments in Time must be named by the user (`labels/README.md` says why).
"""

import json
from pathlib import Path

LABELS_FOLDER = Path(__file__).parent / "labels"
VERIFIED_LABEL_SETS = {400: "k400", 710: "k710", 174: "ssv2"}


def label_sets() -> list[str]:
    """Names of the label lists in the package: `k400`, `k600`, `k700`, `k710`, `mitv1`, `ssv2`."""
    return sorted(path.stem for path in LABELS_FOLDER.glob("*.txt"))


def load_labels(name: str) -> list[str]:
    """Class names of the label list `name`, in index order; a ValueError if there is no such list."""
    if name not in label_sets():
        raise ValueError(f"There is no label list {name!r}; choose one of {', '.join(label_sets())}.")
    return (LABELS_FOLDER / f"{name}.txt").read_text(encoding="utf-8").splitlines()


def id2label_for(num_labels: int, name: str | None = None) -> dict[int, str]:
    """`id2label` of an official head with `num_labels` classes.

    Without `name` the verified data sets are recognised by their number of classes; other heads get `LABEL_0`, ...

    Raises:
        ValueError: if the list `name` has another number of classes.
    """
    name = VERIFIED_LABEL_SETS.get(num_labels) if name is None else name
    if name is None:
        return {index: f"LABEL_{index}" for index in range(num_labels)}
    labels = load_labels(name)
    if len(labels) != num_labels:
        raise ValueError(f"The label list {name!r} has {len(labels)} classes, but the checkpoint's head {num_labels}.")
    return dict(enumerate(labels))


def k710_rows(name: str) -> list[int]:
    """For every class of `k400`, `k600` or `k700` the row of a Kinetics-710 head that starts it (method, 7).

    Raises:
        ValueError: if there is no such map.
    """
    path = LABELS_FOLDER / f"k710_to_{name}.json"
    if not path.is_file():
        raise ValueError(f"There is no map from Kinetics-710 to {name!r}; there are maps to k400, k600 and k700.")
    return json.loads(path.read_text(encoding="utf-8"))
