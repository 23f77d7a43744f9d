"""Loads any source of videos as one table: the data of all trainers and commands.

`load_video_records` reads a folder, a list file, parquet, a `datasets` object, a data set on the Hub, or tar shards.
The result is a `datasets.Dataset`, or an `IterableDataset` for a stream, with the columns

* `video`: a path or URL, bytes, or a record `{"path", "bytes"}`;
* `label`, if present: an integer, of type `ClassLabel` if the classes have names;
* `caption`, if present, and all other columns of the source.

`datasets.Video` columns are never decoded by `datasets`, which needs torchcodec; the reader of this project accepts a
path or bytes. Videos are not opened here: broken ones are found when they are read, or by `umt check-videos`.
"""

import os
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import (
    ClassLabel,
    Dataset,
    DatasetDict,
    IterableDataset,
    IterableDatasetDict,
    Value,
    load_dataset,
    load_from_disk,
)

from processing_umt.video_source_umt import VideoDecodeError

from .class_indices import check_distinct, class_indices, plain_labels, read_labels
from .column_names import TEXT_COLUMNS, check_one_label
from .root_folder import join_root
from .table_columns import is_text, name_columns, with_paths
from .table_files import read_table
from .video_files import VIDEO_SUFFIXES, check_some_exist, check_unicode, is_video_name
from .video_folders import read_video_folder
from .video_lists import LIST_SUFFIXES
from .video_shards import SHARD_SUFFIXES, expand_shards, stream_shards

_TABLE_SUFFIXES = (*LIST_SUFFIXES, ".parquet")


def load_video_records(
    source: str | os.PathLike | Dataset | IterableDataset | DatasetDict | IterableDatasetDict,
    *,
    root: str | os.PathLike | None = None,
    split: str | None = None,
    columns: dict[str, str] | None = None,
    class_names: Sequence[str] | None = None,
    with_labels: bool = True,
    streaming: bool = False,
    reads: Collection[str] = TEXT_COLUMNS,
) -> Dataset | IterableDataset:
    """Loads a table of videos from any source.

    Args:
        source: one of
            - a folder, searched for video files at any depth, except hidden ones; links are followed. If all of them
              are in sub-folders, the sub-folders of the first level are the classes, in alphabetical order, including
              empty ones. With `metadata.csv`, `.jsonl` or `.parquet` in the folder or its sub-folders, the videos and
              columns are those of these files, as in `load_dataset("videofolder")`. A folder of `.tar` files is read
              as shards, a folder of parquet files or written by `save_to_disk` as a data set;
            - a list of videos: an official list file without header (path, integer label; `.mp4` is added to paths
              without extension), CSV with a header, JSON list, JSONL, or parquet. Something-Something's JSON (`id`,
              `template`) is supported too;
            - a video file, or tar shards (`shards-{000..005}.tar`, `*.tar`, also as URLs);
            - a `datasets` object, or the id of a data set on the Hub.
            The columns of tables are recognised by their names, in any case: the video by `video`, `path`,
            `file_name`, `image` and similar ones (`VIDEO_NAMES` in `column_names.py`), or by the type `Video`; labels
            by `label`, `labels`, `class` … (`LABEL_NAMES`), captions by `caption`, `text` … (`CAPTION_NAMES`).
        root: folder to which the relative paths of a list are joined. It is a fence for lists from elsewhere: no path
            or link may lead out of it, and URLs must be remote ones (`root_folder.py`). Default: the folder of the
            list file, without a fence. Without it, paths in a `datasets` object are unchanged.
        split: split of a data set, or of a folder that contains `<split>/` or `<split>.csv` (`.txt`, `.json` …).
        columns: names of columns in the source, such as `{"video": "clip_path", "caption": "title"}`; they come before
            the names above.
        class_names: class names in the order of their indices, to which labels are mapped; for a second split,
            `records.features["label"].names` of the first one. Default: all names that occur, in alphabetical order;
            integer labels without names are indices.
        with_labels: False leaves the labels out, so that missing or unclear ones are not errors.
        streaming: read a Hub data set during training instead of downloading it first. Shards are always streamed.
        reads: the columns that the caller reads beside videos and labels. If the values of another column of a list
            are of different types, which a table can't contain, the column is left out; one of these is an error.

    Returns:
        The table described above.

    Raises:
        ValueError: the source does not exist, contains no videos, has no column of videos or several, has several
            splits and none is chosen, or has no splits and one is chosen; a label is missing, is neither text nor an
            integer, or is not among `class_names`; two class names differ only in case, spaces or Unicode form; a
            path is outside `root`; or none of twenty files checked exists.
        OSError: a folder can't be read.
    """
    name, columns = describe_source(source), columns or {}
    if isinstance(class_names, str):
        raise ValueError(f"class_names is the text {class_names!r}; expected a list of names.")
    reads = {"video", *(["label"] if with_labels else []), *reads}
    if isinstance(source, (str, os.PathLike)):
        records, default_root = _load(os.fspath(source), split, streaming, columns, reads)
    else:
        records, default_root = name_columns(_choose_split(source, split), columns, name), None
    records = _join_root(records, root, default_root, name)
    if not with_labels:
        has_labels = "label" in (records.column_names or ["label"])  # a stream may not know its columns
        return records.remove_columns("label") if has_labels else records
    if records.features is not None and "label" not in columns:
        check_one_label(records.features, name)
    return _encode_labels(records, class_names, name)


def _load(
    source: str, split: str | None, streaming: bool, columns: Mapping[str, str], reads: Collection[str]
) -> tuple[Dataset | IterableDataset, Path | None]:
    """The table of a path or Hub id, and the folder to which its relative paths are joined, if any."""
    path = Path(source).expanduser()
    is_file = source.endswith(SHARD_SUFFIXES) or path.suffix.lower() in _TABLE_SUFFIXES or path.is_file()
    if split is not None and is_file and not path.is_dir():
        raise ValueError(f"The split {split!r} is chosen, but {source} has no splits; give the list of this split.")
    if source.endswith(SHARD_SUFFIXES):
        return name_columns(stream_shards(expand_shards(os.path.expanduser(source))), columns, source), None
    if path.is_dir():
        inside = path if split is None else _split_in_folder(path, split)
        if inside.is_dir():
            return _load_folder(path, inside, split, columns, reads), None
        path = inside
    if path.is_file() and is_video_name(path.name):
        check_unicode([str(path)])
        return Dataset.from_dict({"video": [str(path)]}), None
    if path.suffix.lower() in _TABLE_SUFFIXES:
        return read_table(path, columns, reads), path.parent
    if path.is_file():
        raise ValueError(
            f"{source} is neither a supported list of videos ({', '.join(_TABLE_SUFFIXES)}) nor a video "
            f"({', '.join(VIDEO_SUFFIXES)})."
        )
    if path.is_absolute() or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", source):
        raise ValueError(f"The file or folder {source} does not exist; check the path.")
    return name_columns(_load_data_set(source, split, streaming), columns, source), None


def _split_in_folder(folder: Path, split: str) -> Path:
    """The sub-folder or list file of a split, or the folder itself if it contains a data set, which has splits."""
    for name in (split, *(split + suffix for suffix in _TABLE_SUFFIXES)):
        if (folder / name).exists():
            return folder / name
    if _is_data_set(folder):
        return folder
    found = ", ".join(sorted(path.name for path in folder.iterdir())[:20])
    raise ValueError(f"{folder} has no split {split!r}: no folder or list file of this name; it contains {found}.")


def _is_data_set(folder: Path) -> bool:
    """Whether a folder was written by `save_to_disk` or contains the parquet files of a data set."""
    return any((folder / name).exists() for name in ("state.json", "dataset_dict.json")) or any(
        folder.rglob("*.parquet")
    )


def _load_folder(
    folder: Path, inside: Path, split: str | None, columns: Mapping[str, str], reads: Collection[str]
) -> Dataset | IterableDataset:
    """The table of a folder; `inside` is the sub-folder of the split, or the folder itself."""
    records = read_video_folder(folder, None if inside == folder else split, columns, reads)
    if records is not None:
        return records
    split = split if inside == folder else None
    shards = sorted(str(path) for suffix in SHARD_SUFFIXES for path in inside.glob("*" + suffix))
    if shards:
        found = stream_shards(shards)
    elif not _is_data_set(inside):
        raise ValueError(
            f"{inside} contains no video files ({', '.join(VIDEO_SUFFIXES)}), no .tar shards and no data set."
        )
    elif (inside / "state.json").exists() or (inside / "dataset_dict.json").exists():
        found = _choose_split(_load_saved(inside), split)
    else:
        found = _load_data_set(str(inside), split, streaming=False)
    return name_columns(found, columns, str(inside))


def _load_saved(folder: Path) -> Dataset | DatasetDict:
    try:
        return load_from_disk(str(folder))
    except Exception as error:  # damaged files raise exceptions of many kinds
        raise ValueError(f"{folder} can't be read as a data set that was saved by save_to_disk: {error}") from error


def _load_data_set(name: str, split: str | None, streaming: bool) -> Dataset | IterableDataset:
    try:
        found = load_dataset(name, split=split, streaming=streaming)
    except (OSError, ValueError) as error:  # offline, unknown data set, no access, no data files
        raise ValueError(
            f"{name} is not a local file or folder, and can't be loaded as a data set of the Hub: {error}"
        ) from error
    return found if split is not None else _choose_split(found, None)


def _choose_split(found: Any, split: str | None) -> Dataset | IterableDataset:
    if isinstance(found, (Dataset, IterableDataset)):
        if split not in (None, found.split):
            raise ValueError(f"The split {split!r} is chosen, but the data set has no splits; give the split itself.")
        return found
    if not isinstance(found, (DatasetDict, IterableDatasetDict)):
        raise ValueError(
            f"Videos were given as {type(found).__name__}; expected a path, the id of a data set, or a "
            "datasets.Dataset, as Dataset.from_list and Dataset.from_pandas make."
        )
    if split is None and len(found) == 1:
        return next(iter(found.values()))
    if split not in found:
        raise ValueError(f"The data set has the splits {', '.join(found)}; choose one of them, not {split!r}.")
    return found[split]


def _join_root(
    records: Dataset | IterableDataset, root: str | os.PathLike | None, default_root: Path | None, source: str
) -> Dataset | IterableDataset:
    """Joins relative paths to the root. Only an explicit root is a fence: other lists may refer to other folders."""
    folder = default_root if root is None else Path(root).expanduser()
    if folder is None:
        return records
    if root is not None and not folder.is_dir():
        raise ValueError(f"The root folder {root} of the videos does not exist; check root.")
    if isinstance(records, IterableDataset) or not is_text(records.features["video"]):
        if root is None:
            return records
        raise ValueError(f"root was given, but the videos of {source} are not paths in a table.")
    videos = list(records["video"])
    if absent := [row for row, path in enumerate(videos) if not path]:
        raise ValueError(f"{len(absent)} rows of {source} have no video, first row {absent[0]}. Remove them.")
    paths = join_root(videos, os.fspath(folder), is_fence=root is not None)
    check_some_exist(paths, source)
    return with_paths(records, paths)


def _encode_labels(
    records: Dataset | IterableDataset, class_names: Sequence[str] | None, source: str
) -> Dataset | IterableDataset:
    """Converts labels to class indices. A stream is unchanged without `class_names`."""
    if class_names is not None:
        class_names = list(class_names)
        check_distinct(class_names, "class_names")
    if isinstance(records, IterableDataset):
        if class_names is None:
            return records
        return records.map(_encode_record, fn_kwargs={"class_names": class_names, "source": source})
    feature = records.features.get("label")
    if not isinstance(feature, (ClassLabel, Value)):  # no labels, or lists, which training on labels refuses
        return records
    if isinstance(feature, ClassLabel):
        check_distinct(feature.names, source)
    labels = read_labels(records, class_names, source)
    absent = [row for row, label in enumerate(labels) if label is None]
    if len(absent) == len(labels):  # a test set
        return records.remove_columns("label")
    if absent:
        raise ValueError(
            f"{len(absent)} of {len(labels)} videos of {source} have no label, first that of row {absent[0]}. Label "
            "or remove them, or remove the column."
        )
    if isinstance(feature, ClassLabel) and class_names in (None, feature.names):
        return records
    names = class_names
    if names is None:
        names = sorted({label for label in labels if isinstance(label, str)})
        check_distinct(names, source)
    if names:
        feature, labels = ClassLabel(names=names), class_indices(labels, names, source)
    else:
        feature = Value("int64")
    return records.remove_columns("label").add_column("label", labels, feature=feature)


def _encode_record(record: dict[str, Any], class_names: list[str], source: str) -> dict[str, Any]:
    """A record of a stream with its label as class index."""
    if isinstance(record["video"], VideoDecodeError):  # of a broken shard; counted when the video is opened
        return record
    return {**record, "label": _class_index(record.get("label"), class_names, source)}


def _class_index(label: Any, class_names: Sequence[str], source: str) -> int:
    labels = plain_labels([label], source)
    if labels == [None]:
        raise ValueError(f"A video of {source} has no label. Label or remove it.")
    return class_indices(labels, class_names, source)[0]


def describe_source(source: Any) -> str:
    """Name of a source, for errors."""
    return os.fspath(source) if isinstance(source, (str, os.PathLike)) else f"the given {type(source).__name__}"
