"""Files of vectors with a description of their rows: `.parquet`, or `.npy` and `.json`.

Rows are written as they come, so that memory does not depend on their number, into temporary files that replace the
output at the end. After an error, the output is unchanged, or still does not exist.
"""

import itertools
import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy
from pyarrow import parquet

from ..atomic_files import atomic_write, require_writable
from ..corpus.tables import vector_schema, vector_table

SUFFIXES = (".npy", ".parquet")
_ROWS_PER_GROUP = 8192  # of parquet: a row group has its own index, and must not be small

Rows = tuple[list[dict], np.ndarray]


def require_writable_vectors(output: Path) -> None:
    """Check a file name before vectors are computed.

    Raises:
        ValueError: another extension than `.npy` and `.parquet`.
        OSError: the file can't be written; see `require_writable`.
    """
    if output.suffix not in SUFFIXES:
        raise ValueError(f"--output is {output}; expected a file name that ends in .npy or .parquet.")
    for path in _paths(output):
        require_writable(path)


def write_vectors(output: Path, batches: Iterator[Rows]) -> tuple[int, int]:
    """Write vectors and the description of their rows.

    Args:
        output: `.parquet` with the columns `video`, `start`, `end` (seconds) and `embedding`; or `.npy`, float32
            `(vectors, dim)`, with the rows in a `.json` file beside it.
        batches: pairs of rows `{"video", "start", "end"}` and vectors, float32 `(rows, dim)`. An exception in it
            leaves no file.

    Returns:
        The number of vectors, and their dimension.
    """
    first = next(batches)  # before any file exists
    dimension = first[1].shape[1]
    write = _write_npy if output.suffix == ".npy" else _write_parquet
    with ExitStack() as stack:  # both files or neither
        files = [stack.enter_context(atomic_write(path)) for path in reversed(_paths(output))]
        return write(files[::-1], dimension, itertools.chain([first], batches)), dimension


def _paths(output: Path) -> list[Path]:
    return [output, output.with_suffix(".json")] if output.suffix == ".npy" else [output]


def _write_npy(files: list[Path], dimension: int, batches: Iterator[Rows]) -> int:
    number = 0
    # in JSON, the escape of a name that is not UTF-8 is read as the same name
    with (
        files[0].open("wb") as vectors_file,
        files[1].open("w", encoding="utf-8", errors="backslashreplace") as rows_file,
    ):
        _write_header(vectors_file, 0, dimension)
        for rows, vectors in batches:
            vectors_file.write(np.ascontiguousarray(vectors, "<f4").tobytes())
            for row in rows:
                text = json.dumps([row], indent=1, ensure_ascii=False)
                rows_file.write(("[" if number == 0 else ",") + text[1:-2])
                number += 1
        rows_file.write("\n]")
        vectors_file.seek(0)
        _write_header(vectors_file, number, dimension)
    return number


def _write_header(file: BinaryIO, number: int, dimension: int) -> None:
    """NumPy pads a header for any number of rows, so that it keeps its length."""
    npy.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (number, dimension)})


def _write_parquet(files: list[Path], dimension: int, batches: Iterator[Rows]) -> int:
    number, kept_rows, kept = 0, [], []
    with parquet.ParquetWriter(files[0], vector_schema(dimension)) as writer:

        def write_group() -> None:
            writer.write_table(vector_table(kept_rows, np.concatenate(kept)))
            kept_rows.clear()
            kept.clear()

        for rows, vectors in batches:
            kept_rows += rows
            kept.append(vectors)
            number += len(rows)
            if len(kept_rows) >= _ROWS_PER_GROUP:
                write_group()
        if kept_rows:
            write_group()
    return number
