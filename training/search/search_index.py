"""The index of `umt search`: a table of vectors of the videos of a folder, in LanceDB.

The vector of a window of time is `video_embeds` of UMT's dual encoder (arXiv 2303.16058, section 3.3). The table
`windows` has a row for every window and one for every broken video, with the columns

* `video`: path relative to the folder of videos; `size` and `modified` (nanoseconds) of the file when it was read;
* `start`, `end` (seconds) and `vector` of a window;
* `reason` and `message` of a broken video, whose row has no vector.

Every change is one commit of LanceDB, so an interruption at any moment leaves a consistent index. Small tables are
searched exactly, large ones by an inverted file of quantised vectors.
"""

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import lancedb
import numpy as np
import pyarrow as pa
from lancedb.expr import col
from lancedb.index import IvfRq

from ..model_sources import is_local_path
from .index_checks import (
    require_indices,
    require_own_files,
    require_schema,
    require_vectors,
    require_video,
    require_window,
    schema_of,
)
from .index_facts import IndexFacts, IndexModel, read_facts
from .old_index import refuse_old_index

FOLDER = ".umt-index"  # in the folder of videos
TABLE = "windows"
# the choice and the recall are measured by benchmarks/vector_index.py
EXACT_ROWS = 100_000  # tables of fewer rows are searched exactly
NUM_PROBES = 40  # partitions that a query visits, of the square root of the number of rows
NUM_REFINED = 10  # candidates per result, of which the vectors are compared without quantisation
_REBUILD_SHARE = 0.1  # rows that the approximate index does not cover
_KEEP_VERSIONS = timedelta(hours=1)  # a search that has begun still reads the version that it opened
_NAMES_PER_DELETION = 1000


class BrokenVideo(NamedTuple):
    """A video that could not be read to its end: size and modification time of the file, reason and message."""

    size: int
    modified: int
    reason: str
    message: str


class SearchIndex:
    """An index, in the version in which this object opened it.

    Args:
        uri: folder of the index, or the URI of a folder in object storage, such as `s3://bucket/index`.
        videos: the folder of videos; default: the one that the index states.

    Raises:
        ValueError: it is not an index, is damaged, has a format that this version does not know, contains links or
            refers to other places; or the folder of videos is not given, and the index does not state it.
        OSError: it can't be read.
    """

    def __init__(self, uri: str | os.PathLike, videos: str | os.PathLike | None = None):
        self.uri = str(uri)
        if not self.exists(self.uri):
            raise ValueError(f"{self.uri} is not an index of `umt search`: it has no table {TABLE!r}.")
        if not is_remote(self.uri):
            require_own_files(Path(self.uri))
        with self._damage():
            self.table = _connect(self.uri).open_table(TABLE)
            require_schema(self.table.schema)
            require_indices(self.table.list_indices())
            self.facts, self.is_own = read_facts(self.table.schema.metadata)
        stated = None if self.facts.videos is None else Path(self._path(self.facts.videos))
        if videos is None and stated is None:
            raise ValueError(f"The index {self.uri} is in object storage and states no folder of videos; give it too.")
        self.videos = stated if videos is None else Path(videos)
        # the folder is not known to be that of the index: both were moved, or the index is shared between machines
        self.is_elsewhere = stated is None or not stated.exists()
        if not self.is_elsewhere and not os.path.samefile(stated, self.videos):
            raise ValueError(
                f"{self.uri} is the index of the videos in {stated}, not in {self.videos}; keep another index "
                "elsewhere (--index)."
            )
        self._checked_version: int | None = None

    @classmethod
    def create(
        cls,
        uri: str | os.PathLike,
        videos: str | os.PathLike,
        model: IndexModel,
        window: float,
        dimension: int,
    ) -> "SearchIndex":
        """An empty index of the videos in a folder, with windows of `window` seconds and vectors of `dimension`
        values.

        Raises:
            ValueError: there is an index already, or the folder leads elsewhere by a link.
            OSError: it can't be written.
        """
        uri = str(uri)
        local = is_local_path(model.name) or os.path.isdir(model.name)
        if is_remote(uri):  # shared by machines with other paths
            facts = IndexFacts(None, model._replace(name=f"./{Path(model.name).name}") if local else model, window)
        else:
            _refuse_link(uri)
            refuse_old_index(uri)
            if os.path.isdir(uri):
                require_own_files(Path(uri))
            os.makedirs(uri, exist_ok=True)
            model = model._replace(name=_relative(model.name, uri)) if local else model
            facts = IndexFacts(_relative(videos, uri), model, window)
        with _named_errors(uri):
            _connect(uri).create_table(TABLE, schema=schema_of(dimension, facts.to_metadata()))
        return cls(uri, videos)

    @staticmethod
    def exists(uri: str | os.PathLike) -> bool:
        """Whether there is an index.

        Raises:
            ValueError: the folder leads elsewhere by a link, or is an index of an earlier version.
            OSError: the object storage can't be read.
        """
        uri = str(uri)
        if is_remote(uri):
            with _named_errors(uri):
                return TABLE in _connect(uri).list_tables().tables
        _refuse_link(uri)
        refuse_old_index(uri)
        table = Path(uri, f"{TABLE}.lance")
        # a folder without a version is what an interrupted creation left; a link is refused when it is opened
        return table.is_symlink() or any(table.glob("_versions/*.manifest"))

    @property
    def model(self) -> str:
        """The model: its id on the Hub, or its folder."""
        name = self.facts.model.name
        return self._path(name) if is_local_path(name) and not is_remote(self.uri) else name

    @property
    def is_in_videos(self) -> bool:
        """Whether the index is in the folder of its videos, so that no other folder is read."""
        return os.path.realpath(self.videos) == os.path.dirname(os.path.realpath(self.uri))

    def _path(self, relative: str) -> str:
        path = os.path.join(self.uri, relative)
        short, real = os.path.normpath(path), os.path.realpath(path)
        return short if os.path.realpath(short) == real else real  # `..` in a link leads elsewhere

    def require_model(self, model: IndexModel) -> None:
        """Raises a ValueError if the index was created with another model: vectors of two models can't be compared."""
        own = self.facts.model
        if model.fingerprint != own.fingerprint:
            revision = f" ({own.revision})" if own.revision else ""
            raise ValueError(
                f"The index {self.uri} was created with {self.model}{revision}, not with {model.name} in its current "
                "state (weights, configuration, processor and vocabulary). Search with the model of the index, or "
                "delete the index to build a new one."
            )

    def known(self) -> dict[str, tuple[int, int] | None]:
        """Size and modification time of all indexed videos when they were read; None if two updates at the same time
        indexed a video twice.

        Raises:
            ValueError: a video is not inside the folder of videos.
        """
        with self._damage():
            rows = self.table.search().select(["video", "size", "modified", "start"]).to_arrow()
            # a video has a row without a start if it is broken
            counts = [("start", "count"), ("start", "count_distinct", pa.compute.CountOptions(mode="only_valid"))]
            groups = rows.group_by("video").aggregate(
                [(name, kind) for name in ("size", "modified") for kind in ("min", "max")] + counts
            )
            names = groups["video"].to_pylist()
            for name in names:
                require_video(name)
        columns = (groups[name].to_pylist() for name in groups.column_names if name != "video")
        return {
            name: (size, modified) if (size, modified, number) == (same_size, same_modified, distinct) else None
            for name, size, same_size, modified, same_modified, number, distinct in zip(names, *columns, strict=True)
        }

    def broken(self) -> dict[str, BrokenVideo]:
        """The videos that could not be read to their end."""
        fields = ["video", *BrokenVideo._fields]
        with self._damage():
            rows = self.table.search().where("reason IS NOT NULL").select(fields).to_arrow().to_pylist()
        return {row.pop("video"): BrokenVideo(**row) for row in rows}

    def add(self, rows: list[dict[str, Any]], broken: dict[str, BrokenVideo]) -> None:
        """Adds windows, with `video`, `size`, `modified`, `start`, `end` and `vector`, and broken videos, in one
        commit.

        Raises:
            ValueError: a vector is not finite.
            OSError: the index can't be written.
        """
        for row in rows:
            if not np.isfinite(row["vector"]).all():
                raise ValueError(
                    f"{row['video']}: the vector of the window at {row['start']:g} s is not finite; use --dtype "
                    "float32, or check the weights."
                )
        schema = self.table.schema
        added = rows + [{"video": video, **facts._asdict()} for video, facts in broken.items()]
        columns = [
            _vector_column([row.get("vector") for row in added], field.type)
            if field.name == "vector"
            else pa.array([row.get(field.name) for row in added], field.type)
            for field in schema
        ]
        with _named_errors(self.uri):
            self.table.add(pa.table(columns, schema=schema))

    def drop(self, videos: Collection[str]) -> None:
        """Removes videos, a thousand per commit: their windows, and their entries among the broken ones."""
        names = sorted(videos)
        with _named_errors(self.uri):
            for first in range(0, len(names), _NAMES_PER_DELETION):
                self.table.delete(col("video").isin(names[first : first + _NAMES_PER_DELETION]))

    def optimize(self) -> None:
        """Merges small files, removes old versions, and brings the approximate index up to date."""
        with _named_errors(self.uri):
            num_rows = self.table.count_rows()
            covered = [index.num_indexed_rows for index in self.table.list_indices()]
            num_uncovered = num_rows - max(covered, default=0)
            if num_rows >= EXACT_ROWS and num_uncovered > _REBUILD_SHARE * num_rows:
                num_partitions = int(num_rows**0.5)
                config = IvfRq(distance_type="dot", num_partitions=num_partitions, sample_rate=64, max_iterations=20)
                self.table.create_index("vector", config=config, replace=True)
            if self.table.stats()["fragment_stats"]["num_small_fragments"] > 1 or (covered and num_uncovered):
                self.table.optimize(cleanup_older_than=_KEEP_VERSIONS)

    @property
    def is_approximate(self) -> bool:
        """Whether the vectors have an approximate index."""
        return bool(self.table.list_indices())

    def nearest(self, vector: np.ndarray, number: int) -> list[dict[str, Any]]:
        """The windows nearest to a vector float32 (E,) by dot product, best first: `video`, `start`, `end`,
        `similarity`. Of a large table, the search is approximate.

        Raises:
            ValueError: a vector of the index is not a mean of unit vectors, or a window is not of a video inside the
                folder of videos.
        """
        with self._damage():
            query = self.table.search(vector, vector_column_name="vector", query_type="vector").distance_type("dot")
            if self.is_approximate:
                query = query.nprobes(NUM_PROBES).refine_factor(NUM_REFINED)
            else:
                self._check_vectors()
                query = query.bypass_vector_index()
            found = query.select(["video", "start", "end", "vector", "_distance"]).limit(number).to_arrow()
            rows = found.select(["video", "start", "end"]).to_pylist()
            for row in rows:
                require_window(row)
            vectors = _matrix(found["vector"].combine_chunks(), len(vector))
            require_vectors(vectors)
        found = [dict(row, similarity=float(score)) for row, score in zip(rows, vectors @ vector, strict=True)]
        return sorted(found, key=lambda row: (-row["similarity"], row["video"], row["start"]))

    def _check_vectors(self) -> None:
        """Checks all vectors of this version once: a search leaves out those that are not finite."""
        if self._checked_version == self.table.version:
            return
        dimension = self.table.schema.field("vector").type.list_size
        for batch in self.table.search().where("vector IS NOT NULL").select(["vector"]).to_batches():
            require_vectors(_matrix(batch["vector"], dimension))
        self._checked_version = self.table.version

    @contextmanager
    def _damage(self) -> Iterator[None]:
        """Names the index in errors of its content."""
        with _named_errors(self.uri):
            try:
                yield
            except ValueError as error:
                raise ValueError(f"The index {self.uri} is damaged: {error}; delete it to build a new one.") from error


def is_remote(uri: str) -> bool:
    """Whether an index is in object storage."""
    return "://" in uri


def _connect(uri: str) -> lancedb.DBConnection:
    if uri.startswith(("db://", "file://", "file+uring://")):
        raise ValueError(
            f"The index is {uri}; expected the path of a folder, or object storage such as s3://bucket/index."
        )
    return lancedb.connect(uri)


def _matrix(vectors: pa.FixedSizeListArray, dimension: int) -> np.ndarray:
    return vectors.flatten().to_numpy().reshape(-1, dimension)


def _vector_column(vectors: list[np.ndarray | None], kind: pa.FixedSizeListType) -> pa.FixedSizeListArray:
    none = np.zeros(kind.list_size, np.float32)
    values = np.asarray([none if vector is None else vector for vector in vectors], np.float32)
    mask = pa.array([vector is None for vector in vectors])
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), type=kind, mask=mask)


def _refuse_link(folder: str) -> None:
    """A folder of videos from elsewhere may contain a link of the name of the index. A folder that the user gives with
    another name may be a link."""
    path = Path(folder)
    if path.name == FOLDER and path.is_symlink():
        raise ValueError(
            f"{path} is a link, through which the index would write elsewhere; delete it, or keep the index in "
            "another folder (--index)."
        )


def _relative(path: str | os.PathLike, folder: str) -> str:
    """A path relative to the folder of the index, which `is_local_path`, with links followed."""
    return os.path.join(os.curdir, os.path.relpath(os.path.realpath(path), os.path.realpath(folder)))


@contextmanager
def _named_errors(uri: str) -> Iterator[None]:
    """Turns errors of LanceDB, of storage or of damaged files, into an OSError that names the index."""
    try:
        yield
    except (RuntimeError, ValueError, OSError) as error:
        if not _is_of_lance(error):
            raise
        detail = " ".join(str(error).split())[:300]
        raise OSError(f"The index {uri} can't be read or written: {detail}") from error


def _is_of_lance(error: BaseException) -> bool:
    """Whether LanceDB raised an error, in Python or below."""
    traceback = error.__traceback__
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback.tb_frame.f_globals.get("__name__", "").partition(".")[0] == "lancedb"
