"""Action recognition by the protocol of UMT (arXiv 2303.16058, section 4): each video once, in several views.

The scores of a video are the mean over its views of the softmax of the logits, in float64. The metrics are top-1,
top-5, per-class accuracy and the confusion matrix over videos. Each video is decoded once for all its views, and views
of several videos share a batch, so that batches are full.

Unusual: videos, not views, are sharded across processes, and processes synchronise only at the end, so no samples are
repeated for padding. Scores are saved as they are computed, and an interrupted evaluation resumes from them, also with
another number of processes. A video that can't be read has no score and is not counted, as in the official
evaluation, but it is reported. Two videos with the same base name stay separate; the official merging confuses them.
"""

import collections
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import datasets
import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from transformers import BaseVideoProcessor, PreTrainedModel

from processing_umt import fold_views

from ..data.batching import batches
from .classification_metrics import ConfusionMatrix, PerClassAccuracy, TopKAccuracy
from .clips import SkippedVideo, VideoViewDataset, no_readable_video, normalize_clips, read_clips, view_shape
from .computation import autocast, dtype_name, evaluation_mode
from .label_matching import match_labels
from .partial_scores import PartialScores, fingerprint, score_dtype, video_keys


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
    names = _video_names(records)
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

    state = PartialState(cpu=model.device.type == "cpu")
    partial, earlier = None, np.empty(0, score_dtype(model.config.num_labels))
    keys = np.zeros(len(names), np.uint64)
    if partial_folder is not None:
        partial = PartialScores(Path(partial_folder), fingerprint(model, processor, protocol, names))
        keys = video_keys(records, names)
        if state.is_local_main_process:
            earlier = partial.read(earlier.dtype, keys)
    # The folder may be shared between machines. No process writes before all have read.
    done = np.unique(np.concatenate(gather_object([earlier["index"]])))
    rows = np.setdiff1d(np.arange(len(names)), done)[state.process_index :: state.num_processes]

    dataset = VideoViewDataset(records.select_columns("video"), rows, names, processor, options, shape)
    file = partial.open(state.process_index) if partial else None
    try:
        with evaluation_mode(model):
            scores, broken = _score_videos(model, dataset, batch_size, num_workers, autocast_dtype, file, keys)
    finally:
        if file is not None:
            file.close()

    parts = gather_object([(np.concatenate([earlier, scores]), broken)])
    merged = np.concatenate([part for part, _ in parts])
    scored, first = np.unique(merged["index"], return_index=True)
    skipped = sorted((row, error) for _, errors in parts for row, error in errors)
    skipped = [SkippedVideo(names[row], *error) for row, error in skipped]
    if len(scored) == 0:
        raise no_readable_video(skipped)
    probabilities, labels = merged["probabilities"][first], labels[scored]
    results: dict[str, Any] = {"top5": None}
    for metric in (TopKAccuracy, PerClassAccuracy, ConfusionMatrix):
        results |= metric().compute(predictions=probabilities, references=labels)
    return ClassificationScores(
        **results,
        videos=[names[row] for row in scored],
        labels=labels,
        probabilities=probabilities,
        skipped=skipped,
        num_resumed=len(done),
        protocol=protocol,
        partial_folder=partial.folder if partial else None,
    )


def _video_names(records: datasets.Dataset) -> list[str]:
    """Paths of the videos, or "record" and the row where a video has no path. Bytes are not loaded."""
    videos = records.select_columns("video").flatten()
    column = next((name for name in ("video", "video.path") if name in videos.column_names), None)
    paths = [None] * len(records)
    if column and isinstance(videos.features[column], datasets.Value) and "string" in videos.features[column].dtype:
        paths = list(videos[column])
    return [path or f"record {row}" for row, path in enumerate(paths)]


def _score_videos(
    model: PreTrainedModel,
    dataset: VideoViewDataset,
    batch_size: int,
    num_workers: int,
    autocast_dtype: torch.dtype | None,
    file: BinaryIO | None,
    keys: np.ndarray,
) -> tuple[np.ndarray, list[tuple[int, tuple[str, str]]]]:
    """Scores the videos of this process and writes each score to `file` at once.

    Returns:
        records of `score_dtype`, `(scored videos,)`; row, reason and message of each video that can't be read.
    """
    scores, broken, num_scored = np.empty(len(dataset), score_dtype(model.config.num_labels)), [], 0
    with read_clips(dataset, num_workers, "evaluate") as videos:
        views = _readable(videos, broken)
        for row, probabilities in _score_views(model, dataset, views, batch_size, autocast_dtype):
            if not np.isfinite(probabilities).all():
                raise ValueError(
                    f"{dataset.names[row]}: the model's logits are not finite in {autocast_dtype or model.dtype}. "
                    "Evaluate in bfloat16 or float32, or check the weights."
                )
            scores[num_scored] = row, keys[row], probabilities
            if file is not None:
                file.write(scores[num_scored].tobytes())
                file.flush()
            num_scored += 1
    return scores[:num_scored], broken


def _readable(
    videos: Iterable[tuple[int, torch.Tensor | tuple[str, str]]], broken: list[tuple[int, tuple[str, str]]]
) -> Iterator[tuple[int, torch.Tensor]]:
    """Single views with the row of their video; videos that can't be read are appended to `broken`."""
    for row, views in videos:
        if isinstance(views, torch.Tensor):
            for view in views:
                yield row, view
        else:
            broken.append((row, views))


def _score_views(
    model: PreTrainedModel,
    dataset: VideoViewDataset,
    views: Iterator[tuple[int, torch.Tensor]],
    batch_size: int,
    autocast_dtype: torch.dtype | None,
) -> Iterator[tuple[int, np.ndarray]]:
    """(row, probabilities float64 `(classes,)`) of each video as soon as all its views are computed."""
    num_views = dataset.shape[0]
    logits_of = collections.defaultdict(list)
    for batch in batches(views, batch_size):
        pixels = torch.stack([view for _, view in batch]).to(model.device)
        pixels = normalize_clips(dataset.processor, pixels)
        with torch.no_grad(), autocast(model, autocast_dtype):
            logits = model(pixel_values_videos=pixels.to(model.dtype)).logits
        for (row, _), view_logits in zip(batch, logits.double().cpu(), strict=True):
            logits_of[row].append(view_logits)
            if len(logits_of[row]) == num_views:
                yield row, fold_views(torch.stack(logits_of.pop(row)), num_views)[0].numpy()
