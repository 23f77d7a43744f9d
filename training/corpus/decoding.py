"""Decodes videos in worker processes, one clip or window of a video at a time, so that a long video is never in memory
entirely."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from processing_umt import VideoDecodeError

from ..data.batching import batches, identity_collate

_MESSAGE_BYTES, _MOST_ROWS = 16 << 20, 16
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
    videos: Sequence[str],
    read: ReadVideo,
    num_workers: int,
    rows_per_message: int = 1,
    start_method: str | None = None,
) -> Iterator[DecodedRow]:
    """The rows of videos. Each video is read by a single worker, and its rows are in order; those of other videos may
    be between them. If each video has one row, the rows are in the order of the videos.

    Args:
        videos: paths and URLs.
        read: can be pickled.
        num_workers: worker processes; 0 decodes in this process.
        rows_per_message: largest number of rows that a worker sends at once.
        start_method: how `multiprocessing` starts the workers; default: that of the platform.
    """
    num_workers = min(num_workers, len(videos))
    if num_workers == 0:
        for index, video in enumerate(videos):
            yield from _decode(index, video, read)
        return
    # every worker has several blocks, so that they end at about the same time
    size = max(1, min(rows_per_message, len(videos) // (4 * num_workers)))
    loader = DataLoader(
        _MessageStream(videos, read, size),
        batch_size=None,
        num_workers=num_workers,
        multiprocessing_context=start_method,
        collate_fn=identity_collate,
        generator=torch.Generator(),  # seeds the workers; by default the global generator would
    )
    for rows, arrays in loader:
        yield from _unpack(rows, arrays)


def rows_per_message(num_values: int) -> int:
    """The rows of one message of about 16 MiB at most.

    Args:
        num_values: numbers of a row, float32.
    """
    return max(1, min(_MOST_ROWS, _MESSAGE_BYTES // (4 * num_values)))


class _MessageStream(IterableDataset):
    """Blocks of consecutive videos, shared by the workers in turn; rows of a block are sent together."""

    def __init__(self, videos: Sequence[str], read: ReadVideo, size: int):
        self.videos, self.read, self.size = videos, read, size

    def __iter__(self) -> Iterator[tuple[list[DecodedRow], list[np.ndarray]]]:
        worker = get_worker_info()
        for start in range(worker.id * self.size, len(self.videos), worker.num_workers * self.size):
            block = range(start, min(start + self.size, len(self.videos)))
            rows = (row for index in block for row in _decode(index, self.videos[index], self.read))
            for group in batches(rows, self.size):
                yield _pack(group)


def _pack(rows: list[DecodedRow]) -> tuple[list[DecodedRow], list[np.ndarray]]:
    """Rows with the number of their views in place of these, and the views, in one array if they are of one shape.

    Unusual: arrays, which are sent through a pipe. Tensors are sent in shared memory, which containers limit; where it
    is full, a message is lost, and the process that expects it waits forever.
    """
    tensors = [row.views for row in rows if row.views is not None]
    if len({views.shape[1:] for views in tensors}) == 1:
        tensors = [torch.cat(tensors)]
    counted = [row._replace(views=None if row.views is None else len(row.views)) for row in rows]
    return counted, [views.numpy() for views in tensors]


def _unpack(rows: list[DecodedRow], arrays: list[np.ndarray]) -> Iterator[DecodedRow]:
    tensors = [torch.from_numpy(views) for views in arrays]
    counts = [row.views for row in rows if row.views is not None]
    views = iter(tensors[0].split(counts) if len(tensors) == 1 else tensors)
    for row in rows:
        yield row._replace(views=None if row.views is None else next(views))


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
