"""Vectors of the windows of videos, for `umt embed` and the index of `umt search`."""

from collections.abc import Iterator, Sequence

from transformers import BaseVideoProcessor, PreTrainedModel

from ..corpus.clip_vectors import clip_vectors
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
    reader = WindowReader(video_processor, window, stride)
    return process_videos(
        videos,
        reader,
        clip_vectors,
        model,
        batch_size=batch_size,
        num_workers=num_workers,
        parts=parts,
        start_method=start_method,
    )
