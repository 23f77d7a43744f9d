"""Lists of videos and parquet files as tables."""

from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset
from datasets.exceptions import DatasetGenerationError

from .table_columns import name_columns
from .video_lists import read_list

LIST_COLUMNS = ("caption", "answer")  # one text in a row, or several
_KINDS = {
    bool: "true or false", int: "a number", float: "a number", str: "a text", list: "a list", dict: "an object",
}  # fmt: skip


def read_table(path: Path, columns: Mapping[str, str], reads: Collection[str]) -> Dataset:
    """Reads a list of videos or a parquet file, with the column names of this package.

    Args:
        path: a file with one of the extensions `LIST_SUFFIXES`, or `.parquet`.
        columns: new name → name in the file, see `load_video_records`.
        reads: names, of this package, of the columns that are needed. Any other column of a list that can't be read,
            such as one with values of different types, is left out.

    Raises:
        ValueError: the file does not exist, is damaged, has no column of videos, or a column of
            `reads` has values of different types.
    """
    if path.suffix.lower() != ".parquet":
        return _table(read_list(path, columns), path, reads)
    if not path.is_file():
        raise ValueError(f"The list of videos {path} does not exist; check the path.")
    try:
        records = Dataset.from_parquet(str(path))
    except (OSError, ValueError, pa.ArrowException, DatasetGenerationError) as error:
        raise ValueError(f"{path} can't be read as parquet: {error.__cause__ or error}") from error
    return name_columns(records, columns, str(path))


def _table(rows: list[dict[str, Any]], path: Path, reads: Collection[str]) -> Dataset:
    table = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row.get(name) for row in rows]
        if name in LIST_COLUMNS and any(isinstance(value, list) for value in values):
            values = [value if isinstance(value, list) or value is None else [value] for value in values]
        try:
            table[name] = pa.array(values)
        except (pa.ArrowException, OverflowError, UnicodeEncodeError, RecursionError) as error:
            if name in reads:
                types = sorted({type(value).__name__ for row in rows for value in _elements(row, name)})
                raise ValueError(
                    f"The column {name!r} of {path}, with values of the types {', '.join(types)}, can't be read: "
                    f"{_odd_row(rows, name) or error}. Write all values of a column in the same way."
                ) from error
    try:
        return Dataset(pa.table(table))
    except (pa.ArrowException, UnicodeEncodeError, RecursionError) as error:
        raise ValueError(f"{path} can't be read as a table: {error}. Are its values nested too deeply?") from error


def _odd_row(rows: list[dict[str, Any]], name: str) -> str | None:
    """The first value of another kind than most in a column; None if all are of one kind."""
    kinds = [{_KINDS[type(value)] for value in _elements(row, name)} for row in rows]
    counts = Counter(kind for found in kinds for kind in found)
    if len(counts) < 2:
        return None
    usual = counts.most_common(1)[0][0]
    row = next(row for row, found in enumerate(kinds) if found - {usual})
    return f"row {row} ({rows[row]['video']}) has {rows[row][name]!r:.80}, where most rows have {usual}"


def _elements(row: dict[str, Any], name: str) -> list[Any]:
    """The values of a row in a column: one, or the elements of a list where lists are allowed; none for None."""
    value = row.get(name)
    values = value if name in LIST_COLUMNS and isinstance(value, list) else [value]
    return [value for value in values if value is not None]
