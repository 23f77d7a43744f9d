"""Computes the parts of a corpus that are missing."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from .engine import VideoOutputs
from .parts import BrokenVideo, CorpusFolder

# the outputs of videos, of which the parts are given, in any order
Process = Callable[[list[str], list[int]], Iterable[VideoOutputs]]
# a table from `{"video", "start", "end"}` of each row, and outputs, float32 (rows, dim)
MakeTable = Callable[[list[dict[str, Any]], np.ndarray], pa.Table]


def compute_parts(
    folder: CorpusFolder,
    videos: Sequence[str],
    parts: Sequence[int],
    process: Process,
    make_table: MakeTable,
    *,
    dimension: int,
    dtype: str,
) -> Iterator[BrokenVideo | None]:
    """Computes parts and writes each when its last video is done. Its rows are in the order of its videos.

    Args:
        folder: the folder of the parts.
        videos: all videos of the corpus.
        parts: ascending numbers of the parts to compute.
        process: computes the outputs of videos.
        make_table: makes the table of a part.
        dimension: of the outputs, for a part in which all videos are broken.
        dtype: data type of the computation, for messages.

    Yields:
        For each video that is done: None, or what is broken.
    """
    indices = [index for part in parts for index in folder.rows_of(part)]
    part_of = [index // folder.part_size for index in indices]
    unwritten: dict[int, dict[int, VideoOutputs]] = defaultdict(dict)
    broken: dict[int, BrokenVideo] = {}
    for outputs in process([videos[index] for index in indices], part_of):
        index, part = indices[outputs.index], part_of[outputs.index]
        unwritten[part][index] = outputs
        if (found := broken_video(folder.names[index], outputs, dtype)) is not None:
            broken[index] = found
        yield found
        rows = folder.rows_of(part)
        if len(unwritten[part]) == len(rows):
            done = unwritten.pop(part)
            kept = [done[index] for index in rows if has_rows(done[index])]
            names = [folder.names[index] for index in rows if has_rows(done[index])]
            table = make_table(*_rows(names, kept, dimension))
            folder.write(part, table, [broken.pop(index) for index in rows if index in broken])


def _rows(
    names: Sequence[str], results: Sequence[VideoOutputs], dimension: int
) -> tuple[list[dict[str, Any]], np.ndarray]:
    rows = [
        {"video": name, "start": start, "end": end}
        for name, outputs in zip(names, results, strict=True)
        for start, end in outputs.spans
    ]
    return rows, np.concatenate([np.empty((0, dimension), np.float32), *(outputs.outputs for outputs in results)])


def has_rows(outputs: VideoOutputs) -> bool:
    """Whether the outputs of a video are kept: those that are not finite are not."""
    return len(outputs.spans) > 0 and bool(np.isfinite(outputs.outputs).all())


def broken_video(name: str, outputs: VideoOutputs, dtype: str) -> BrokenVideo | None:
    """What is broken of a video; None if nothing is.

    Args:
        name: of the video.
        outputs: of the video.
        dtype: data type of the computation, such as "torch.float16".
    """
    if outputs.error is not None:
        return BrokenVideo(name, outputs.error.reason, str(outputs.error))
    if not np.isfinite(outputs.outputs).all():
        message = f"{name}: the model's scores are not finite in {dtype}; use --dtype float32, or check the weights."
        return BrokenVideo(name, "not_finite", message)
    return None


def in_order(results: Iterable[VideoOutputs]) -> Iterator[VideoOutputs]:
    """Results of all videos in the order of their indices, each as soon as it and those before it are there."""
    early: dict[int, VideoOutputs] = {}
    index = 0
    for outputs in results:
        early[outputs.index] = outputs
        while index in early:
            yield early.pop(index)
            index += 1
