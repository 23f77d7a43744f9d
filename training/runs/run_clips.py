"""Training and evaluation clips of runs from recipes (arXiv 2303.16058, sections 3.2, 3.3 and 4.2).

Each run defines its own augmentation. Unusual: evaluation clips are made by the processor that is saved with the
model, so that scores during training are those of the model that users load.
"""

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from transformers import TrainingArguments

from modeling_umt import UMTConfig
from processing_umt import UMTVideoProcessor
from processing_umt.frame_sampling_umt import RULES_WITH_STRIDE, SAMPLING_RULES, sample_clips

from ..data.video_dataset import VideoClipDataset
from ..data.video_records import load_video_records
from ..data.video_stream import StreamedClipDataset


def data_seed(args: TrainingArguments) -> int:
    """The seed of order, frame sampling and augmentation."""
    return args.seed if args.data_seed is None else args.data_seed


def training_crop(config: UMTConfig) -> int:
    """The side of training crops, in pixels.

    Raises:
        ValueError: `image_size` is a height and a width.
    """
    if not isinstance(config.image_size, int):
        raise ValueError(f"Training crops are square, but `image_size` is {config.image_size}; give one number.")
    return config.image_size


def check_sampling(frame_stride: int | None, **rules: str | None) -> None:
    """Check the frame sampling of a run, before anything is loaded.

    Args:
        frame_stride: The stride of the rules that have one; None if it is not given.
        rules: Keys of the recipe, and the rules that they name; None for a key that is not given.

    Raises:
        ValueError: a rule is unknown or lacks its stride, or the stride has no effect.
    """
    rules = {key: rule for key, rule in rules.items() if rule is not None}
    for key, rule in rules.items():
        if rule not in SAMPLING_RULES:
            raise ValueError(f"`{key}` must be one of {', '.join(SAMPLING_RULES)}, but is {rule!r}.")
        if rule in RULES_WITH_STRIDE and frame_stride is None:
            raise ValueError(
                f"`{key}` is {rule!r}, which needs `frame_stride`, the distance between the frames of a clip."
            )
    if frame_stride is not None and not set(rules.values()) & set(RULES_WITH_STRIDE):
        given = " and ".join(f"`{key}` is {rule!r}" for key, rule in rules.items())
        raise ValueError(f"`frame_stride` is {frame_stride}, but {given}, without a stride; leave it out.")


def unlabelled_records(run: Any) -> Sequence[dict[str, Any]] | datasets.IterableDataset:
    """The videos of a pre-training run without labels, a table or a stream.

    Args:
        run: Its keys `data`, `data_root` and `streaming`; see `PreTrainingRun`.
    """
    return load_video_records(run.data, root=run.data_root, with_labels=False, streaming=run.streaming, reads=())


def clips_per_epoch(run: Any) -> int:
    """Clips in an epoch of an estimate: those of `data`, or `samples_per_epoch` without data or for a stream."""
    records = None if run.data is None else unlabelled_records(run)
    return len(records) if hasattr(records, "__len__") else run.samples_per_epoch


def training_clips(
    records: Sequence[dict[str, Any]] | datasets.IterableDataset,
    args: TrainingArguments,
    samples_per_epoch: int,
    *,
    num_frames: int,
    sample_frames: Callable[..., np.ndarray],
    transform: Callable[[np.ndarray, np.random.Generator], torch.Tensor],
    seed: int,
    images: bool = False,
) -> VideoClipDataset | StreamedClipDataset:
    """Clips of a table, or of this process's part of a stream.

    Args:
        records: What `load_video_records` or `load_captioned_records` returns.
        args: Batch size, accumulation and processes are read by streams only.
        samples_per_epoch: Clips in an epoch of a stream, whose length is unknown.
        num_frames, sample_frames, transform, seed, images: See `VideoClipDataset`.
    """
    options = {"num_frames": num_frames, "sample_frames": sample_frames, "transform": transform}
    options |= {"seed": seed, "images": images}
    if hasattr(records, "__len__"):
        return VideoClipDataset(records, **options)
    return StreamedClipDataset(
        records,
        samples_per_epoch=samples_per_epoch,
        batch_size=args.train_batch_size,
        gradient_accumulation_steps=args.gradient_accumulation_steps,
        process_index=args.process_index,
        num_processes=args.world_size,
        **options,
    )


def evaluation_clips(
    records: Sequence[dict[str, Any]],
    num_frames: int,
    processor: UMTVideoProcessor,
    seed: int = 0,
) -> VideoClipDataset:
    """The centre view of each video, made by the processor; `seed` only selects the replacement of a broken video."""
    return VideoClipDataset(
        records,
        num_frames=num_frames,
        sample_frames=partial(evaluation_frames, sampling=processor.sampling, frame_stride=processor.frame_stride),
        transform=partial(evaluation_view, processor=processor),
        seed=seed,
    )


def evaluation_frames(
    num_video_frames: int, num_frames: int, generator: np.random.Generator, sampling: str, frame_stride: int
) -> np.ndarray:
    """The frame indices of a single test view; the generator is not used."""
    return sample_clips(num_video_frames, num_frames, sampling=sampling, frame_stride=frame_stride)[0]


def evaluation_view(frames: np.ndarray, generator: np.random.Generator, processor: UMTVideoProcessor) -> torch.Tensor:
    """The centre crop of a clip (T, C, H, W), normalised; the generator is not used."""
    return processor(frames, return_tensors="pt")["pixel_values_videos"][0]


def describe_evaluation_data(data: str, split: str | None, fraction: float = 0.0) -> str:
    """The evaluation data in words, for the model card; a local path is reduced to its base name.

    Args:
        data: Source of the evaluation data.
        split: Its split, if it has splits.
        fraction: Held-out fraction of the training data, if that is the evaluation data.
    """
    name = Path(data).resolve().name if os.path.exists(data) or os.path.isabs(data) else data
    if split:
        return f"{name}, split {split}"
    return f"{name}, a held-out fraction of {fraction:g}" if fraction else name
