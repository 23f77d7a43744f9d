"""Action recognition by the protocol of UMT (arXiv 2303.16058, section 4): each video once, in several views.

The scores of a video are the mean over its views of the softmax of the logits, in float64. The metrics are top-1,
top-5, per-class accuracy and the confusion matrix over videos. Each video is decoded once for all its views, and views
of several videos share a batch, so that batches are full.

Unusual: videos, not views, are sharded across processes, and processes synchronise only at the end, so no samples are
repeated for padding. Scores are saved as they are computed, and an interrupted evaluation resumes from them, also with
another number of processes; with the same number and batch size, the scores are those of an uninterrupted one, bit for
bit. A video that can't be read has no score and is not counted, as in the official
evaluation, but it is reported. Two videos with the same base name stay separate; the official merging confuses them.
"""

import collections
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from accelerate.utils import gather_object
from transformers import BaseVideoProcessor, PreTrainedModel

from processing_umt import fold_views

from ..processes import join_processes
from .classification_metrics import ConfusionMatrix, PerClassAccuracy, TopKAccuracy
from .clips import (
    SkippedVideo,
    VideoViewDataset,
    batches_in_place,
    no_readable_video,
    normalize_clips,
    read_clips,
    video_names,
    view_shape,
)
from .computation import autocast, dtype_name, evaluation_mode
from .label_matching import match_labels
from .partial_scores import PartialScores


@dataclass
class ClassificationScores:
    """Results of `evaluate_classifier`, the same in every process. Accuracies are percentages of the scored videos."""

    top1: float
    top5: float | None
    """None with five classes or fewer, where it would be 100 % for any model."""
    mean_class_accuracy: float
    """Mean of `per_class_accuracy` over the classes that have videos."""
    per_class_accuracy: list[float | None]
    """`(classes,)`; None for a class without videos."""
    confusion_matrix: np.ndarray
    """int64 `(classes, classes)`: number of videos of the row's class that were predicted as the column's."""
    videos: list[str]
    """Names of the scored videos, in the order of the table."""
    rows: np.ndarray
    """int64 `(videos,)`, their rows in the table."""
    labels: np.ndarray
    """int64 `(videos,)`, class indices of the model."""
    probabilities: np.ndarray
    """float64 `(videos, classes)`, mean softmax over the views."""
    skipped: list[SkippedVideo]
    num_resumed: int
    """Number of scored videos whose scores come from an earlier, interrupted evaluation."""
    protocol: dict[str, Any]
    """Settings: frames, clips, crops, sampling, frame_stride, resize_kernel, size, resolution, dtype."""
    partial_folder: Path | None
    """Folder of the saved scores; to be removed once the results are written."""


def evaluate_classifier(
    model: PreTrainedModel,
    processor: BaseVideoProcessor,
    records: datasets.Dataset,
    *,
    num_clips: int = 4,
    num_crops: int = 3,
    sampling: str | None = None,
    resize_kernel: str = "opencv_bilinear",
    batch_size: int = 16,
    num_workers: int = 4,
    autocast_dtype: torch.dtype | None = None,
    partial_folder: Path | None = None,
) -> ClassificationScores:
    """Scores a classifier on labelled videos. Under `accelerate launch` or `torchrun` every process must call it.

    Processes that finish early wait for the slowest one; the timeout of the process group must allow for that.
    A process holds the views of `2 * num_workers` videos, one batch, and finally all scores, 8 bytes per video and
    class.

    Args:
        model: a classifier with one label per video, on its device; its mode is restored.
        processor: a `UMTVideoProcessor`; its saved options apply unless given here.
        records: the table that `load_video_records` returns, with `video` and `label`; see `match_labels`.
        num_clips, num_crops: temporal and spatial views of a video.
        sampling: frame sampling; default: the processor's. "segments", for Something-Something, has at most two clips.
        resize_kernel: "opencv_bilinear" as in the official evaluation, "antialias" or "bicubic_no_antialias".
        batch_size: views per batch, in each process.
        num_workers: decoding processes for each process of the evaluation; 0 decodes in the evaluating process.
        autocast_dtype: the official evaluation uses float16; default: the model's own data type, without autocast.
        partial_folder: scores are saved here as they are computed, in a sub-folder named by a hash of weights,
            processor, protocol and names of the videos. A later call with the same hash resumes from them and retries
            the videos that could not be read or whose files have changed. Default: scores are in memory only.

    Raises:
        ValueError: before decoding, for labels that do not match the model's classes (`match_labels`), options that do
            not go together, a multi-label model or an empty table; later, for logits that are not finite, views of
            different sizes, or if none of the videos can be read.
    """
    if batch_size < 1 or num_workers < 0:
        raise ValueError(f"batch_size is {batch_size} and num_workers {num_workers}; expected at least 1 and 0.")
    if model.config.problem_type == "multi_label_classification":
        raise ValueError("The model predicts several labels per video; accuracy is defined for one label per video.")
    labels = match_labels(records, model.config)
    names = video_names(records)
    options = {
        "num_clips": num_clips,
        "num_crops": num_crops,
        "sampling": sampling or processor.sampling,
        "resize_kernel": resize_kernel,
    }
    shape = view_shape(processor, options)  # (views, frames, channels, height, width)
    protocol = {
        "frames": shape[1],
        "clips": num_clips,
        "crops": num_crops,
        "sampling": options["sampling"],
        "frame_stride": processor.frame_stride,
        "resize_kernel": resize_kernel,
        "size": {name: side for name, side in dict(processor.size).items() if side is not None},
        "resolution": list(shape[-2:]),
        "dtype": dtype_name(model, autocast_dtype),
    }

    state = join_processes(model.device)
    partial = PartialScores(
        partial_folder, records, names, model.config.num_labels, model, processor, {"protocol": protocol}
    )
    earlier = partial.read()
    rows = range(state.process_index, len(names), state.num_processes)
    remaining = np.array([row for row in rows if row not in earlier], np.int64)
    dataset = VideoViewDataset(records.select_columns("video"), remaining, names, processor, options, shape)
    with evaluation_mode(model):
        found, broken = _score_videos(model, dataset, rows, batch_size, num_workers, autocast_dtype, partial)

    parts = gather_object([(found, broken)])
    found = earlier | {row: scores for part, _ in parts for row, scores in part.items()}
    scored = sorted(found)
    skipped = sorted((row, error) for _, errors in parts for row, error in errors)
    skipped = [SkippedVideo(names[row], *error) for row, error in skipped]
    if not scored:
        raise no_readable_video(skipped)
    probabilities, labels = np.stack([found[row] for row in scored]), labels[scored]
    results: dict[str, Any] = {"top5": None}
    for metric in (TopKAccuracy, PerClassAccuracy, ConfusionMatrix):
        results |= metric().compute(predictions=probabilities, references=labels)
    return ClassificationScores(
        **results,
        videos=[names[row] for row in scored],
        rows=np.array(scored),
        labels=labels,
        probabilities=probabilities,
        skipped=skipped,
        num_resumed=len(earlier),
        protocol=protocol,
        partial_folder=partial.folder,
    )


def _score_videos(
    model: PreTrainedModel,
    dataset: VideoViewDataset,
    rows: range,
    batch_size: int,
    num_workers: int,
    autocast_dtype: torch.dtype | None,
    partial: PartialScores,
) -> tuple[dict[int, np.ndarray], list[tuple[int, tuple[str, str]]]]:
    """Scores the videos of `dataset`, some of the rows of this process, and saves each score at once.

    Returns:
        row → probabilities, float64 `(classes,)`; row, reason and message of each video that can't be read.
    """
    found, broken = {}, []
    with read_clips(dataset, num_workers, "evaluate") as videos:
        views = _readable(videos, broken)
        for row, probabilities in _score_views(model, dataset, views, rows, batch_size, autocast_dtype):
            if not np.isfinite(probabilities).all():
                raise ValueError(
                    f"{dataset.names[row]}: the model's logits are not finite in {autocast_dtype or model.dtype}. "
                    "Evaluate in bfloat16 or float32, or check the weights."
                )
            partial.write(row, probabilities)
            found[row] = probabilities
    return found, broken


def _readable(
    videos: Iterable[tuple[int, torch.Tensor | tuple[str, str]]], broken: list[tuple[int, tuple[str, str]]]
) -> Iterator[tuple[int, torch.Tensor]]:
    """Row and views of the videos that can be read; the others are appended to `broken`."""
    for row, views in videos:
        if isinstance(views, torch.Tensor):
            yield row, views
        else:
            broken.append((row, views))


def _score_views(
    model: PreTrainedModel,
    dataset: VideoViewDataset,
    videos: Iterator[tuple[int, torch.Tensor]],
    rows: range,
    batch_size: int,
    autocast_dtype: torch.dtype | None,
) -> Iterator[tuple[int, np.ndarray]]:
    """(row, probabilities float64 `(classes,)`) of each video as soon as all its views are computed."""
    num_views = dataset.shape[0]
    logits_of = collections.defaultdict(list)
    views = ((rows.index(row) * num_views + index, view) for row, views in videos for index, view in enumerate(views))
    for numbers, batch in batches_in_place(views, batch_size, len(rows) * num_views):
        pixels = normalize_clips(dataset.processor, batch.to(model.device))
        with torch.no_grad(), autocast(model, autocast_dtype):
            logits = model(pixel_values_videos=pixels.to(model.dtype)).logits
        for number, view_logits in zip(numbers, logits.double().cpu(), strict=True):
            if number is None:
                continue
            row = rows[number // num_views]
            logits_of[row].append(view_logits)
            if len(logits_of[row]) == num_views:
                yield row, fold_views(torch.stack(logits_of.pop(row)), num_views)[0].numpy()
