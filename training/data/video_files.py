"""Which files are videos, and lists in batches."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

# the file name extensions by which videos are found in a folder
VIDEO_SUFFIXES = (
    ".3g2", ".3gp", ".asf", ".avi", ".flv", ".gif", ".ivf", ".m2ts", ".m4v", ".mj2", ".mkv", ".mov", ".mp4", ".mpeg",
    ".mpg", ".mts", ".mxf", ".nut", ".ogg", ".ogv", ".rm", ".ts", ".vob", ".webm", ".wmv",
)  # fmt: skip


def list_video_files(paths: Iterable[str]) -> list[str]:
    """Files and URLs as given, and instead of a folder the videos in it and below it, sorted by name.

    A file that is named is taken whatever its name ends in; in a folder the ending decides (`VIDEO_SUFFIXES`).

    Raises:
        ValueError: a folder without videos.
    """
    files = []
    for path in paths:
        if not os.path.isdir(path):
            files.append(path)
            continue
        inside = sorted(str(file) for file in Path(path).rglob("*") if file.suffix.lower() in VIDEO_SUFFIXES)
        if not inside:
            raise ValueError(f"{path} holds no videos; looked for files that end in {', '.join(VIDEO_SUFFIXES)}.")
        files.extend(inside)
    return files


def batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """`items` in lists of `size`; the last may be shorter.

    Raises:
        ValueError: a size below 1.
    """
    if size < 1:
        raise ValueError(f"The batch size is {size}; expected at least 1.")
    batch = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
