"""Checks of an index before it is opened and of its rows before they are used: it may come from a stranger.

Opening a table must not read or write outside its folder, so that links and references to other folders are refused,
and it must not run code, so that the schema is exactly that of this package.
"""

import math
import os
import stat
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from lancedb.index import IndexConfig

_BASE_PATHS = 18  # field of Lance's manifest: other folders and URLs with data of the table
_MANIFEST_END = struct.Struct("<q2H4s")  # position of the manifest, version of the format, "LANC"
_LARGEST_NORM = 1 + 1e-3  # of a mean of unit vectors, with rounding


def schema_of(dimension: int, metadata: dict[bytes, bytes]) -> pa.Schema:
    """The schema of the table of windows, with vectors of `dimension` values."""
    texts, integers, seconds = ("reason", "message"), ("size", "modified"), ("start", "end")
    return pa.schema(
        [
            pa.field("video", pa.string(), nullable=False),
            *(pa.field(name, pa.int64(), nullable=False) for name in integers),
            *(pa.field(name, pa.float64()) for name in seconds),
            pa.field("vector", pa.list_(pa.float32(), dimension)),
            *(pa.field(name, pa.string()) for name in texts),
        ],
        metadata=metadata,
    )


def require_schema(schema: pa.Schema) -> None:
    """Raises a ValueError if a table has other columns than those of `schema_of`."""
    kind = schema.field("vector").type if "vector" in schema.names else None
    if not pa.types.is_fixed_size_list(kind) or not schema.remove_metadata().equals(schema_of(kind.list_size, {})):
        raise ValueError(f"its columns are {', '.join(f'{field.name}: {field.type}' for field in schema)}")


def require_indices(indices: Iterable[IndexConfig]) -> None:
    """Raises a ValueError if a table has another index than that of the vectors for their dot product."""
    for index in indices:
        metric = (index.index_details or {}).get("metric_type")
        if (index.index_type, index.columns, metric) != ("IvfRq", ["vector"], "DOT"):
            raise ValueError(f"it has the index {index.index_type} ({metric}) of {', '.join(index.columns)}")


def require_own_files(folder: Path) -> None:
    """Raises a ValueError if the folder of an index contains a link or a device, or if a table in it refers to data
    elsewhere."""
    for path in _entries(folder):
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            raise ValueError(
                f"{path} is a link, through which the index would read or write elsewhere; delete it, or keep the "
                "index in another folder (--index)."
            )
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise ValueError(f"{path} is neither a file nor a folder; delete it.")
        if path.suffix == ".manifest" and _BASE_PATHS in _manifest_fields(path):
            raise ValueError(f"{path} refers to data outside of the index; copy the whole index, or build a new one.")


def _entries(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder, onerror=_raise):
        yield from (Path(parent, name) for name in (*folders, *files))


def _manifest_fields(path: Path) -> set[int]:
    """The numbers of the fields of a manifest, a protocol buffer of which the length is stored before it.

    Raises:
        ValueError: the file is damaged.
    """
    content = path.read_bytes()
    fields = set()
    try:
        start, *_, magic = _MANIFEST_END.unpack(content[-_MANIFEST_END.size :])
        if magic != b"LANC" or start < 0:
            raise ValueError("no manifest of Lance")
        (length,) = struct.unpack_from("<I", content, start)
        position, end = start + 4, start + 4 + length
        if end > len(content):
            raise ValueError("it ends early")
        while position < end:
            key, position = _varint(content, position)
            fields.add(key >> 3)
            if key & 7 == 0:
                _, position = _varint(content, position)
            elif key & 7 == 2:
                size, position = _varint(content, position)
                position += size
            else:
                position += {1: 8, 5: 4}[key & 7]
    except (ValueError, struct.error, IndexError, KeyError) as error:
        raise ValueError(f"{path} is damaged ({error}); delete the index to build a new one.") from error
    return fields


def _varint(content: bytes, position: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte = content[position]
        value |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if byte < 128:
            return value, position


def require_video(name: Any) -> None:
    """Raises a ValueError if a video of an index is not a path inside the folder of videos."""
    parts = name.split("/") if isinstance(name, str) else ()
    if not parts or "\0" in name or os.path.isabs(name) or {"", ".", ".."} & set(parts):
        raise ValueError(f"a video has the path {name!r}")


def require_window(row: dict[str, Any]) -> None:
    """Raises a ValueError if a row with a vector is not a window of a video inside the folder of videos."""
    require_video(row["video"])
    start, end = row["start"], row["end"]
    if start is None or end is None or not 0 <= start < end < math.inf:
        raise ValueError(f"{row['video']!r} has a window from {start} to {end} s")


def require_vectors(vectors: np.ndarray) -> None:
    """Raises a ValueError if a vector, float32 `(rows, dim)`, is not a mean of unit vectors."""
    with np.errstate(over="ignore", invalid="ignore"):
        norms = np.linalg.norm(vectors, axis=-1)
    if not (norms <= _LARGEST_NORM).all():  # false for NaN
        raise ValueError("a vector is not finite, or longer than 1")


def _raise(error: OSError) -> None:
    raise error
