"""Any source of videos as one table: the data of every trainer (UMT, arXiv 2303.16058, section 4) and of the commands.

`load_video_records` reads a folder, a list file, parquet, a `datasets` object, a data set on the Hub, or tar shards.
The result is a `datasets.Dataset`, or an `IterableDataset` where it is streamed, with the columns

* `video`: a path or URL, bytes, or a record `{"path", "bytes"}`;
* `label`, where there is one: an integer, of the type `ClassLabel` where classes have names;
* `caption`, where there is one, and whatever other columns the source has.

Unusual: `datasets.Video` columns are never decoded by `datasets`, which needs torchcodec; the reader of this project
takes path or bytes. No video is opened here: broken ones are found when they are read, or by `umt check-videos`.
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

from .video_files import VIDEO_SUFFIXES
from .video_lists import LIST_SUFFIXES, VIDEO_COLUMNS, read_list
from .video_shards import SHARD_SUFFIXES, expand_shards, stream_shards

_SPLIT_NAMES = {"train", "training", "val", "valid", "validation", "test", "testing", "dev", "eval"}
_NUM_PROBED = 20  # videos of a list that are looked for before a run


def load_video_records(
    source: str | os.PathLike | Dataset | IterableDataset | DatasetDict | IterableDatasetDict,
    *,
    root: str | os.PathLike | None = None,
    split: str | None = None,
    columns: dict[str, str] | None = None,
    class_names: Sequence[str] | None = None,
    streaming: bool = False,
) -> Dataset | IterableDataset:
    """One table of videos from any source.

    Args:
        source: one of
            - a folder, searched for video files at any depth. If all of them lie in sub-folders, the first level of
              these are the classes, in alphabetical order, empty ones included. A folder of `.tar` files is taken for
              shards, one of parquet files or written by `save_to_disk` for a data set;
            - a list of videos: an official list file without header (path, integer label; `.mp4` is added to paths
              without suffix), CSV with a header, JSON list, JSONL, or parquet. The column of videos is called `video`,
              `path` or `image`. Something-Something's JSON (`id`, `template`) is understood too;
            - a video file, or tar shards (`shards-{000..005}.tar`, `*.tar`, also as URLs);
            - a `datasets` object, or the id of a data set on the Hub.
        root: folder that the relative paths of a list are joined to, and that they may not leave. Default: the folder
            of the list file. Paths in a `datasets` object are left as they are without it.
        split: of a data set with splits, or of a folder that holds `<split>/` or `<split>.csv` (`.txt`, `.json` …).
        columns: columns of other names, as `{"video": "clip_path", "caption": "text"}`.
        class_names: class names in the order of their numbers, to which named labels are mapped; for a second split,
            the first one's `records.features["label"].names`. Default: the names that occur, in alphabetical order.
        streaming: read a data set of the Hub while training rather than download it first. Shards are always streamed.

    Returns:
        The table described above.

    Raises:
        ValueError: the source does not exist, holds no videos, has no column of videos, several splits and none
            chosen, labels that are missing or not among `class_names`, paths outside `root`, or none of twenty files
            that are looked for exists.
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
    return _number_labels(records, class_names, source)


def _load(source: str, split: str | None, streaming: bool) -> tuple[Dataset | IterableDataset, Path | None]:
    """The table that a path or Hub id stands for, and the folder that its relative paths are joined to, if any."""
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
            f"{source} is no list of videos that is read here, which end in {', '.join(LIST_SUFFIXES)} or .parquet, "
            f"and no video, which end in {', '.join(VIDEO_SUFFIXES)}."
        )
    if path.is_absolute() or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", source):
        raise ValueError(f"There is no file or folder {source}; check the path.")
    return _load_data_set(source, split, streaming), None


def _split_in_folder(folder: Path, split: str) -> Path:
    """The sub-folder or list file of a split, or the folder itself where a data set is kept that knows its splits."""
    for name in (split, *(split + suffix for suffix in (*LIST_SUFFIXES, ".parquet"))):
        if (folder / name).exists():
            return folder / name
    if _is_data_set(folder):
        return folder
    found = ", ".join(sorted(path.name for path in folder.iterdir())[:20])
    raise ValueError(f"{folder} has no split {split!r}, as a folder or list file of that name; it holds {found}.")


def _is_data_set(folder: Path) -> bool:
    """Whether a folder was written by `save_to_disk` or holds the parquet files of a data set."""
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
            f"{folder} holds no video files (they end in {', '.join(VIDEO_SUFFIXES)}), no .tar shards and no data set."
        )
    if (folder / "state.json").exists() or (folder / "dataset_dict.json").exists():
        return _choose_split(load_from_disk(str(folder)), split)
    return _load_data_set(str(folder), split, streaming=False)


def _walk(folder: Path) -> Iterable[tuple[str, ...]]:
    """The videos in a folder, in a fixed order, as parts of their relative paths. Whatever has the name of a video is
    one, so that a folder or dangling link of such a name is reported when it is read. Links are followed, once."""
    visited = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        here = os.path.realpath(place)
        if here in visited:
            folders.clear()
            continue
        visited.add(here)
        names = [name for name in (*folders, *files) if name.lower().endswith(VIDEO_SUFFIXES)]
        folders[:] = sorted(name for name in folders if name not in names and not name.startswith("."))
        for name in sorted(name for name in names if not name.startswith(".")):
            yield (*Path(place).relative_to(folder).parts, name)


def _class_folders(folder: Path, files: list[tuple[str, ...]]) -> Dataset:
    videos = [os.path.join(folder, *parts) for parts in files]
    if any(len(parts) == 1 for parts in files):
        return Dataset.from_dict({"video": videos})
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if len(names) > 1 and set(names) <= _SPLIT_NAMES:
        raise ValueError(f"The sub-folders of {folder} look like splits, not classes: {names}. Choose a split.")
    features = Features({"video": Value("string"), "label": ClassLabel(names=names)})
    return Dataset.from_dict({"video": videos, "label": [parts[0] for parts in files]}, features=features)


def _load_data_set(name: str, split: str | None, streaming: bool) -> Dataset | IterableDataset:
    try:
        found = load_dataset(name, split=split, streaming=streaming)
    except (OSError, ValueError) as error:  # offline, no such data set, no access, no data files
        raise ValueError(
            f"{name} is no file or folder here, and it can't be loaded as a data set of the Hub either: {error}"
        ) from error
    return _choose_split(found, split)


def _choose_split(found: Any, split: str | None) -> Dataset | IterableDataset:
    if isinstance(found, (Dataset, IterableDataset)):
        return found
    if not isinstance(found, (DatasetDict, IterableDatasetDict)):
        raise ValueError(
            f"Videos are given as {type(found).__name__}; expected a path, a data set's id, or a datasets.Dataset."
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
    """The columns, looked up in the first record where a stream does not tell."""
    if records.column_names is not None:
        return records.column_names
    return list(_first_record(records, source))


def _first_record(records: Dataset | IterableDataset, source: Any) -> dict[str, Any]:
    for record in records:
        return record
    raise ValueError(f"{_describe(source)} holds no videos.")


def _with_video_column(records: Dataset | IterableDataset, source: Any) -> Dataset | IterableDataset:
    """The records with their videos, not to be decoded, in the column `video`."""
    features = records.features or {}
    for name, feature in features.items():
        if isinstance(feature, (Video, Image)):
            records = records.cast_column(name, type(feature)(decode=False))
    names = _column_names(records, source)
    column = next((name for name in VIDEO_COLUMNS if name in names), None)
    if column is None:
        of_type = [name for name, feature in features.items() if isinstance(feature, Video)]
        if len(of_type) != 1:
            raise ValueError(
                f"{_describe(source)} has no column of videos; its columns are {', '.join(names)}. "
                f"Name one of them {' or '.join(VIDEO_COLUMNS)}, or, in Python, say which it is: "
                "load_video_records(…, columns={'video': …})."
            )
        column = of_type[0]
    if column != "video":
        records = records.rename_column(column, "video")
    video = _first_record(records, source)["video"]
    if not isinstance(video, (str, bytes, dict, Exception)):
        raise ValueError(
            f"The column {column!r} of {_describe(source)} holds {type(video).__name__}; expected paths, bytes, or "
            "records of path and bytes, as datasets.Video(decode=False) gives them."
        )
    return records


def _join_root(
    records: Dataset | IterableDataset, root: str | os.PathLike | None, default_root: Path | None, source: Any
) -> Dataset | IterableDataset:
    """Relative paths joined to the root. Only an explicit root is a fence: a list may point beside its folder."""
    folder = default_root if root is None else Path(root).expanduser()
    if folder is None:
        return records
    if root is not None and not folder.is_dir():
        raise ValueError(f"There is no folder {root} to look for videos in; check root.")
    if isinstance(records, IterableDataset) or not _is_text(records.features["video"]):
        if root is None:
            return records
        raise ValueError(f"root is given, but the videos of {_describe(source)} are not paths in a table.")
    fence = None if root is None else os.path.abspath(folder)
    paths = [_join(path, os.fspath(folder), fence) for path in records["video"]]
    local = [path for path in paths if "://" not in path]
    probes = local[:: max(1, len(local) // _NUM_PROBED)]
    if probes and not any(os.path.lexists(path) for path in probes):
        raise ValueError(
            f"None of {len(probes)} videos of {_describe(source)} that were looked for exists, first {probes[0]}. "
            "Set root to the folder that the paths of the list are relative to."
        )
    others = [name for name in records.column_names if name != "video"]
    return (
        Dataset.from_dict({"video": paths})
        if not others
        else records.remove_columns("video").add_column("video", paths)
    )


def _join(path: str, folder: str, fence: str | None) -> str:
    if "://" in path:
        return path
    joined = os.path.join(folder, path)
    if fence is not None and os.path.commonpath([fence, os.path.abspath(joined)]) != fence:
        raise ValueError(f"The video {path} lies outside of the root folder {folder}; correct the list or root.")
    return joined


def _number_labels(
    records: Dataset | IterableDataset, class_names: Sequence[str] | None, source: Any
) -> Dataset | IterableDataset:
    """The records with the numbers of their classes as labels. Without `class_names` a stream is left as it is."""
    if isinstance(records, IterableDataset):
        if class_names is None:
            return records
        return records.map(lambda record: {**record, "label": _number(record.get("label"), class_names, source)})
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
    numbers = {label: _number(label, names, source) for label in dict.fromkeys(labels)}
    records = records.remove_columns("label").add_column("label", [numbers[label] for label in labels])
    return records.cast_column("label", ClassLabel(names=names))


def _number(label: Any, names: Sequence[str], source: Any) -> int:
    """The number of a class that is given by name or number."""
    if label in names:
        return names.index(label)
    if isinstance(label, int) and 0 <= label < len(names):
        return label
    raise ValueError(
        f"{_describe(source)} has a video with the label {label!r}, which is none of the {len(names)} classes: "
        f"{', '.join(names[:8])}{' …' if len(names) > 8 else ''}."
    )


def _is_text(feature: Any) -> bool:
    return isinstance(feature, Value) and feature.dtype in ("string", "large_string")


def _describe(source: Any) -> str:
    return os.fspath(source) if isinstance(source, (str, os.PathLike)) else f"the given {type(source).__name__}"
