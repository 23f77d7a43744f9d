"""Decoded clips of the videos to evaluate, and a record of the videos that can't be read.

Data-loading workers decode, resize and crop. Clips stay uint8 until they are on the model's device, where
`normalize_clips` turns them into `pixel_values_videos`: uint8 is a quarter of what the workers would have to send.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import datasets
import numpy as np
import torch
from accelerate import PartialState
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import BaseVideoProcessor
from transformers.video_utils import VideoMetadata

from processing_umt import VideoDecodeError
from processing_umt.frame_sampling_umt import trimmed_length
from processing_umt.video_decoding_umt import VideoReader

from ..data.batching import identity_collate
from ..data.video_dataset import open_video

_NUM_LISTED = 8


class SkippedVideo(NamedTuple):
    """A video that can't be read: its name, the reason (see `VideoDecodeError`), and the complete message."""

    video: str
    reason: str
    message: str


def no_readable_video(skipped: Sequence[SkippedVideo]) -> ValueError:
    """The error for a data set of which all videos were skipped."""
    listed = ", ".join(f"{video.video} ({video.reason})" for video in skipped[:_NUM_LISTED])
    return ValueError(f"None of the {len(skipped)} videos can be read: {listed}. Check path and root of the data.")


def video_names(records: datasets.Dataset) -> list[str]:
    """Paths of the videos, or "record" and the row where a video has no path. Bytes are not loaded."""
    videos = records.select_columns("video").flatten()
    column = next((name for name in ("video", "video.path") if name in videos.column_names), None)
    paths = [None] * len(records)
    if column and isinstance(videos.features[column], datasets.Value) and "string" in videos.features[column].dtype:
        paths = list(videos[column])
    return [path or f"record {row}" for row, path in enumerate(paths)]


class EvaluationClipDataset(torch.utils.data.Dataset):
    """One clip per video. An item is the video's index and its clip, uint8 `(frames, channels, height, width)`, or, if
    the video can't be read, the index and the pair of reason and message.

    Args:
        videos: index and path, bytes, or record of both.
        video_processor: a `UMTVideoProcessor`; its saved options apply except for the numbers of frames and views.
        num_frames: frames per clip.
        trim_seconds: sample frames from the first seconds of a video only; default: from the entire video.
    """

    def __init__(
        self,
        videos: list[tuple[int, Any]],
        video_processor: BaseVideoProcessor,
        num_frames: int,
        trim_seconds: float | None = None,
    ):
        self.videos, self.video_processor = videos, video_processor
        self.num_frames, self.trim_seconds = num_frames, trim_seconds
        self.resolution = tuple(self.process(np.zeros((num_frames, 48, 64, 3), dtype=np.uint8)).shape[-2:])

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, position: int) -> tuple[int, torch.Tensor | tuple[str, str]]:
        index, video = self.videos[position]
        try:
            with VideoReader(open_video(video)) as reader:
                length = reader.num_frames
                if self.trim_seconds is not None:
                    length = trimmed_length(length, reader.fps, self.trim_seconds)
                frames = self.video_processor.sample_frames(
                    VideoMetadata(total_num_frames=length), num_frames=self.num_frames, num_clips=1
                )
                return index, self.process(reader.read(frames))
        except VideoDecodeError as error:
            return index, (error.reason, str(error))

    def process(self, frames: np.ndarray) -> torch.Tensor:
        """Resizes and crops frames, uint8 `(frames, height, width, channels)`, without normalising them."""
        options = {"num_frames": self.num_frames, "num_clips": 1, "num_crops": 1}
        options |= {"do_rescale": False, "do_normalize": False}
        return self.video_processor(frames, return_tensors="pt", **options)["pixel_values_videos"][0]


class VideoViewDataset(torch.utils.data.Dataset):
    """All views of each video. An item is the video's row and its views, uint8 `(views, frames, channels, height,
    width)`, or, if the video can't be read, the row and the pair of reason and message.

    Args:
        videos: table with a column `video`.
        rows: int `(videos,)`, the rows of the table to read.
        names: names of all videos of the table, for errors.
        processor: a `UMTVideoProcessor`.
        options: arguments of its call that differ from the saved ones.
        shape: the shape of an item's views, see `view_shape`.
    """

    def __init__(
        self,
        videos: datasets.Dataset,
        rows: np.ndarray,
        names: list[str],
        processor: BaseVideoProcessor,
        options: dict[str, Any],
        shape: tuple[int, ...],
    ):
        self.videos, self.rows, self.names, self.shape = videos, rows, names, shape
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
        if tuple(views.shape) != self.shape:
            raise ValueError(
                f"{self.names[row]} has views of shape {tuple(views.shape)}, others {self.shape}. Give the "
                "processor do_center_crop=True or a size of fixed height and width, and do_sample_frames=True."
            )
        return row, views


def view_shape(processor: BaseVideoProcessor, options: dict[str, Any]) -> tuple[int, ...]:
    """`(views, frames, channels, height, width)` of a processed video, from a black one.

    Raises:
        ValueError: a processor without views, or options that do not go together.
    """
    if not hasattr(processor, "num_clips"):
        raise ValueError(
            f"{type(processor).__name__} makes no views of a video; evaluation needs a UMTVideoProcessor."
        )
    frames = (processor.num_frames, processor.crop_size.height, processor.crop_size.width, 3)
    views = processor(np.zeros(frames, dtype=np.uint8), return_tensors="pt", **options)
    return tuple(views["pixel_values_videos"].shape)


def normalize_clips(video_processor: BaseVideoProcessor, clips: torch.Tensor) -> torch.Tensor:
    """`pixel_values_videos` from uint8 clips of the same shape, `(batch, frames, channels, height, width)`."""
    names = ("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")
    return video_processor.rescale_and_normalize(clips, **{name: getattr(video_processor, name) for name in names})


def batches_in_place(
    clips: Iterable[tuple[int, torch.Tensor]], size: int, total: int
) -> Iterator[tuple[list[int | None], torch.Tensor]]:
    """Batches in which each clip has a place of its own, whichever others are there, so that it always gives the same
    scores, bit for bit: kernels may round differently in a batch of another size, and at another place of it.

    Args:
        clips: numbers from 0, ascending, and clips of one shape; some may be missing.
        size: clips per batch.
        total: number of clips if none is missing; the last batch may be shorter.

    Yields:
        The numbers of the clips, None for a missing one, and the batch, in which a missing clip is black.
    """
    present: dict[int, torch.Tensor] = {}
    for number, clip in clips:
        if present and number // size != min(present) // size:
            yield _batch_of(present, size, total)
            present = {}
        present[number] = clip
        if number % size == size - 1:  # without waiting for the next clip, which has to be decoded
            yield _batch_of(present, size, total)
            present = {}
    if present:
        yield _batch_of(present, size, total)


def _batch_of(present: dict[int, torch.Tensor], size: int, total: int) -> tuple[list[int | None], torch.Tensor]:
    start = min(present) // size * size
    numbers = range(start, min(start + size, total))
    black = torch.zeros_like(present[min(present)])
    batch = torch.stack([present.get(number, black) for number in numbers])
    return [number if number in present else None for number in numbers], batch


def read_clips(dataset: torch.utils.data.Dataset, num_workers: int, description: str) -> tqdm:
    """The items of a data set, in its order, read by `num_workers` processes, with a progress bar."""
    loader = DataLoader(
        dataset,
        batch_size=None,
        num_workers=num_workers,
        collate_fn=identity_collate,
        generator=torch.Generator(),  # seeds the workers; by default the global generator would
    )
    return progress_bar(loader, description)


def progress_bar(videos: Iterable[Any], description: str) -> tqdm:
    """A progress bar over videos, shown in the main process only."""
    hidden = None if PartialState().is_main_process else True  # None: hidden where stderr is not a terminal
    return tqdm(videos, desc=description, unit=" videos", delay=1, leave=False, disable=hidden)
