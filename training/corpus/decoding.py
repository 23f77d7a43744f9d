"""Decodes videos in worker processes, one clip or window of a video at a time, so that a long video is never in memory
entirely."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from processing_umt import VideoDecodeError

from ..data.batching import identity_collate

Span = tuple[float | None, float | None]  # seconds from the first frame
# of a video: for each row of the results its span and its views, (views, frames, channels, height, width)
ReadVideo = Callable[[str], Iterable[tuple[Span, torch.Tensor]]]


class DecodedRow(NamedTuple):
    """A row of a video, or the end of a video without one.

    Args:
        index: of the video in the list.
        span: start and end in seconds; None without a row.
        views: `(views, frames, channels, height, width)`; None without a row.
        is_last: whether nothing of the video follows.
        error: of the last item of a broken video.
    """

    index: int
    span: Span | None
    views: torch.Tensor | None
    is_last: bool
    error: VideoDecodeError | None


def decode_videos(
    videos: Sequence[str], read: ReadVideo, num_workers: int, start_method: str | None = None
) -> Iterator[DecodedRow]:
    """The rows of videos. Each video is read by a single worker, and its rows are in order; those of other videos may
    be between them. If each video has one row, the rows are in the order of the videos.

    Args:
        videos: paths and URLs.
        read: can be pickled.
        num_workers: worker processes; 0 decodes in this process.
        start_method: how `multiprocessing` starts them; default: that of the platform.
    """
    num_workers = min(num_workers, len(videos))
    loader = DataLoader(
        _VideoStream(videos, read),
        batch_size=None,
        num_workers=num_workers,
        multiprocessing_context=start_method if num_workers else None,
        collate_fn=identity_collate,
        generator=torch.Generator(),  # seeds the workers; by default the global generator would
    )
    return iter(loader)


class _VideoStream(IterableDataset):
    def __init__(self, videos: Sequence[str], read: ReadVideo):
        self.videos, self.read = videos, read

    def __iter__(self) -> Iterator[DecodedRow]:
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for index in range(first, len(self.videos), step):
            yield from _decode(index, self.videos[index], self.read)


def _decode(index: int, video: str, read: ReadVideo) -> Iterator[DecodedRow]:
    """The rows of a video, each of them held back until it is known whether it is the last one."""
    held, error = (None, None), None
    try:
        for span, views in read(video):
            if held[0] is not None:
                yield DecodedRow(index, *held, is_last=False, error=None)
            held = (span, views)
    except VideoDecodeError as broken:
        error = broken
    yield DecodedRow(index, *held, is_last=True, error=error)
