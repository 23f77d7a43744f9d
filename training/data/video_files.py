"""Finds video files in folders."""

import os
from collections.abc import Iterable
from pathlib import Path

# file name extensions of the videos in a folder
VIDEO_SUFFIXES = (
    ".3g2", ".3gp", ".asf", ".avi", ".flv", ".gif", ".ivf", ".m2ts", ".m4v", ".mj2", ".mkv", ".mov", ".mp4", ".mpeg",
    ".mpg", ".mts", ".mxf", ".nut", ".ogg", ".ogv", ".rm", ".ts", ".vob", ".webm", ".wmv",
)  # fmt: skip


def list_video_files(paths: Iterable[str]) -> list[str]:
    """Replaces each folder among `paths` by the video files in it and its sub-folders, sorted by path.

    Files and URLs are kept, whatever their extensions; in a folder, the extension decides (`VIDEO_SUFFIXES`).

    Raises:
        ValueError: a folder does not contain videos.
    """
    files = []
    for path in paths:
        if not os.path.isdir(path):
            files.append(path)
            continue
        inside = sorted(str(file) for file in Path(path).rglob("*") if file.suffix.lower() in VIDEO_SUFFIXES)
        if not inside:
            raise ValueError(f"{path} contains no videos; their file names end in {', '.join(VIDEO_SUFFIXES)}.")
        files.extend(inside)
    return files
