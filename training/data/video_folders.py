"""Folders of videos as tables: class folders, and the layout of `datasets`' VideoFolder, with metadata files.

A metadata file, `metadata.csv`, `.jsonl` or `.parquet`, lists videos by paths relative to its own folder. Where there
are any, their rows are the table, as in `load_dataset("videofolder")`: videos that are not listed are left out, and
the names of folders are not classes.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from datasets import ClassLabel, Dataset, Features, Value, concatenate_datasets

from .table_columns import is_text, with_paths
from .table_files import read_table
from .video_files import check_some_exist, check_unicode, is_video_name, is_visible, walk_folder
from .video_shards import SHARD_SUFFIXES

METADATA_NAMES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
_SPLIT_NAMES = {"train", "training", "val", "valid", "validation", "test", "testing", "dev", "eval"}


def read_video_folder(folder: Path, split: str | None, columns: Mapping[str, str]) -> Dataset | None:
    """The videos of a folder, or of its sub-folder `split`; None without videos.

    Without metadata, if all videos are in sub-folders, the sub-folders of the first level are the classes, in
    alphabetical order, including empty ones.

    Args:
        folder: a folder, with a sub-folder of the name `split` unless that is None.
        columns: new name → name in the metadata files, see `load_video_records`.

    Raises:
        ValueError: the sub-folders are splits and none is chosen; a metadata file can't be read, lists a file outside
            its folder or none that exists; there are several kinds of them; columns are selected, but there is no
            metadata file.
        OSError: a folder can't be read.
    """
    inside = folder if split is None else folder / split
    files = list(walk_folder(inside, lambda name: is_video_name(name) or name in METADATA_NAMES))
    metadata = [inside.joinpath(*parts) for parts in files if parts[-1] in METADATA_NAMES]
    if len(metadata) == len(files) and any(path.name.endswith(SHARD_SUFFIXES) for path in inside.iterdir()):
        return None  # a description of shards
    if split is not None and not metadata:  # one list of all splits
        metadata = [folder / name for name in METADATA_NAMES if (folder / name).is_file()]
    if metadata:
        return _read_metadata(metadata, inside, columns)
    if not files:
        return None
    if columns:
        raise ValueError(f"Columns {', '.join(columns.values())} are selected, but {inside} has no metadata file.")
    videos = [os.path.join(inside, *parts) for parts in files]
    check_unicode(videos)
    if any(len(parts) == 1 for parts in files):
        return Dataset.from_dict({"video": videos})
    names = sorted(path.name for path in inside.iterdir() if path.is_dir() and is_visible(path.name))
    check_unicode(names)
    _check_no_splits(inside, set(names))
    features = Features({"video": Value("string"), "label": ClassLabel(names=names)})
    return Dataset.from_dict({"video": videos, "label": [parts[0] for parts in files]}, features=features)


def _check_no_splits(folder: Path, names: set[str]) -> None:
    """Raises a ValueError if several sub-folders contain all videos, and have names of splits."""
    if len(names) > 1 and names <= _SPLIT_NAMES:
        raise ValueError(
            f"The sub-folders of {folder} are named like splits, not classes: {sorted(names)}. Choose a split."
        )


def _read_metadata(files: list[Path], folder: Path, columns: Mapping[str, str]) -> Dataset:
    """The rows of metadata files whose videos are in the folder, with joined paths."""
    if len({file.suffix for file in files}) > 1:
        raise ValueError(
            f"{folder} has metadata files of several kinds: {', '.join(map(str, files[:8]))}. Keep one kind."
        )
    tables = []
    for file in files:
        records = read_table(file, columns)
        if not is_text(records.features["video"]):
            raise ValueError(f"The videos in {file} are not given by their paths.")
        paths = [join_metadata_path(file.parent, video, str(file)) for video in records["video"]]
        records = with_paths(records, paths)
        tables.append(records.select([row for row, path in enumerate(paths) if Path(path).is_relative_to(folder)]))
    try:
        records = concatenate_datasets(tables)
    except ValueError as error:  # columns of different types
        raise ValueError(f"The metadata files of {folder} do not have the same columns: {error}") from error
    paths = [Path(path).relative_to(folder).parts for path in records["video"]]
    _check_no_splits(folder, {parts[0] if len(parts) > 1 else "" for parts in paths})
    check_some_exist(list(records["video"]), str(folder))
    return records


def join_metadata_path(folder: Path, video: str, where: str) -> str:
    """A path in a metadata file, joined to the folder of the file, which may come from elsewhere.

    Raises:
        ValueError: the path leads out of the folder; the message begins with `where`.
    """
    path = os.path.normpath(video)
    if "://" in video or os.path.isabs(path) or path.split(os.sep)[0] == os.pardir:
        raise ValueError(f"{where} lists {video}, which is not in its folder; write paths relative to it.")
    return os.path.join(folder, path)
