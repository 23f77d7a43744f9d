"""Lists of videos and parquet files as tables."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset
from datasets.exceptions import DatasetGenerationError

from .table_columns import name_columns
from .video_lists import read_list


def read_table(path: Path, columns: Mapping[str, str]) -> Dataset:
    """Reads a list of videos or a parquet file, with the column names of this package.

    Args:
        path: a file with one of the extensions `LIST_SUFFIXES`, or `.parquet`.
        columns: new name → name in the file, see `load_video_records`.

    Raises:
        ValueError: the file does not exist, is damaged, has no column of videos, or a column has values of different
            types.
    """
    if path.suffix.lower() != ".parquet":
        return _table(read_list(path, columns), path)
    if not path.is_file():
        raise ValueError(f"The list of videos {path} does not exist; check the path.")
    try:
        records = Dataset.from_parquet(str(path))
    except (OSError, ValueError, pa.ArrowException, DatasetGenerationError) as error:
        raise ValueError(f"{path} can't be read as parquet: {error.__cause__ or error}") from error
    return name_columns(records, columns, str(path))


def _table(rows: list[dict[str, Any]], path: Path) -> Dataset:
    names = dict.fromkeys(name for row in rows for name in row)
    table = {}
    for name in names:
        values = [row.get(name) for row in rows]
        if any(isinstance(value, list) for value in values):  # a caption may be one text or several
            values = [value if isinstance(value, list) or value is None else [value] for value in values]
        try:
            table[name] = pa.array(values)
        except (pa.ArrowException, OverflowError, UnicodeEncodeError, RecursionError) as error:
            kinds = sorted({type(value).__name__ for value in values if value is not None})
            raise ValueError(
                f"The column {name!r} of {path}, with values of the types {', '.join(kinds)}, can't be read: {error}. "
                "Write all values of a column in the same way."
            ) from error
    try:
        return Dataset(pa.table(table))
    except (pa.ArrowException, UnicodeEncodeError, RecursionError) as error:
        raise ValueError(f"{path} can't be read as a table: {error}. Are its values nested too deeply?") from error
