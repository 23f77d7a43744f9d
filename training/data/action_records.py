"""Loads annotated actions of any source, for training and evaluation, and detected persons.

| source | annotated actions | detected persons |
|---|---|---|
| folder, `metadata.jsonl` | own data | own data, with `scores` |
| `.csv` | AVA, AVA-Kinetics | PySlowFast |
| `.json` | the official UMT code (AlphAction) | the same, beside the annotations that number its key frames |

Pickled files, as those of MMAction2, are refused: reading one runs the code in it.
"""

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from .action_metadata import read_action_metadata, read_metadata_persons
from .alphaction_json import read_json_annotations, read_json_persons
from .annotated_actions import AnnotatedActions
from .ava_csv import ActionTable, read_annotations, read_person_rows
from .key_frames import KeyFrame, group_by_key_frame
from .label_map import read_label_map

_PICKLE_SUFFIXES = (".pkl", ".pickle", ".pk", ".p")
_ANNOTATION_FORMS = "a folder with metadata.jsonl, AVA's .csv or the .json of the official UMT code"
_PERSON_FORMS = "a metadata.jsonl with scores, PySlowFast's .csv or AlphAction's .json"


def load_annotated_actions(
    source: str | os.PathLike,
    *,
    split: str | None = None,
    label_map: str | os.PathLike | None = None,
    class_names: Sequence[str] | None = None,
) -> AnnotatedActions:
    """Loads annotated actions.

    Args:
        source: see the table of this module.
        split: sub-folder of a folder.
        label_map: label map of the action ids in a csv or JSON file; own data name their classes themselves.
        class_names: names of all classes in the order of a model's columns, in place of a label map: column c - 1 is
            action id c. For own data, those of the model or of the training data; default: all that occur.

    Raises:
        ValueError: the source is none of these, is pickled or malformed, has no label map or one too many.
    """
    path = Path(source).expanduser()
    kind = _kind(path, "annotated actions", _ANNOTATION_FORMS)
    if kind == ".jsonl":
        if label_map is not None:
            raise ValueError(f"{source} names its classes itself, so that a label map has no use; leave it out.")
        return read_action_metadata(path, split, class_names)
    if split is not None:
        raise ValueError(f"The split {split!r} is chosen, but {source} has no splits; give the file of this split.")
    if (label_map is None) == (class_names is None):
        given = "nothing" if label_map is None else "a label map and class names, which may differ,"
        raise ValueError(f"{source} contains action ids, and {given} to name them; give a label map (.pbtxt).")
    names = dict(enumerate(class_names, 1)) if label_map is None else read_label_map(label_map)
    return AnnotatedActions(read_annotations(path) if kind == ".csv" else read_json_annotations(path), names)


def training_key_frames(
    actions: AnnotatedActions, excluded: Collection[tuple[str, float]] = ()
) -> tuple[list[KeyFrame], int]:
    """The key frames with annotated persons.

    Args:
        actions: result of `load_annotated_actions`.
        excluded: (video, time in seconds) of key frames that are left out, see `read_excluded`.

    Returns:
        The key frames, and the number of those left out: excluded ones, and those on which nobody acts.

    Raises:
        ValueError: the label map matches no annotation, lacks an id that occurs, or no key frame is left.
    """
    table = actions.table
    is_known = np.isin(table.actions, [0, *actions.label_map])
    if not is_known.all():
        row = int((~is_known).argmax())
        named = f"{len(actions.label_map)} classes, ids {_listed(actions.label_map)}"
        if not np.isin(table.actions, list(actions.label_map)).any():
            raise ValueError(
                f"The label map matches no annotation: it has {named}, the annotations have "
                f"{_listed(np.unique(table.actions[table.actions > 0]).tolist())}. Give the label map of these data."
            )
        raise ValueError(
            f"{table.place(row)} has the action id {table.actions[row]}, which is not in the label map ({named}). "
            "Give the label map of all classes."
        )
    excluded = {(video, round(time, 6)) for video, time in excluded}
    found = group_by_key_frame(table)
    kept = [
        key_frame
        for key_frame in found
        if len(key_frame.boxes) and (key_frame.video, round(key_frame.time, 6)) not in excluded
    ]
    if not kept:
        raise ValueError(f"None of {len(found)} key frames is left: all are excluded, or nobody acts on them.")
    return kept, len(found) - len(kept)


def load_detected_persons(
    source: str | os.PathLike,
    *,
    annotations: str | os.PathLike | None = None,
    threshold: float = 0.8,
    split: str | None = None,
) -> tuple[list[KeyFrame], int]:
    """Loads detected persons.

    Args:
        source: see the table of this module.
        annotations: the annotations whose image ids an AlphAction JSON refers to; not for other sources.
        threshold: persons with a lower score are left out; default 0.8, as in the official evaluation.
        split: sub-folder of a folder.

    Returns:
        The key frames with at least one person, with scores, and the number of persons left out.

    Raises:
        ValueError: the source is none of these, is pickled or malformed, or no person reaches the threshold.
    """
    path = Path(source).expanduser()
    kind = _kind(path, "detected persons", _PERSON_FORMS)
    if annotations is not None and kind != ".json":
        raise ValueError(f"{source} names its videos itself; annotations are for AlphAction's .json only.")
    if split is not None and kind != ".jsonl":
        raise ValueError(f"The split {split!r} is chosen, but {source} has no splits; give the file of this split.")
    table = _read_persons(path, kind, annotations, split)
    is_kept = table.scores >= threshold
    if not is_kept.any():
        raise ValueError(
            f"No person in {source} has a score of {threshold:g} or more; the highest of {len(table)} is "
            f"{table.scores.max():.3f}. Lower the threshold of the detector."
        )
    return group_by_key_frame(_take(table, np.flatnonzero(is_kept))), int((~is_kept).sum())


def _read_persons(path: Path, kind: str, annotations: str | os.PathLike | None, split: str | None) -> ActionTable:
    if kind == ".jsonl":
        return read_metadata_persons(path, split)
    return read_person_rows(path) if kind == ".csv" else read_json_persons(path, annotations)


def _take(table: ActionTable, rows: np.ndarray) -> ActionTable:
    """Rows of detected persons."""
    return ActionTable(
        videos=table.videos,
        video=table.video[rows],
        times=table.times[rows],
        boxes=table.boxes[rows],
        actions=table.actions[rows],
        scores=table.scores[rows],
        relative=table.relative,
        places=[table.place(row) for row in rows],
    )


def _kind(path: Path, content: str, forms: str) -> str:
    """The form of a source: `.jsonl` (also of a folder), `.csv` or `.json`."""
    if path.is_dir():
        return ".jsonl"
    if not path.is_file():
        raise ValueError(f"The file or folder {path} does not exist; check the path.")
    suffix = path.suffix.lower()
    with path.open("rb") as file:
        is_pickled = suffix in _PICKLE_SUFFIXES or file.read(1) == b"\x80"
    if is_pickled:
        raise ValueError(
            f"{path} is pickled: reading it would run the code in it, so that it is never read. Give {forms}."
        )
    if suffix not in (".jsonl", ".csv", ".json"):
        raise ValueError(f"{path} is not a known file of {content}; expected {forms}.")
    return suffix


def _listed(ids: Mapping[int, str] | Sequence[int]) -> str:
    numbers = list(ids)
    return ", ".join(map(str, numbers[:8])) + (" …" if len(numbers) > 8 else "")
