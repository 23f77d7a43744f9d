"""Lists the videos that a command is given: files, folders, patterns, lists, tables, and remote folders."""

import glob
import os
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Any

import fsspec

from processing_umt.video_source_umt import USER_AND_PASSWORD

from ..data.table_columns import is_text
from ..data.video_files import VIDEO_SUFFIXES, is_video_name, is_visible, list_video_files
from ..data.video_lists import LIST_SUFFIXES
from ..data.video_records import load_video_records

TABLE_SUFFIXES = (*LIST_SUFFIXES, ".parquet")


def list_videos(inputs: Iterable[str]) -> list[str]:
    """The videos that the inputs name, in the order of the inputs.

    Args:
        inputs: each of them is
            - a video file, or an http(s) URL;
            - a folder, which is searched as by `list_video_files`;
            - a pattern such as `videos/**/*.mp4`, whose matches are sorted;
            - a list or table of videos (`TABLE_SUFFIXES`), see `load_video_records`; relative paths in it are
              relative to its folder;
            - a URL of any other protocol of fsspec, such as `hf://` and `s3://`: a video, a folder, which is searched
              by the same rules, or a pattern.

    Raises:
        ValueError: a folder, pattern or table has no videos, a table contains the videos themselves, or a remote
            folder can't be listed.
        OSError: a folder can't be read.
    """
    videos = []
    for source in inputs:
        if "://" in source:
            videos += [source] if source.lower().startswith(("http://", "https://")) else _list_remote(source)
        elif os.path.isdir(source):
            videos += list_video_files([source])
        elif source.lower().endswith(TABLE_SUFFIXES):
            videos += _list_table(source)
        elif glob.has_magic(source) and not os.path.lexists(source):
            videos += _list_matches(source)
        else:
            videos.append(source)
    return videos


def _list_table(path: str) -> list[str]:
    records = load_video_records(path, with_labels=False, reads=())
    if not is_text(records.features["video"]):
        raise ValueError(f"{path} contains the videos themselves; a table of their paths or URLs is needed.")
    return list(records["video"])


def _list_matches(pattern: str) -> list[str]:
    found = sorted(path for path in glob.glob(pattern, recursive=True) if not os.path.isdir(path))
    videos = [path for path in found if is_video_name(path)]
    if not videos:
        raise ValueError(f"The pattern {pattern} matches no videos; their names end in {', '.join(VIDEO_SUFFIXES)}.")
    return videos


def _list_remote(url: str) -> list[str]:
    """The videos of a URL of fsspec, as URLs. One that ends like a video is not looked up."""
    name = USER_AND_PASSWORD.sub("", url)
    if url.lower().endswith(TABLE_SUFFIXES):
        raise ValueError(f"{name} is a list in remote storage; copy it to this machine, and give its path.")
    if is_video_name(url) and not glob.has_magic(url):
        return [url]
    try:
        files, system = _find(url)
    except Exception as error:  # each protocol raises exceptions of its own library
        detail = " ".join(str(error).split())[:300] or type(error).__name__
        raise ValueError(f"{name} can't be listed: {detail}") from error
    if not files:
        raise ValueError(f"{name} contains no videos; their file names end in {', '.join(VIDEO_SUFFIXES)}.")
    return [system.unstrip_protocol(file) for file in files]


def _find(url: str) -> tuple[list[str], Any]:
    """The sorted paths of the videos of a folder or pattern, without hidden ones, and their file system."""
    system, path = fsspec.core.url_to_fs(url)
    found = system.glob(path) if glob.has_magic(path) else system.find(path)
    parts = PurePosixPath(path).parts
    num_fixed = next((number for number, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    return sorted(file for file in found if is_video_name(file) and _is_visible(file, num_fixed)), system


def _is_visible(file: str, num_fixed: int) -> bool:
    """Whether nothing is hidden below the first `num_fixed` parts of a path, which were given."""
    return all(map(is_visible, PurePosixPath(file).parts[num_fixed:]))
