"""The columns of a table of videos under the names of this package, with its videos not decoded."""

import itertools
from collections.abc import Mapping
from typing import Any

from datasets import Dataset, Features, Image, IterableDataset, Value, Video

from processing_umt.video_source_umt import VideoDecodeError

from .column_names import find_video_column, no_video_column, rename_row, select_names, standard_names
from .video_files import check_unicode

_NUM_PROBED = 100  # number of records of a stream that are read to find its columns


def name_columns(
    records: Dataset | IterableDataset, columns: Mapping[str, str], source: str
) -> Dataset | IterableDataset:
    """A table with its videos in the column `video`, not decoded, and the names of `column_names.py`.

    A format such as "torch" is removed.

    Args:
        records: any table.
        columns: new name → name in the table, see `load_video_records`.
        source: name of the data, for the error.

    Raises:
        ValueError: no column of videos, or several; values that are neither paths nor bytes; a column of `columns`
            does not exist; the table has a transform of its own.
    """
    if isinstance(records, Dataset) and records.format["type"] == "custom":
        raise ValueError(
            f"{source} has a transform of its own (set_transform), which is not applied here; remove it with "
            "with_format(None), or apply it with map."
        )
    records = records.with_format(None)
    for name, feature in (records.features or {}).items():
        if isinstance(feature, (Video, Image)):
            records = records.cast_column(name, type(feature)(decode=False))
    first = first_record(records, source)
    new_names = select_names(records.column_names or list(first), columns, source)
    kinds = {new: (records.features or first)[name] for name, new in new_names.items()}
    column = "video" if "video" in columns else _video_column(kinds, columns, source)
    kinds = {name: kind for name, kind in kinds.items() if name != "video" or column == "video"}
    standard = standard_names(kinds, {"video", column, *columns}) | {column: "video"}
    new_names = {name: standard[new] for name, new in new_names.items() if new in standard}
    video = rename_row(first, new_names)["video"]
    if not isinstance(video, (str, bytes, dict, Exception)) and not is_text(kinds[column]):
        raise ValueError(
            f"The column {column!r} of {source} contains {type(video).__name__}; expected paths, bytes, or records of "
            "path and bytes as in datasets.Video(decode=False)."
        )
    return rename_columns(records, new_names)


def _video_column(kinds: Mapping[str, Any], columns: Mapping[str, str], source: str) -> str:
    """The column of videos. One of the type `Video` comes first: `image` or `path` beside it may be a thumbnail."""
    of_type = [name for name, kind in kinds.items() if isinstance(kind, Video)]
    if len(of_type) == 1:
        return of_type[0]
    column = find_video_column([name for name in of_type or kinds if name not in columns], source)
    if column is None:
        raise no_video_column(source, kinds, f"{len(of_type)} columns" if of_type else "no column")
    return column


def rename_columns(records: Dataset | IterableDataset, new_names: Mapping[str, str]) -> Dataset | IterableDataset:
    """A table with the columns `new_names` (name → new name) only; two names may be exchanged."""
    changed = {name: new for name, new in new_names.items() if name != new}
    if isinstance(records, Dataset):
        records = records.select_columns(list(new_names))
        return records.rename_columns(changed) if changed else records
    if not changed:
        return records
    features = records.features and Features({new: records.features[name] for name, new in new_names.items()})
    removed = [*changed, *(set(changed.values()) - set(new_names))]
    # records of a stream without types may lack columns
    return records.map(rename_row, fn_kwargs={"new_names": changed}, remove_columns=removed, features=features)


def with_paths(records: Dataset, paths: list[str]) -> Dataset:
    """The table with other paths of its videos.

    Raises:
        ValueError: a path is not Unicode.
    """
    check_unicode(paths)
    if records.column_names == ["video"]:
        return Dataset.from_dict({"video": paths})
    return records.remove_columns("video").add_column("video", paths)


def first_record(records: Dataset | IterableDataset, source: str) -> dict[str, Any]:
    """The first record that shows the columns: a broken one of a stream has none but its video.

    Raises:
        ValueError: the data are empty.
    """
    first = None
    for record in itertools.islice(records, _NUM_PROBED):
        if not isinstance(record.get("video"), VideoDecodeError):
            return record
        first = first or record
    if first is None:
        raise ValueError(f"{source} contains no videos.")
    return first


def is_text(feature: Any) -> bool:
    """Whether a type of `datasets` is text."""
    return isinstance(feature, Value) and "string" in feature.dtype
