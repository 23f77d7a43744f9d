"""Checks that the videos of a table can be read, for `umt check-videos`.

The videos are read by the workers of a `DataLoader`, so that they are opened by the same code and in the same kind of
process as in training; a decoder crash is reported as a dead worker.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import datasets
import numpy as np
import torch
from torch.utils.data import DataLoader

from processing_umt.image_frames_umt import IMAGE_SUFFIXES, animation_frames
from processing_umt.video_decoding_umt import VideoReader
from processing_umt.video_inputs_umt import read_frames
from processing_umt.video_source_umt import VideoDecodeError

from .batching import identity_collate
from .video_dataset import open_image, open_video, video_name

_NUM_SAMPLED = 8
_CHUNK_BYTES = 256 << 20  # of decoded frames in memory


class VideoCheck(NamedTuple):
    """Result for a video; `reason` (see `VideoDecodeError`) and `message` are empty if it can be read."""

    video: str
    reason: str = ""
    message: str = ""


def check_videos(
    records: datasets.Dataset | datasets.IterableDataset, full: bool = False, num_workers: int = 0
) -> tuple[Iterator[VideoCheck], int | None]:
    """Reads every video of a table once.

    Args:
        records: result of `load_video_records`; a path that occurs several times is read once.
        full: decode every frame; by default all packets are scanned, and the first frame, the last and six in between
            decoded.
        num_workers: number of worker processes; 0 reads in this process.

    Returns:
        An iterator over the results, in the order of the table (for a stream, in that of the workers), and their
        number, None for a stream.
    """
    if isinstance(records, datasets.IterableDataset):
        checker: Any = _StreamChecker(records, full)
        num_videos = None
    else:
        videos = records.select_columns("video")
        if isinstance(records.features["video"], datasets.Value) and records.features["video"].dtype == "string":
            videos = [{"video": path} for path in dict.fromkeys(records["video"])]
        checker, num_videos = _Checker(videos, full), len(videos)
    return iter(DataLoader(checker, batch_size=None, num_workers=num_workers, collate_fn=identity_collate)), num_videos


def check_video(video: Any, name: str, full: bool = False) -> VideoCheck:
    """Reads one video as in training; `name` is used for a video without a name."""
    try:
        if video_name(video).lower().endswith(IMAGE_SUFFIXES):
            frames = animation_frames(open_image(video))
            read_frames(frames, np.arange(len(frames)))
        else:
            with VideoReader(open_video(video)) as reader:
                _read_all(reader) if full else _read_some(reader)
    except VideoDecodeError as error:
        return VideoCheck(video_name(video) or name, error.reason, str(error))
    return VideoCheck(video_name(video) or name)


def _read_some(reader: VideoReader) -> None:
    _read(reader, np.unique(np.linspace(0, reader.num_frames - 1, _NUM_SAMPLED).round().astype(np.int64)))


def _read_all(reader: VideoReader) -> None:
    _read(reader, np.arange(reader.num_frames))


def _read(reader: VideoReader, indices: np.ndarray) -> None:
    chunk = max(1, _CHUNK_BYTES // (reader.height * reader.width * 3))
    for start in range(0, len(indices), chunk):
        reader.read(indices[start : start + chunk])


class _Checker(torch.utils.data.Dataset):
    def __init__(self, videos: Any, full: bool):
        self.videos, self.full = videos, full

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int) -> VideoCheck:
        return check_video(self.videos[index]["video"], f"record {index}", self.full)


class _StreamChecker(torch.utils.data.IterableDataset):
    def __init__(self, records: datasets.IterableDataset, full: bool):
        self.records, self.full = records, full

    def __iter__(self) -> Iterator[VideoCheck]:
        for index, record in enumerate(self.records):
            yield check_video(record["video"], f"record {index}", self.full)
