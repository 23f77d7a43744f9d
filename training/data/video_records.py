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
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from datasets import (
    ClassLabel,
    Dataset,
    DatasetDict,
    Features,
    Image,
    IterableDataset,
    IterableDatasetDict,
    Value,
    Video,
    load_dataset,
    load_from_disk,
)

from .class_indices import list_names, name_integers
from .video_files import VIDEO_SUFFIXES
from .video_lists import LIST_SUFFIXES, VIDEO_COLUMNS, read_list
from .video_shards import SHARD_SUFFIXES, expand_shards, stream_shards

_SPLIT_NAMES = {"train", "training", "val", "valid", "validation", "test", "testing", "dev", "eval"}
_NUM_PROBED = 20  # number of videos of a list whose existence is checked


def load_video_records(
    source: str | os.PathLike | Dataset | IterableDataset | DatasetDict | IterableDatasetDict,
    *,
    root: str | os.PathLike | None = None,
    split: str | None = None,
    columns: dict[str, str] | None = None,
    class_names: Sequence[str] | None = None,
    streaming: bool = False,
) -> Dataset | IterableDataset:
    """Loads a table of videos from any source.

    Args:
        source: one of
            - a folder, searched for video files at any depth. If all of them are in sub-folders, the sub-folders of
              the first level are the classes, in alphabetical order, including empty ones. A folder of `.tar` files is
              read as shards, a folder of parquet files or written by `save_to_disk` as a data set;
            - a list of videos: an official list file without header (path, integer label; `.mp4` is added to paths
              without extension), CSV with a header, JSON list, JSONL, or parquet. The column of videos is `video`,
              `path` or `image`. Something-Something's JSON (`id`, `template`) is supported too;
            - a video file, or tar shards (`shards-{000..005}.tar`, `*.tar`, also as URLs);
            - a `datasets` object, or the id of a data set on the Hub.
        root: folder to which the relative paths of a list are joined; no path may be outside it. Default: the folder
            of the list file. Without it, paths in a `datasets` object are unchanged.
        split: split of a data set, or of a folder that contains `<split>/` or `<split>.csv` (`.txt`, `.json` …).
        columns: names of columns in the source, such as `{"video": "clip_path", "caption": "text"}`.
        class_names: class names in the order of their indices, to which named labels are mapped; for a second split,
            `records.features["label"].names` of the first one. Default: all names that occur, in alphabetical order.
        streaming: read a Hub data set during training instead of downloading it first. Shards are always streamed.

    Returns:
        The table described above.

    Raises:
        ValueError: the source does not exist, contains no videos, has no column of videos, or has several splits and
            none is chosen; a label is missing or not among `class_names`; a path is outside `root`; or none of twenty
            files checked exists.
    """
    if isinstance(source, (str, os.PathLike)):
        records, default_root = _load(os.fspath(source), split, streaming)
    else:
        records, default_root = _choose_split(source, split), None
    for name, found in (columns or {}).items():
        if found not in _column_names(records, source):
            raise ValueError(f"{_describe(source)} has no column {found!r}; it has {_column_names(records, source)}.")
        records = records.remove_columns(name) if name in _column_names(records, source) else records
        records = records.rename_column(found, name)
    records = _with_video_column(records, source)
    records = _join_root(records, root, default_root, source)
    return _encode_labels(records, class_names, source)


def _load(source: str, split: str | None, streaming: bool) -> tuple[Dataset | IterableDataset, Path | None]:
    """The table of a path or Hub id, and the folder to which its relative paths are joined, if any."""
    path = Path(source).expanduser()
    if source.endswith(SHARD_SUFFIXES):
        return stream_shards(expand_shards(os.path.expanduser(source))), None
    if path.is_dir():
        inside = path if split is None else _split_in_folder(path, split)
        if inside.is_dir():
            return _load_folder(inside, split), None
        path = inside
    if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file():
        return Dataset.from_dict({"video": [str(path)]}), None
    if path.suffix == ".parquet" and path.is_file():
        return Dataset.from_parquet(str(path)), path.parent
    if path.suffix in LIST_SUFFIXES:
        return _table(read_list(path)), path.parent
    if path.is_file():
        raise ValueError(
            f"{source} is neither a supported list of videos ({', '.join(LIST_SUFFIXES)} or .parquet) nor a video "
            f"({', '.join(VIDEO_SUFFIXES)})."
        )
    if path.is_absolute() or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", source):
        raise ValueError(f"The file or folder {source} does not exist; check the path.")
    return _load_data_set(source, split, streaming), None


def _split_in_folder(folder: Path, split: str) -> Path:
    """The sub-folder or list file of a split, or the folder itself if it contains a data set, which has splits."""
    for name in (split, *(split + suffix for suffix in (*LIST_SUFFIXES, ".parquet"))):
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


def _load_folder(folder: Path, split: str | None) -> Dataset | IterableDataset:
    files = list(_walk(folder))
    if files:
        return _class_folders(folder, files)
    shards = sorted(str(path) for suffix in SHARD_SUFFIXES for path in folder.glob("*" + suffix))
    if shards:
        return stream_shards(shards)
    if not _is_data_set(folder):
        raise ValueError(
            f"{folder} contains no video files ({', '.join(VIDEO_SUFFIXES)}), no .tar shards and no data set."
        )
    if (folder / "state.json").exists() or (folder / "dataset_dict.json").exists():
        return _choose_split(load_from_disk(str(folder)), split)
    return _load_data_set(str(folder), split, streaming=False)


def _walk(folder: Path) -> Iterable[tuple[str, ...]]:
    """The relative paths of the videos in a folder, as tuples of names in a fixed order. Everything with the name of a
    video is included, so that a folder or dangling link with such a name is reported when it is read. Links are
    followed once."""
    visited = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        resolved = os.path.realpath(parent)
        if resolved in visited:
            folders.clear()
            continue
        visited.add(resolved)
        names = [name for name in (*folders, *files) if name.lower().endswith(VIDEO_SUFFIXES)]
        folders[:] = sorted(name for name in folders if name not in names and not name.startswith("."))
        for name in sorted(name for name in names if not name.startswith(".")):
            yield (*Path(parent).relative_to(folder).parts, name)


def _class_folders(folder: Path, files: list[tuple[str, ...]]) -> Dataset:
    videos = [os.path.join(folder, *parts) for parts in files]
    if any(len(parts) == 1 for parts in files):
        return Dataset.from_dict({"video": videos})
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if len(names) > 1 and set(names) <= _SPLIT_NAMES:
        raise ValueError(f"The sub-folders of {folder} are named like splits, not classes: {names}. Choose a split.")
    features = Features({"video": Value("string"), "label": ClassLabel(names=names)})
    return Dataset.from_dict({"video": videos, "label": [parts[0] for parts in files]}, features=features)


def _load_data_set(name: str, split: str | None, streaming: bool) -> Dataset | IterableDataset:
    try:
        found = load_dataset(name, split=split, streaming=streaming)
    except (OSError, ValueError) as error:  # offline, unknown data set, no access, no data files
        raise ValueError(
            f"{name} is not a local file or folder, and can't be loaded as a data set of the Hub: {error}"
        ) from error
    return _choose_split(found, split)


def _choose_split(found: Any, split: str | None) -> Dataset | IterableDataset:
    if isinstance(found, (Dataset, IterableDataset)):
        return found
    if not isinstance(found, (DatasetDict, IterableDatasetDict)):
        raise ValueError(
            f"Videos were given as {type(found).__name__}; expected a path, the id of a data set, or a "
            "datasets.Dataset."
        )
    if split is None and len(found) == 1:
        return next(iter(found.values()))
    if split not in found:
        raise ValueError(f"The data set has the splits {', '.join(found)}; choose one of them, not {split!r}.")
    return found[split]


def _table(rows: list[dict[str, Any]]) -> Dataset:
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [row.get(name) for row in rows] for name in names}
    for name, values in columns.items():  # a caption may be one text or several; Arrow needs one type
        if any(isinstance(value, list) for value in values):
            columns[name] = [value if isinstance(value, list) or value is None else [value] for value in values]
    return Dataset.from_dict(columns)


def _column_names(records: Dataset | IterableDataset, source: Any) -> list[str]:
    """The names of the columns; read from the first record if a stream does not provide them."""
    if records.column_names is not None:
        return records.column_names
    return list(_first_record(records, source))


def _first_record(records: Dataset | IterableDataset, source: Any) -> dict[str, Any]:
    for record in records:
        return record
    raise ValueError(f"{_describe(source)} contains no videos.")


def _with_video_column(records: Dataset | IterableDataset, source: Any) -> Dataset | IterableDataset:
    """The records with their videos in the column `video`, not decoded."""
    features = records.features or {}
    for name, feature in features.items():
        if isinstance(feature, (Video, Image)):
            records = records.cast_column(name, type(feature)(decode=False))
    names = _column_names(records, source)
    # a column of the type Video comes first: `image` or `path` beside it may be a thumbnail
    of_type = [name for name, feature in features.items() if isinstance(feature, Video)]
    column = of_type[0] if len(of_type) == 1 else next((name for name in VIDEO_COLUMNS if name in names), None)
    if column is None or (len(of_type) > 1 and column not in of_type):
        number = f"{len(of_type)} columns" if of_type else "no column"
        raise ValueError(
            f"{_describe(source)} has {number} of videos; its columns are {', '.join(names)}. "
            f"Rename one of them to {' or '.join(VIDEO_COLUMNS)}, or, in Python, select it with "
            "load_video_records(…, columns={'video': …})."
        )
    if column != "video" and "video" in names:
        records = records.remove_columns("video")
    if column != "video":
        records = records.rename_column(column, "video")
    video = _first_record(records, source)["video"]
    if not isinstance(video, (str, bytes, dict, Exception)):
        raise ValueError(
            f"The column {column!r} of {_describe(source)} contains {type(video).__name__}; expected paths, bytes, or "
            "records of path and bytes as in datasets.Video(decode=False)."
        )
    return records


def _join_root(
    records: Dataset | IterableDataset, root: str | os.PathLike | None, default_root: Path | None, source: Any
) -> Dataset | IterableDataset:
    """Joins relative paths to the root. Only an explicit root limits them: other lists may refer to other folders."""
    folder = default_root if root is None else Path(root).expanduser()
    if folder is None:
        return records
    if root is not None and not folder.is_dir():
        raise ValueError(f"The root folder {root} of the videos does not exist; check root.")
    if isinstance(records, IterableDataset) or not _is_text(records.features["video"]):
        if root is None:
            return records
        raise ValueError(f"root was given, but the videos of {_describe(source)} are not paths in a table.")
    limit = None if root is None else os.path.abspath(folder)
    paths = [_join(path, os.fspath(folder), limit) for path in records["video"]]
    local = [path for path in paths if "://" not in path]
    probes = local[:: max(1, len(local) // _NUM_PROBED)]
    if probes and not any(os.path.lexists(path) for path in probes):
        raise ValueError(
            f"None of {len(probes)} checked videos of {_describe(source)} exists, first {probes[0]}. Set root to the "
            "folder to which the paths of the list are relative."
        )
    others = [name for name in records.column_names if name != "video"]
    return (
        Dataset.from_dict({"video": paths})
        if not others
        else records.remove_columns("video").add_column("video", paths)
    )


def _join(path: str, folder: str, limit: str | None) -> str:
    if "://" in path:
        return path
    joined = os.path.join(folder, path)
    if limit is not None and os.path.commonpath([limit, os.path.abspath(joined)]) != limit:
        raise ValueError(f"The video {path} is outside the root folder {folder}; correct the list or root.")
    return joined


def _encode_labels(
    records: Dataset | IterableDataset, class_names: Sequence[str] | None, source: Any
) -> Dataset | IterableDataset:
    """Converts labels to class indices. A stream is unchanged without `class_names`."""
    if isinstance(records, IterableDataset):
        if class_names is None:
            return records
        # a record at a time: with names such as "10", an integer is never an index
        to_name = str if any(re.fullmatch(r"-?\d+", name) for name in class_names) else None

        def encode(record: dict[str, Any]) -> dict[str, Any]:
            label = record.get("label")
            label = to_name(label) if to_name and isinstance(label, int) else label
            return {**record, "label": _class_index(label, class_names, source)}

        return records.map(encode)
    if "label" not in records.column_names:
        return records
    feature, labels = records.features["label"], records["label"]
    if isinstance(feature, ClassLabel):
        if class_names is None or feature.names == list(class_names):
            return records
        labels = [feature.int2str(label) for label in labels]
    elif class_names is None and not _is_text(feature):
        return records
    names = sorted({*labels} - {None, ""}) if class_names is None else list(class_names)
    labels = name_integers(labels, names, _describe(source))
    indices = {label: _class_index(label, names, source) for label in dict.fromkeys(labels)}
    records = records.remove_columns("label").add_column("label", [indices[label] for label in labels])
    return records.cast_column("label", ClassLabel(names=names))


def _class_index(label: Any, names: Sequence[str], source: Any) -> int:
    """The index of a class given by name or index."""
    if label in names:
        return names.index(label)
    if isinstance(label, int) and 0 <= label < len(names):
        return label
    raise ValueError(
        f"{_describe(source)} has a video with the label {label!r}, which is not one of the {len(names)} classes: "
        f"{list_names(names)}."
    )


def _is_text(feature: Any) -> bool:
    return isinstance(feature, Value) and feature.dtype in ("string", "large_string")


def _describe(source: Any) -> str:
    return os.fspath(source) if isinstance(source, (str, os.PathLike)) else f"the given {type(source).__name__}"
