"""Runs a model on the clips of many videos: workers decode, and a batch contains clips of several videos."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from transformers import PreTrainedModel

from processing_umt import VideoDecodeError

from .decoding import DecodedRow, ReadVideo, Span, decode_videos

# float32 (clips, dim) of clips (clips, frames, channels, height, width), which are on the model's device
Step = Callable[[PreTrainedModel, torch.Tensor], torch.Tensor]
_SMALL_MODEL = 1_000_000  # parameters


@dataclass(frozen=True)
class VideoOutputs:
    """What a model computed for a video.

    Args:
        index: of the video in the list.
        spans: start and end of each row in seconds, in the order of time.
        outputs: float32 `(rows, dim)`, the mean over the views of each row; `(0, 0)` without rows.
        error: of a broken video; its rows are then those before the error.
    """

    index: int
    spans: list[Span]
    outputs: np.ndarray
    error: VideoDecodeError | None


def process_videos(
    videos: Sequence[str],
    read: ReadVideo,
    step: Step,
    model: PreTrainedModel,
    *,
    batch_size: int,
    num_workers: int,
    parts: Sequence[int] | None = None,
    rows_per_message: int = 1,
    start_method: str | None = None,
) -> Iterator[VideoOutputs]:
    """Runs a model on videos, with clips of several videos in a batch.

    Memory contains a batch, the clips that the workers hold ready, and the outputs of unfinished videos.

    Args:
        videos: paths and URLs.
        read: yields span and views of each row of a video; can be pickled.
        step: computes the outputs of a batch.
        model: on its device, in evaluation mode.
        batch_size: clips per batch.
        num_workers: decoding processes; 0 decodes in this process.
        parts: the part of each video, ascending. A batch ends with a part, so that where each video has one row, the
            outputs of a part are the same bit for bit, whichever other parts are computed.
        rows_per_message: see `decode_videos`.
        start_method: of the decoding processes, see `decode_videos`.

    Yields:
        The outputs of each video as soon as they are complete, in any order.
    """
    parts = [0] * len(videos) if parts is None else parts
    num_unread = Counter(parts)
    batch = _Batch(step, model)
    unfinished: dict[int, _Video] = {}
    with _threads_of(model):
        for item in decode_videos(videos, read, num_workers, rows_per_message, start_method):
            video = unfinished.setdefault(item.index, _Video(item.index))
            for row, clip in video.add(item):
                if not batch.fits(clip):
                    batch.compute()
                batch.add(row, clip)
                if len(batch) == batch_size:
                    batch.compute()
            if item.is_last:
                num_unread[parts[item.index]] -= 1
                if num_unread[parts[item.index]] == 0:
                    batch.compute()
            for index in [index for index, video in unfinished.items() if video.is_complete]:
                yield unfinished.pop(index).outputs()


@contextmanager
def _threads_of(model: PreTrainedModel) -> Iterator[None]:
    """One thread for a small model: its operations are shorter than the start of other threads, which would wait for
    the cores that the workers use."""
    before = torch.get_num_threads()
    if sum(parameter.numel() for parameter in model.parameters()) < _SMALL_MODEL:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass
class _Row:
    span: Span
    num_views: int
    views: list[np.ndarray] = field(default_factory=list)


@dataclass
class _Video:
    index: int
    rows: list[_Row] = field(default_factory=list)
    is_read: bool = False
    error: VideoDecodeError | None = None

    def add(self, item: DecodedRow) -> list[tuple[_Row, torch.Tensor]]:
        """Adds a decoded row, and returns its clips."""
        self.is_read, self.error = item.is_last, item.error
        if item.views is None:
            return []
        row = _Row(item.span, len(item.views))
        self.rows.append(row)
        return [(row, view) for view in item.views]

    @property
    def is_complete(self) -> bool:
        return self.is_read and all(len(row.views) == row.num_views for row in reversed(self.rows))

    def outputs(self) -> VideoOutputs:
        means = [np.mean(row.views, axis=0) if row.num_views > 1 else row.views[0] for row in self.rows]
        outputs = np.stack(means) if means else np.empty((0, 0), np.float32)
        return VideoOutputs(self.index, [row.span for row in self.rows], outputs, self.error)


class _Batch:
    """Clips of one shape that wait for the model."""

    def __init__(self, step: Step, model: PreTrainedModel):
        self.step, self.model = step, model
        self.waiting: list[tuple[_Row, torch.Tensor]] = []

    def __len__(self) -> int:
        return len(self.waiting)

    def fits(self, clip: torch.Tensor) -> bool:
        return not self.waiting or self.waiting[0][1].shape == clip.shape

    def add(self, row: _Row, clip: torch.Tensor) -> None:
        self.waiting.append((row, clip))

    def compute(self) -> None:
        if not self.waiting:
            return
        clips = torch.stack([clip for _, clip in self.waiting]).to(self.model.device, self.model.dtype)
        with torch.inference_mode():
            outputs = self.step(self.model, clips).float().cpu().numpy()
        for (row, _), output in zip(self.waiting, outputs, strict=True):
            row.views.append(output)
        self.waiting = []
