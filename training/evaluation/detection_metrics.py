"""Frame mAP of action detection at IoU 0.5, as the official AVA evaluation (arXiv 1705.08421, section 5) defines it.

For each class, the detections of all key frames are sorted by score. A detection is compared with the annotated box
of its key frame and class that overlaps it most: it is correct if their IoU is at least 0.5 and no detection with a
higher score has taken that box; otherwise it is a false positive, also if another box is free. The average precision
(AP) is the area under the precision-recall curve whose precision is made monotone; mAP is the mean over the classes
with annotated boxes. Two protocols:

* "ava": every detection counts, also on a key frame without annotations, unless the key frame is excluded;
* "ava-kinetics" (the program of the AVA-Kinetics challenge): detections on key frames that the annotations do not list
  are ignored, and of a key frame only the 50 pairs of box and class with the highest scores count.

Both ignore classes that are not in the label map, on both sides, and detections without width or height. Of equal
scores the earlier detection comes first, where the official order depends on the platform.

Detections are matched as arrays, without a loop over key frames: about two seconds for a million of them.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import evaluate
import numpy as np

from ..data.ava_csv import ActionTable

PROTOCOLS = ("ava", "ava-kinetics")
_IOU_THRESHOLD = 0.5  # smallest IoU of a correct detection
_HIGHEST_PAIRS = 50  # of a key frame, that the AVA-Kinetics challenge counts
_MOST_ERRORS = 100
_CHUNK = 1 << 20  # pairs of detection and annotated box that are compared at once


@dataclass(frozen=True)
class FrameMAP:
    """Result of `frame_map`.

    Args:
        map50: mean over the classes with annotated boxes of `ap50`, in percent.
        ap50: class id → average precision at IoU 0.5 in percent, None for a class without annotated boxes.
        num_annotated: class id → number of annotated boxes.
        num_detections: number of detections that were counted.
        num_ignored: number of detections left out: of other classes, excluded or unlisted key frames, below the 50
            highest, or without area.
        highest_errors: rows of the counted detections that are not correct, the 100 of the highest scores, the highest
            first.
    """

    map50: float
    ap50: dict[int, float | None]
    num_annotated: dict[int, int]
    num_detections: int
    num_ignored: int
    highest_errors: tuple[int, ...]


def frame_map(
    annotations: ActionTable,
    detections: ActionTable,
    label_map: Mapping[int, str],
    protocol: str = "ava",
    excluded: Collection[tuple[str, float]] = (),
) -> FrameMAP:
    """Frame mAP of detected actions.

    Args:
        annotations: annotated actions, as `read_annotations` returns them.
        detections: detected actions with scores, as `read_detections` returns them; corners in the same unit.
        label_map: id → name of the classes that are evaluated, as `read_label_map` returns it.
        protocol: "ava" or "ava-kinetics".
        excluded: (video, time in seconds) of key frames that are left out.

    Times are compared with six decimals.

    Raises:
        ValueError: an unknown protocol; corners in pixels on one side and fractions on the other; excluded key frames
            with "ava-kinetics", which has none, or annotations of key frames without actions with "ava"; an annotated
            box with x2 < x1 or y2 < y1; no annotation has a class of the label map, or none is left; or no detection
            is on a key frame of the annotations, as if the two belonged to different videos or clocks.
    """
    if annotations.relative != detections.relative:
        units = ["fractions of the frame" if table.relative else "pixels" for table in (annotations, detections)]
        raise ValueError(f"The annotations are in {units[0]}, the detections in {units[1]}; convert one of them.")
    frames = _KeyFrames(annotations, detections)
    if len(detections) and not np.isin(frames.of_detections, frames.of_annotations).any():
        raise ValueError(
            f"No detection is on a key frame of the annotations: the first is of {_key_frame(detections)}, the first "
            f"annotation of {_key_frame(annotations)}. Are videos and times of both counted in the same way?"
        )
    return _frame_map(annotations, detections, frames, label_map, protocol, excluded)


def _frame_map(
    annotations: ActionTable,
    detections: ActionTable,
    frames: "_KeyFrames",
    label_map: Mapping[int, str],
    protocol: str,
    excluded: Collection[tuple[str, float]] = (),
) -> FrameMAP:
    """`frame_map` without the check that annotations and detections belong together."""
    classes = np.array(sorted(label_map))
    _check(annotations, classes, protocol, excluded)
    is_excluded = frames.excluded(excluded)
    annotated = np.isin(annotations.actions, classes) & ~is_excluded[frames.of_annotations]
    counted = np.isin(detections.actions, classes) & ~is_excluded[frames.of_detections]
    if protocol == "ava-kinetics":
        counted &= np.isin(frames.of_detections, frames.of_annotations)
        rows = np.flatnonzero(counted)
        highest = _highest_of_frame(frames.of_detections[rows], detections.scores[rows], _HIGHEST_PAIRS)
        counted[rows[~highest]] = False
    counted &= (detections.boxes[:, 2:] > detections.boxes[:, :2]).all(axis=1)
    return _average_precisions(
        _Boxes.of(annotations, frames.of_annotations, classes).take(annotated),
        _Boxes.of(detections, frames.of_detections, classes).take(counted),
        detections.scores[counted],
        classes,
        np.flatnonzero(counted),
        num_ignored=int((~counted).sum()),
    )


def _check(
    annotations: ActionTable, classes: np.ndarray, protocol: str, excluded: Collection[tuple[str, float]]
) -> None:
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol is {protocol!r}; choose {' or '.join(map(repr, PROTOCOLS))}.")
    if protocol == "ava-kinetics" and excluded:
        raise ValueError('Excluded key frames are given, but protocol "ava-kinetics" has none; leave them out.')
    if protocol == "ava" and (annotations.actions == 0).any():
        raise ValueError(
            'The annotations list key frames without actions (rows of two columns), which protocol "ava" does not '
            'have; choose "ava-kinetics".'
        )
    if not np.isin(annotations.actions, classes).any():
        present = ", ".join(map(str, np.unique(annotations.actions)[:8]))
        raise ValueError(
            f"The label map matches no annotation: it has the ids {', '.join(map(str, classes[:8]))}"
            f"{' …' if len(classes) > 8 else ''}, the annotations have {present}. Give the label map of these data."
        )
    if (is_reversed := (annotations.boxes[:, 2:] < annotations.boxes[:, :2]).any(axis=1)).any():
        raise ValueError(
            f"{annotations.place(int(is_reversed.argmax()))}: an annotated box has x2 < x1 or y2 < y1; expected "
            "corners x1, y1, x2, y2."
        )


class FrameMeanAveragePrecision(evaluate.Metric):
    """`map50`: frame mAP at IoU 0.5 in percent; `ap50`: for each class its average precision in percent, None for a
    class without annotated boxes. An example is a key frame. See `frame_map` for the definition."""

    def __init__(self, *args: Any, num_process: int = 1, **kwargs: Any):
        super().__init__(*args, num_process=num_process, keep_in_memory=num_process == 1, **kwargs)

    def _info(self) -> evaluate.MetricInfo:
        boxes = {
            "boxes": datasets.List(datasets.List(datasets.Value("float64"))),
            "labels": datasets.List(datasets.Value("int64")),
        }
        scores = {"scores": datasets.List(datasets.Value("float64"))}
        return evaluate.MetricInfo(
            description=type(self).__doc__,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": boxes | scores, "references": boxes}),
        )

    def _compute(
        self,
        predictions: Sequence[Mapping[str, Any]],
        references: Sequence[Mapping[str, Any]],
        num_labels: int | None = None,
        protocol: str = "ava",
    ) -> dict[str, Any]:
        if num_labels is None:
            num_labels = 1 + max(
                (label for frame in (*predictions, *references) for label in frame["labels"]), default=0
            )
        scores = np.concatenate([np.asarray(frame["scores"], dtype=float) for frame in predictions])
        detections, annotations = _as_table(predictions, num_labels, scores), _as_table(references, num_labels)
        if protocol == "ava-kinetics":  # every example is a key frame that the annotations list
            annotations = _with_all_frames(annotations, len(references))
        names = {label + 1: str(label) for label in range(num_labels)}
        result = _frame_map(annotations, detections, _KeyFrames(annotations, detections), names, protocol)
        return {"map50": result.map50, "ap50": list(result.ap50.values())}


_INPUTS = """
Args:
    predictions: for each key frame `boxes` (corners x1, y1, x2, y2), `labels` (class indices from 0) and `scores`, a
        box for each pair of person and class.
    references: for each key frame `boxes` and `labels`, in the same unit.
    num_labels: number of classes. Default: those up to the highest label.
    protocol: "ava" (default) or "ava-kinetics".
"""


def _as_table(frames: Sequence[Mapping[str, Any]], num_labels: int, scores: np.ndarray | None = None) -> ActionTable:
    """Key frames of a single video, numbered by their seconds."""
    labels = np.concatenate([np.asarray(frame["labels"], dtype=np.int64) for frame in frames])
    if labels.size and not 0 <= labels.min() <= labels.max() < num_labels:
        raise ValueError(
            f"Labels are from {labels.min()} to {labels.max()}, but there are {num_labels} classes (0 to "
            f"{num_labels - 1}). Do model and data set agree on the classes?"
        )
    times = np.repeat(np.arange(len(frames), dtype=float), [len(frame["labels"]) for frame in frames])
    boxes = np.concatenate([np.asarray(frame["boxes"], dtype=float).reshape(-1, 4) for frame in frames])
    if not len(boxes) == len(labels) == len(labels if scores is None else scores):
        raise ValueError("The boxes, labels and scores of a key frame differ in number; give one of each per action.")
    return ActionTable(["video"], np.zeros(len(times), np.int32), times, boxes, labels.astype(np.int32) + 1, scores)


def _with_all_frames(table: ActionTable, num_frames: int) -> ActionTable:
    """The table with a row without action for every key frame."""
    return ActionTable(
        table.videos,
        np.concatenate([table.video, np.zeros(num_frames, np.int32)]),
        np.concatenate([table.times, np.arange(num_frames, dtype=float)]),
        np.concatenate([table.boxes, np.full((num_frames, 4), np.nan)]),
        np.concatenate([table.actions, np.zeros(num_frames, np.int32)]),
    )


def _key_frame(table: ActionTable) -> str:
    return f"{table.videos[table.video[0]]} at {table.times[0]:g} s"


class _KeyFrames:
    """Key frames of two tables, numbered: int64 `(rows,)` each."""

    def __init__(self, annotations: ActionTable, detections: ActionTable):
        names = dict.fromkeys([*annotations.videos, *detections.videos])
        self._video_of = {name: number for number, name in enumerate(names)}
        self._times, times = np.unique(
            _microseconds(np.concatenate([annotations.times, detections.times])), return_inverse=True
        )
        videos = np.concatenate([self._videos(annotations), self._videos(detections)])
        self._codes, numbers = np.unique(videos * len(self._times) + times, return_inverse=True)
        self.of_annotations, self.of_detections = np.split(numbers, [len(annotations)])

    def _videos(self, table: ActionTable) -> np.ndarray:
        return np.array([self._video_of[name] for name in table.videos], dtype=np.int64)[table.video]

    def excluded(self, excluded: Collection[tuple[str, float]]) -> np.ndarray:
        """Which key frames are excluded, bool `(key frames,)`."""
        pairs = [(self._video_of[video], time) for video, time in excluded if video in self._video_of]
        videos, times = np.array(pairs, dtype=float).reshape(-1, 2).T
        times = _microseconds(times)
        is_present = np.isin(times, self._times)
        codes = videos.astype(np.int64) * len(self._times) + np.searchsorted(self._times, times)
        return np.isin(self._codes, codes[is_present])


def _microseconds(times: np.ndarray) -> np.ndarray:
    return np.rint(times * 1e6).astype(np.int64)


@dataclass(frozen=True, eq=False)
class _Boxes:
    """Boxes `(n, 4)` with the numbers of their key frames and classes, `(n,)`."""

    frames: np.ndarray
    classes: np.ndarray
    boxes: np.ndarray

    @classmethod
    def of(cls, table: ActionTable, frames: np.ndarray, classes: np.ndarray) -> "_Boxes":
        """The boxes of all rows; the number of a class is its position in `classes`."""
        return cls(frames, np.searchsorted(classes, table.actions), table.boxes)

    def take(self, rows: np.ndarray) -> "_Boxes":
        return _Boxes(self.frames[rows], self.classes[rows], self.boxes[rows])


def _highest_of_frame(frames: np.ndarray, scores: np.ndarray, number: int) -> np.ndarray:
    """Which rows are among the `number` highest scores of their key frame, bool `(rows,)`."""
    order = np.lexsort((-scores, frames))
    starts = np.searchsorted(frames[order], frames[order])
    is_high = np.empty(len(frames), dtype=bool)
    is_high[order] = np.arange(len(frames)) - starts < number
    return is_high


def _average_precisions(
    annotated: _Boxes,
    detected: _Boxes,
    scores: np.ndarray,
    classes: np.ndarray,
    rows: np.ndarray,
    num_ignored: int,
) -> FrameMAP:
    """The result, of counted detections and their scores and rows in the table, `(detections,)` each."""
    order = np.lexsort((-scores, detected.classes))
    detected = detected.take(order)
    is_correct = _correct(annotated, detected)
    num_annotated = np.bincount(annotated.classes, minlength=len(classes))
    bounds = np.searchsorted(detected.classes, np.arange(len(classes) + 1))
    ap50: dict[int, float | None] = {}
    for index, number in enumerate(num_annotated.tolist()):
        hits = is_correct[bounds[index] : bounds[index + 1]]
        ap50[int(classes[index])] = 100 * _area_under_curve(hits, number) if number else None
    present = [value for value in ap50.values() if value is not None]
    if not present:
        raise ValueError("All annotations with classes of the label map are on excluded key frames.")
    return FrameMAP(
        map50=sum(present) / len(present),
        ap50=ap50,
        num_annotated=dict(zip(classes.tolist(), num_annotated.tolist(), strict=True)),
        num_detections=len(scores),
        num_ignored=num_ignored,
        highest_errors=tuple(_highest_first(rows[order], scores[order], ~is_correct)[:_MOST_ERRORS].tolist()),
    )


def _highest_first(rows: np.ndarray, scores: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """The chosen rows in the order of their scores, the highest first."""
    return rows[chosen][np.argsort(-scores[chosen], kind="stable")]


def _correct(annotated: _Boxes, detected: _Boxes) -> np.ndarray:
    """Which detections are correct, bool `(detections,)`; detections of a class are in the order of their scores."""
    best, overlap = _best_matches(annotated, detected)
    candidates = np.flatnonzero(overlap >= _IOU_THRESHOLD)
    _, first = np.unique(best[candidates], return_index=True)
    is_correct = np.zeros(len(best), dtype=bool)
    is_correct[candidates[first]] = True
    return is_correct


def _best_matches(annotated: _Boxes, detected: _Boxes) -> tuple[np.ndarray, np.ndarray]:
    """For each detection the annotated box of its key frame and class that overlaps it most, the first of equal ones,
    int64, and their IoU, -1 where there is none."""
    num_classes = 1 + max(annotated.classes.max(initial=0), detected.classes.max(initial=0))
    groups = annotated.frames * num_classes + annotated.classes
    order = np.argsort(groups, kind="stable")
    wanted = detected.frames * num_classes + detected.classes
    starts = np.searchsorted(groups[order], wanted)
    counts = np.searchsorted(groups[order], wanted, side="right") - starts
    best, overlap = np.zeros(len(wanted), dtype=np.int64), np.full(len(wanted), -1.0)
    rows = np.flatnonzero(counts)
    # detections in chunks of about as many pairs
    chunk_of_row = np.cumsum(counts[rows]) // _CHUNK
    for chunk in np.unique(chunk_of_row):
        some = rows[chunk_of_row == chunk]
        repeats = counts[some]
        firsts = np.cumsum(repeats) - repeats
        offsets = np.arange(repeats.sum()) - np.repeat(firsts, repeats)
        candidates = order[np.repeat(starts[some], repeats) + offsets]
        iou = _pairwise_iou(detected.boxes[np.repeat(some, repeats)], annotated.boxes[candidates])
        highest = np.maximum.reduceat(iou, firsts)
        is_highest = np.flatnonzero(iou == np.repeat(highest, repeats))
        position = is_highest[np.searchsorted(is_highest, firsts)]
        best[some], overlap[some] = candidates[position], highest
    return best, overlap


def _pairwise_iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of each box with the other one of its row, `(rows,)`."""
    sides = np.minimum(boxes[:, 2:], others[:, 2:]) - np.maximum(boxes[:, :2], others[:, :2])
    intersection = np.maximum(sides, 0).prod(axis=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) + (others[:, 2:] - others[:, :2]).prod(axis=1)
    return intersection / (areas - intersection)


def _area_under_curve(is_correct: np.ndarray, num_annotated: int) -> float:
    """Average precision, 0 to 1, of detections in the order of their scores: the mean over the annotated boxes of the
    highest precision at or beyond their recall, 0 for a box that is not found."""
    hits = np.flatnonzero(is_correct)
    precision = np.arange(1, len(hits) + 1) / (hits + 1)
    envelope = np.maximum.accumulate(precision[::-1])
    return float(envelope.sum() / num_annotated)
