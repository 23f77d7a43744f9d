"""Vectors of the windows of videos, for `umt embed` and the index of `umt search`."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from transformers import BaseVideoProcessor, PreTrainedModel

from ..corpus.clip_vectors import clip_vectors
from ..corpus.decoding import rows_per_message
from ..corpus.engine import VideoOutputs, process_videos
from .windows import WindowReader


def window_vectors(
    videos: Sequence[str],
    model: PreTrainedModel,
    video_processor: BaseVideoProcessor,
    window: float | None,
    stride: float | None = None,
    *,
    batch_size: int = 4,
    num_workers: int = 0,
    parts: Sequence[int] | None = None,
    start_method: str | None = None,
) -> Iterator[VideoOutputs]:
    """Embeds the windows of videos. Workers decode window by window, and a batch contains windows of several videos.

    Args:
        videos: paths and URLs.
        model: see `clip_vectors`; on its device, in evaluation mode.
        video_processor: a `UMTVideoProcessor`.
        window: seconds; None is the entire video.
        stride: seconds between the starts of two windows; default: the window.
        batch_size: windows per batch.
        num_workers: decoding processes; 0 decodes in this process.
        parts, start_method: see `process_videos`.

    Yields:
        For each video, as soon as it is complete and in any order: its index, the spans of its windows, their vectors,
        float32 `(windows, dim)`, and the error of a broken video, of which the windows are those before the error.
    """
    size = video_processor.crop_size
    return process_videos(
        videos,
        WindowReader(video_processor, window, stride),
        clip_vectors,
        model,
        batch_size=batch_size,
        num_workers=num_workers,
        parts=parts,
        rows_per_message=rows_per_message(3 * video_processor.num_frames * size.height * size.width),
        start_method=start_method,
    )


def vector_dimension(model: PreTrainedModel, video_processor: BaseVideoProcessor) -> int:
    """The dimension of the vectors of a model, from a black clip."""
    height, width = video_processor.crop_size.height, video_processor.crop_size.width
    frames = np.zeros((video_processor.num_frames, height, width, 3), np.uint8)
    clip = video_processor(frames, num_clips=1, num_crops=1, return_tensors="pt")["pixel_values_videos"]
    with torch.inference_mode():
        return clip_vectors(model, clip.to(model.device, model.dtype)).shape[1]
