"""Can the videos of a table be read? Behind `umt check-videos`; no part of the paper.

Unusual: `torch`'s `DataLoader` shares the work out, so that videos are opened by the same code, in the same kind of
process, as in training, and a decoder that crashes is told as a worker's death.
"""

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import datasets
import numpy as np
import torch
from torch.utils.data import DataLoader

from processing_umt.video_decoding_umt import VideoReader
from processing_umt.video_inputs_umt import IMAGE_SUFFIXES, read_frames
from processing_umt.video_source_umt import VideoDecodeError

from .video_dataset import open_image, open_video, video_name

_NUM_SAMPLED = 8
_CHUNK_BYTES = 256 << 20  # of decoded frames held at once


class VideoCheck(NamedTuple):
    """What was found out about a video; `reason` (see `VideoDecodeError`) and `message` are empty if it is fine."""

    video: str
    reason: str = ""
    message: str = ""


def check_videos(
    records: datasets.Dataset | datasets.IterableDataset, full: bool = False, num_workers: int = 0
) -> tuple[Iterator[VideoCheck], int | None]:
    """Reads every video of a table once.

    Args:
        records: what `load_video_records` returns; a path that comes up several times is read once.
        full: decode every frame; by default the first, the last and six between, after a scan of all packets.
        num_workers: processes; 0 reads in this one.

    Returns:
        The checks as they are made, in the order of the table, or of the workers for a stream; and how many there will
        be, None for a stream.
    """
    if isinstance(records, datasets.IterableDataset):
        checker: Any = _StreamChecker(records, full)
        num_videos = None
    else:
        videos = records.select_columns("video")
        if isinstance(records.features["video"], datasets.Value) and records.features["video"].dtype == "string":
            videos = [{"video": path} for path in dict.fromkeys(records["video"])]
        checker, num_videos = _Checker(videos, full), len(videos)
    return iter(DataLoader(checker, batch_size=None, num_workers=num_workers, collate_fn=_as_it_is)), num_videos


def check_video(video: Any, name: str, full: bool = False) -> VideoCheck:
    """Tries to read one video as training would; `name` is for videos that have none."""
    try:
        if video_name(video).lower().endswith(IMAGE_SUFFIXES):
            read_frames([open_image(video)], np.zeros(1, dtype=np.int64))
        else:
            with VideoReader(open_video(video)) as reader:
                _read_all(reader) if full else _read_some(reader)
    except VideoDecodeError as error:
        return VideoCheck(video_name(video) or name, error.reason, str(error))
    return VideoCheck(video_name(video) or name)


def _read_some(reader: VideoReader) -> None:
    reader.read(np.unique(np.linspace(0, reader.num_frames - 1, _NUM_SAMPLED).round().astype(np.int64)))


def _read_all(reader: VideoReader) -> None:
    chunk = max(1, _CHUNK_BYTES // (reader.height * reader.width * 3))
    for start in range(0, reader.num_frames, chunk):
        reader.read(np.arange(start, min(start + chunk, reader.num_frames)))


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
        for number, record in zip(itertools.count(), self.records):
            yield check_video(record["video"], f"record {number}", self.full)


def _as_it_is(check: VideoCheck) -> VideoCheck:
    return check
