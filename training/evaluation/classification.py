"""Action recognition scored to the protocol of UMT (arXiv 2303.16058, section 4): every video once, from many views.

Softmax of every view's logits and their mean over the views of a video, in float64; then top-1, top-5, accuracy by
class and the confusion matrix over videos. Each video is decoded once for all its views, by data-loading workers, and
travels as uint8 until it is on the model's device; views of several videos share a batch, so that batches are full.

What is unusual: videos, not views, are dealt out to the processes, and no process waits for another before the end, so
nothing has to be filled up with repeated samples. Scores are written down as they come and found again after a crash,
also by another number of processes. A video that cannot be read has no score and is not counted, as in the official
evaluation, but it is named here. Two videos of equal base name stay two, which the official merging takes for one.
"""

import collections
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import datasets
import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import BaseVideoProcessor, PreTrainedConfig, PreTrainedModel

from processing_umt import VideoDecodeError, fold_views

from ..data.batching import batches
from ..data.video_dataset import open_video
from .metrics import ConfusionMatrix, PerClassAccuracy, TopKAccuracy

_NUM_LISTED = 8


class SkippedVideo(NamedTuple):
    """A video that could not be read: its name, the reason (see `VideoDecodeError`), and the whole message."""

    video: str
    reason: str
    message: str


@dataclass
class ClassificationScores:
    """What `evaluate_classifier` returns, the same in every process. Accuracies are percent of the scored videos."""

    top1: float
    top5: float
    mean_class_accuracy: float
    """Mean of `per_class_accuracy` over the classes that have videos."""
    per_class_accuracy: list[float | None]
    """`(classes,)`; None for a class without videos."""
    confusion_matrix: np.ndarray
    """int64 `(classes, classes)`: videos of the row's class that were taken for the column's."""
    videos: list[str]
    """Names of the scored videos, in the order of the table."""
    labels: np.ndarray
    """int64 `(videos,)`, in the numbers of the model."""
    probabilities: np.ndarray
    """float64 `(videos, classes)`, mean softmax over the views."""
    skipped: list[SkippedVideo]
    num_resumed: int
    """How many of the scored videos an earlier, interrupted start had done."""
    protocol: dict[str, Any]
    """How it was measured: frames, clips, crops, sampling, frame_stride, resize_kernel, size, resolution, dtype."""
    partial_folder: Path | None
    """Where the scores were written down; to be removed once the results are safe."""


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

    Processes that are done wait for the slowest one at the end; a process group with a short timeout ends that wait.
    A process holds the clips of `num_workers` times two videos, a batch, and at the end all scores: 8 bytes times
    videos times classes.

    Args:
        model: a classifier of one label per video, on its device; its mode is restored.
        processor: a `UMTVideoProcessor`; its saved options hold where none is given here.
        records: what `load_video_records` returns, a table with `video` and `label`; see `match_labels`.
        num_clips, num_crops: views of a video, in time and in space.
        sampling: which frames; default: the processor's. "segments", for Something-Something, has at most two clips.
        resize_kernel: "opencv_bilinear" as in the official evaluation, or "antialias", "bicubic_no_antialias".
        batch_size: views that pass the model at once, in each process.
        num_workers: processes that decode, for each process of the evaluation; 0 decodes in between.
        autocast_dtype: the official evaluation uses float16; default: the model's own type, without autocast.
        partial_folder: where scores are written down as they come, in a sub-folder named by what they depend on:
            weights, processor, protocol and the videos' names. A later call that agrees in all of these takes them
            from there. What could not be read is tried again. Default: scores are in memory only.

    Raises:
        ValueError: before anything is decoded, for labels that do not fit (`match_labels`), options that do not go
            together, a model of several labels per video or an empty table; later, for logits that are not finite,
            views of unequal sizes, or when not a single video can be read.
    """
    if batch_size < 1 or num_workers < 0:
        raise ValueError(f"batch_size is {batch_size} and num_workers {num_workers}; expected at least 1 and 0.")
    if model.config.problem_type == "multi_label_classification":
        raise ValueError("The model gives several labels to a video; accuracy is defined for one label per video.")
    labels = match_labels(records, model.config)
    names = _video_names(records)
    options = {
        "num_clips": num_clips,
        "num_crops": num_crops,
        "sampling": sampling or processor.sampling,
        "resize_kernel": resize_kernel,
    }
    view_shape = _view_shape(processor, options)  # (views, frames, channels, height, width)
    protocol = {
        "frames": view_shape[1],
        "clips": num_clips,
        "crops": num_crops,
        "sampling": options["sampling"],
        "frame_stride": processor.frame_stride,
        "resize_kernel": resize_kernel,
        "size": {name: side for name, side in dict(processor.size).items() if side is not None},
        "resolution": list(view_shape[-2:]),
        "dtype": str(autocast_dtype or model.dtype).removeprefix("torch."),
    }

    state = PartialState(cpu=model.device.type == "cpu")
    partial, earlier = None, np.empty(0, _score_dtype(model.config.num_labels))
    if partial_folder is not None:
        partial = _PartialScores(Path(partial_folder), _fingerprint(model, processor, protocol, names))
        if state.is_local_main_process:
            earlier = partial.read(earlier.dtype)
    # A folder may be shared between machines or not. No process writes before all have read.
    done = np.unique(np.concatenate(gather_object([earlier["index"]])))
    mine = np.setdiff1d(np.arange(len(names)), done)[state.process_index :: state.num_processes]

    dataset = _VideoViews(records.select_columns("video"), mine, names, processor, options, view_shape)
    file = partial.open(state.process_index) if partial else None
    was_training = model.training
    model.eval()
    try:
        scores, broken = _score_share(model, dataset, batch_size, num_workers, autocast_dtype, file)
    finally:
        model.train(was_training)
        if file is not None:
            file.close()

    parts = gather_object([(np.concatenate([earlier, scores]), broken)])
    merged = np.concatenate([part for part, _ in parts])
    scored, rows = np.unique(merged["index"], return_index=True)
    skipped = sorted((index, error) for _, errors in parts for index, error in errors)
    skipped = [SkippedVideo(names[index], *error) for index, error in skipped]
    if len(scored) == 0:
        listed = ", ".join(f"{video} ({reason})" for video, reason, _ in skipped[:_NUM_LISTED])
        raise ValueError(f"None of the {len(names)} videos can be read: {listed}. Check path and root of the data.")
    probabilities, labels = merged["probabilities"][rows], labels[scored]
    results: dict[str, Any] = {}
    for metric in (TopKAccuracy, PerClassAccuracy, ConfusionMatrix):
        results |= metric().compute(predictions=probabilities, references=labels)
    return ClassificationScores(
        **results,
        videos=[names[index] for index in scored],
        labels=labels,
        probabilities=probabilities,
        skipped=skipped,
        num_resumed=len(done),
        protocol=protocol,
        partial_folder=partial.folder if partial else None,
    )


def match_labels(records: datasets.Dataset, config: PreTrainedConfig) -> np.ndarray:
    """The labels of a table in the numbers of a model.

    Class names are looked up in `config.label2id`, so that the order of the classes in the data does not matter;
    integers without names are taken for the model's own numbers.

    Args:
        records: a table whose column `label` holds integers, `ClassLabel`s or class names.
        config: of a classifier.

    Returns:
        int64 `(videos,)`.

    Raises:
        ValueError: a stream, an empty table, no labels, names that the model does not know, or numbers that it has
            no class for.
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
        # classes that were only counted are called "0", "1", ...
        counted = feature.names == [str(number) for number in range(feature.num_classes)]
        if not counted or set(feature.names) <= config.label2id.keys():
            names = dict(enumerate(feature.names))
            labels = [names.get(label) for label in labels]  # -1 stands for no label
    absent = [row for row, label in enumerate(labels) if label is None]
    if absent:
        raise ValueError(f"{len(absent)} of {len(labels)} videos have no label, first that of row {absent[0]}.")

    unknown = sorted({label for label in labels if isinstance(label, str)} - config.label2id.keys())
    if unknown:
        raise ValueError(
            f"The data has {len(unknown)} class names that are none of the model's {config.num_labels}: "
            f"{_listed(unknown)}. The model knows {_listed(config.label2id)}. Rename the classes of the data, or give "
            "the labels as the model's numbers."
        )
    labels = [config.label2id[label] if isinstance(label, str) else label for label in labels]
    outside = sorted({label for label in labels if not 0 <= label < config.num_labels})
    if outside:
        row = next(row for row, label in enumerate(labels) if label in outside)
        raise ValueError(
            f"The data has {len(outside)} labels that are not from 0 to {config.num_labels - 1}, the model's classes: "
            f"{_listed(outside)}; first that of row {row}. Do model and data agree on the classes?"
        )
    return np.array(labels, dtype=np.int64)


def _listed(values: Iterable[Any]) -> str:
    values = list(values)
    return ", ".join(map(repr, values[:_NUM_LISTED])) + (" …" if len(values) > _NUM_LISTED else "")


def _video_names(records: datasets.Dataset) -> list[str]:
    """Paths of the videos, or the numbers of the rows where there are none. Bytes are not read for it."""
    videos = records.select_columns("video").flatten()
    column = next((name for name in ("video", "video.path") if name in videos.column_names), None)
    paths = [None] * len(records)
    if column and isinstance(videos.features[column], datasets.Value) and "string" in videos.features[column].dtype:
        paths = list(videos[column])
    return [path or f"record {row}" for row, path in enumerate(paths)]


def _view_shape(processor: BaseVideoProcessor, options: dict[str, Any]) -> tuple[int, ...]:
    """`(views, frames, channels, height, width)` of a video, from a black one: it also shows that options fit."""
    if not hasattr(processor, "num_clips"):
        raise ValueError(
            f"{type(processor).__name__} makes no views of a video; evaluation needs a UMTVideoProcessor."
        )
    frames = (processor.num_frames, processor.crop_size.height, processor.crop_size.width, 3)
    views = processor(np.zeros(frames, dtype=np.uint8), return_tensors="pt", **options)
    return tuple(views["pixel_values_videos"].shape)


class _VideoViews(torch.utils.data.Dataset):
    """Item `i`: the row of the `i`-th of `rows`, and its views, uint8 `(views, frames, channels, height, width)`, or
    the reason and message if it cannot be read."""

    def __init__(
        self,
        videos: datasets.Dataset,
        rows: np.ndarray,
        names: list[str],
        processor: BaseVideoProcessor,
        options: dict[str, Any],
        view_shape: tuple[int, ...],
    ):
        self.videos, self.rows, self.names, self.view_shape = videos, rows, names, view_shape
        self.processor = processor
        self.options = {**options, "on_error": "raise", "do_rescale": False, "do_normalize": False}

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, position: int) -> tuple[int, torch.Tensor | tuple[str, str]]:
        row = int(self.rows[position])
        try:
            video = open_video(self.videos[row]["video"])
            views = self.processor(video, return_tensors="pt", **self.options)["pixel_values_videos"]
        except VideoDecodeError as error:
            return row, (error.reason, str(error))
        if tuple(views.shape) != self.view_shape:
            raise ValueError(
                f"{self.names[row]} has views of shape {tuple(views.shape)}, others {self.view_shape}. Give the "
                "processor do_center_crop=True or a size of fixed height and width, and do_sample_frames=True."
            )
        return row, views


def _as_it_is(item: Any) -> Any:
    return item


def _score_share(
    model: PreTrainedModel,
    dataset: _VideoViews,
    batch_size: int,
    num_workers: int,
    autocast_dtype: torch.dtype | None,
    file: BinaryIO | None,
) -> tuple[np.ndarray, list[tuple[int, tuple[str, str]]]]:
    """Scores this process's videos, writing each to `file` at once.

    Returns:
        records of row and probabilities, `(scored videos,)`; row, reason and message of what could not be read.
    """
    loader = DataLoader(
        dataset,
        batch_size=None,
        num_workers=num_workers,
        collate_fn=_as_it_is,
        generator=torch.Generator(),  # of the workers' seeds, which would come from the global state
    )
    hidden = None if PartialState().is_main_process else True  # None: hidden where stderr is no terminal
    scores, broken, num_scored = np.empty(len(dataset), _score_dtype(model.config.num_labels)), [], 0
    with tqdm(loader, desc="evaluate", unit=" videos", delay=1, leave=False, disable=hidden) as videos:
        views = _readable(videos, broken)
        for row, probabilities in _score_views(model, dataset, views, batch_size, autocast_dtype):
            if not np.isfinite(probabilities).all():
                raise ValueError(
                    f"{dataset.names[row]}: the model's logits are not finite in {autocast_dtype or model.dtype}. "
                    "Evaluate in bfloat16 or float32, or check the weights."
                )
            scores[num_scored] = row, probabilities
            if file is not None:
                file.write(scores[num_scored].tobytes())
                file.flush()
            num_scored += 1
    return scores[:num_scored], broken


def _readable(
    videos: Iterable[tuple[int, torch.Tensor | tuple[str, str]]], broken: list[tuple[int, tuple[str, str]]]
) -> Iterator[tuple[int, torch.Tensor]]:
    """The views one by one, each with the row of its video; what could not be read goes to `broken`."""
    for row, views in videos:
        if isinstance(views, torch.Tensor):
            for view in views:
                yield row, view
        else:
            broken.append((row, views))


def _score_views(
    model: PreTrainedModel,
    dataset: _VideoViews,
    views: Iterator[tuple[int, torch.Tensor]],
    batch_size: int,
    autocast_dtype: torch.dtype | None,
) -> Iterator[tuple[int, np.ndarray]]:
    """(row, probabilities float64 `(classes,)`) of each video as soon as its last view has passed the model."""
    num_views = dataset.view_shape[0]
    normalization = {
        name: getattr(dataset.processor, name)
        for name in ("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")
    }
    logits_of = collections.defaultdict(list)
    for batch in batches(views, batch_size):
        pixels = torch.stack([view for _, view in batch]).to(model.device)
        pixels = dataset.processor.rescale_and_normalize(pixels, **normalization)
        with torch.no_grad(), torch.autocast(model.device.type, autocast_dtype, enabled=autocast_dtype is not None):
            logits = model(pixel_values_videos=pixels.to(model.dtype)).logits
        for (row, _), view_logits in zip(batch, logits.double().cpu(), strict=True):
            logits_of[row].append(view_logits)
            if len(logits_of[row]) == num_views:
                yield row, fold_views(torch.stack(logits_of.pop(row)), num_views)[0].numpy()


class _PartialScores:
    """Scores of finished videos on disk: files of records of fixed length, a new one for each start of a process, so
    that what was written once is never touched again."""

    def __init__(self, folder: Path, fingerprint: str):
        self.folder = folder / fingerprint

    def read(self, dtype: np.dtype) -> np.ndarray:
        """All records. A last one that was cut off is left out, and so is what a machine's crash left unwritten."""
        parts = [np.fromfile(path, dtype) for path in sorted(self.folder.glob("*.scores"))]
        records = np.concatenate([np.empty(0, dtype), *parts])
        return records[np.abs(records["probabilities"].sum(axis=1) - 1) < 1e-6]

    def open(self, process_index: int) -> BinaryIO:
        """A new file of this process."""
        self.folder.mkdir(parents=True, exist_ok=True)
        number = len(list(self.folder.glob(f"process{process_index}-*.scores")))
        return (self.folder / f"process{process_index}-{number}.scores").open("xb")


def _score_dtype(num_classes: int) -> np.dtype:
    return np.dtype([("index", "<i8"), ("probabilities", "<f8", (num_classes,))])


def _fingerprint(
    model: PreTrainedModel, processor: BaseVideoProcessor, protocol: dict[str, Any], names: list[str]
) -> str:
    """A hash of all that scores depend on, weights too, so that no two evaluations mix: seconds for a large model."""
    settings = [model.config.to_dict(), processor.to_dict(), protocol, names]
    digest = hashlib.blake2b(json.dumps(settings, sort_keys=True, default=str).encode(), digest_size=8)
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
