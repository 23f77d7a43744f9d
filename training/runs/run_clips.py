"""Clips of a run from a recipe: for training from a table or a stream, for evaluation with nothing drawn.

The data side of UMT (arXiv 2303.16058, sections 3.2, 3.3 and 4.2) that its kinds of runs share; what is augmented how,
each says for itself. Unusual: clips to evaluate are made by the processor that is saved with the model, so that scores
during training are those of the model that users load.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import datasets
import numpy as np
import torch
from transformers import TrainingArguments

from modeling_umt import UMTConfig
from processing_umt import UMTVideoProcessor
from processing_umt.frame_sampling_umt import sample_clips

from ..data.video_dataset import VideoClipDataset
from ..data.video_stream import StreamedClipDataset


def data_seed(args: TrainingArguments) -> int:
    """What order, frames and augmentation are drawn by."""
    return args.seed if args.data_seed is None else args.data_seed


def training_crop(config: UMTConfig) -> int:
    """The side of training crops, in pixels.

    Raises:
        ValueError: `image_size` is a height and a width.
    """
    if not isinstance(config.image_size, int):
        raise ValueError(f"Training crops are square, but `image_size` is {config.image_size}; give one number.")
    return config.image_size


def training_clips(
    records: Sequence[dict[str, Any]] | datasets.IterableDataset,
    args: TrainingArguments,
    samples_per_epoch: int,
    **options,
) -> VideoClipDataset | StreamedClipDataset:
    """Clips of a table, or this process's share of a stream.

    Args:
        samples_per_epoch: of a stream, which does not tell its length.
        options: what both data sets take.
    """
    if hasattr(records, "__len__"):
        return VideoClipDataset(records, **options)
    return StreamedClipDataset(
        records,
        samples_per_epoch=samples_per_epoch,
        batch_size=args.train_batch_size,
        process_index=args.process_index,
        num_processes=args.world_size,
        **options,
    )


def evaluation_clips(
    records: Sequence[dict[str, Any]],
    num_frames: int,
    processor: UMTVideoProcessor,
    sampling: str = "middle",
    seed: int = 0,
) -> VideoClipDataset:
    """Single centre views of videos as the processor makes them; `seed` only chooses what replaces a broken one."""
    return VideoClipDataset(
        records,
        num_frames=num_frames,
        sample_frames=partial(evaluation_frames, sampling=sampling),
        transform=partial(evaluation_view, processor=processor),
        seed=seed,
    )


def evaluation_frames(num_video_frames: int, num_frames: int, generator: np.random.Generator, sampling: str):
    """The frames of a single test view; nothing is drawn."""
    return sample_clips(num_video_frames, num_frames, sampling=sampling)[0]


def evaluation_view(frames: np.ndarray, generator: np.random.Generator, processor: UMTVideoProcessor) -> torch.Tensor:
    """The centre crop of a clip (T, C, H, W), normalised; nothing is drawn."""
    return processor(frames, return_tensors="pt")["pixel_values_videos"][0]
