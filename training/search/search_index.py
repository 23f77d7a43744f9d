"""The index of `umt search`: a table of vectors of the videos of a folder.

The vector of a window of time is `video_embeds` of UMT's dual encoder (arXiv 2303.16058, section 3.3). On disk an
index is a folder with

* `index.json`: the folder of videos, the model, the length of a window, the videos that can't be read, and the names
  of the parts; paths are relative to the index;
* `part-000001` …: `datasets` tables (`load_from_disk`) with a row for every window and the columns `video` (path
  relative to the folder of videos), `size` and `modified` (of the file), `start`, `end` (seconds) and `embedding`.

`index.json` alone defines what belongs to the index and is replaced atomically, so an interruption at any moment
leaves a consistent index.
"""

import json
import os
import re
import secrets
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset, Features, List, Value, concatenate_datasets, load_from_disk
from transformers.utils import is_faiss_available

from ..atomic_files import atomic_write, named_errors
from ..data.strict_json import read_json
from ..model_sources import is_local_path

FORMAT = 1
FOLDER = ".umt-index"  # in the folder of videos
MATRIX_ROWS = 1_000_000  # windows that are searched as one matrix; above, FAISS is used where it is installed


class BrokenVideo(NamedTuple):
    """A video that could not be read to its end: size and modification time of the file, reason and message."""

    size: int
    modified: int
    reason: str
    message: str


class IndexModel(NamedTuple):
    """The model of an index: its id on the Hub or its folder, its revision on the Hub, and its `fingerprint`."""

    name: str
    revision: str | None
    fingerprint: str


@dataclass
class Manifest:
    """The content of `index.json`."""

    videos: str
    model: IndexModel
    window: float
    parts: list[str] = field(default_factory=list)
    broken: dict[str, BrokenVideo] = field(default_factory=dict)
    format: int = FORMAT


class SearchIndex:
    """An index on disk, in the state in which this object read it.

    Args:
        folder: folder of the index.

    Raises:
        ValueError: the folder is not an index, is damaged, has a format that this version does not know, or leads
            elsewhere by a link.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        _refuse_links(folder)
        file = folder / "index.json"
        try:
            stored = read_json(file)
        except FileNotFoundError:
            raise ValueError(f"{folder} is not an index of `umt search`: it has no index.json.") from None
        if isinstance(stored, dict) and stored.get("format", FORMAT) != FORMAT:
            raise ValueError(f"{folder} has the format {stored['format']}, this version reads {FORMAT}; delete it.")
        try:
            self.manifest = _manifest(stored)
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise ValueError(f"{file} is damaged ({error}); delete the folder to build a new index.") from error

    @classmethod
    def create(cls, folder: Path, videos: Path, model: IndexModel, window: float) -> "SearchIndex":
        """An empty index of the videos in a folder, with windows of `window` seconds.

        Raises:
            ValueError: the folder leads elsewhere by a link.
        """
        _refuse_links(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if os.path.isdir(model.name):
            model = model._replace(name=_relative(model.name, folder))
        _write_manifest(folder, Manifest(_relative(videos, folder), model, window))
        return cls(folder)

    @staticmethod
    def exists(folder: Path) -> bool:
        return (folder / "index.json").is_file()

    @property
    def videos(self) -> Path:
        """The folder that the paths in the table are relative to."""
        return Path(self._path(self.manifest.videos))

    @property
    def model(self) -> str:
        """The model: its id on the Hub, or its folder."""
        name = self.manifest.model.name
        return self._path(name) if is_local_path(name) else name

    def _path(self, relative: str) -> str:
        path = os.path.join(self.folder, relative)
        short, real = os.path.normpath(path), os.path.realpath(path)
        return short if os.path.realpath(short) == real else real  # `..` in a link leads elsewhere

    @property
    def table(self) -> Dataset | None:
        """All windows, memory-mapped; None if the index is empty."""
        if not self.manifest.parts:
            return None
        return concatenate_datasets([load_from_disk(str(self.folder / part)) for part in self.manifest.parts])

    def require_model(self, model: IndexModel) -> None:
        """Raises a ValueError if the index was created with another model: vectors of two models can't be compared."""
        own = self.manifest.model
        if model.fingerprint != own.fingerprint:
            revision = f" ({own.revision})" if own.revision else ""
            raise ValueError(
                f"The index {self.folder} was created with {self.model}{revision}, not with {model.name} in its "
                "current state (weights and processor). Search with the model of the index, or delete the folder to "
                "build a new index."
            )

    def known(self) -> dict[str, tuple[int, int]]:
        """Size and modification time of all indexed videos when they were read."""
        known = {video: (facts.size, facts.modified) for video, facts in self.manifest.broken.items()}
        if (table := self.table) is not None:
            columns = (table.with_format("numpy")[name] for name in ("size", "modified"))
            known |= {
                video: (int(size), int(modified))
                for video, size, modified in zip(table["video"], *columns, strict=True)
            }
        return known

    def add(self, rows: list[dict[str, Any]], broken: dict[str, BrokenVideo]) -> None:
        """Adds windows and broken videos in one atomic step."""
        if rows:
            vectors = np.stack([row["embedding"] for row in rows])
            columns = {name: [row[name] for row in rows] for name in rows[0] if name != "embedding"}
            table = Dataset.from_dict(columns | {"embedding": list(vectors)}, features=_features(vectors.shape[1]))
            self.manifest.parts.append(self._save(table))
        self.manifest.broken |= broken
        _write_manifest(self.folder, self.manifest)

    def drop(self, videos: set[str]) -> None:
        """Removes videos: their windows, and their entries among the broken ones."""
        table = self.table
        self.manifest.broken = {name: facts for name, facts in self.manifest.broken.items() if name not in videos}
        if table is not None and videos:
            kept = [row for row, video in enumerate(table["video"]) if video not in videos]
            self._replace(table.select(kept))
        else:
            _write_manifest(self.folder, self.manifest)

    def compact(self) -> None:
        """Merges all parts into one, and removes files that an interrupted update left."""
        if len(self.manifest.parts) > 1:
            self._replace(self.table)
        self._remove_strays()

    def _replace(self, table: Dataset) -> None:
        self.manifest.parts = [self._save(table)] if len(table) else []
        _write_manifest(self.folder, self.manifest)
        self._remove_strays()

    def _save(self, table: Dataset) -> str:
        """Writes a part under an unused name and returns the name; the manifest does not contain it yet."""
        numbers = [int(path.name[5:11]) for path in self.folder.glob("part-??????") if path.name[5:].isdigit()]
        name = f"part-{max(numbers, default=0) + 1:06d}"
        temporary = self.folder / f"{name}.{secrets.token_hex(8)}.tmp"
        temporary.mkdir()  # an error if it exists, so that no link is followed
        with named_errors(self.folder / name):
            table.save_to_disk(str(temporary))
        os.replace(temporary, self.folder / name)
        return name

    def _remove_strays(self) -> None:
        for path in self.folder.glob("part-*"):
            if path.name.split(".")[0] not in self.manifest.parts or path.suffix == ".tmp":
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    def nearest(self, vector: np.ndarray, number: int) -> list[dict[str, Any]]:
        """The windows nearest to a vector float32 (E,) by dot product, best first, ties in the order of the table:
        its rows, with `similarity` instead of `embedding`."""
        table = self.table
        if table is None:
            return []
        if len(table) > MATRIX_ROWS and len(self.manifest.parts) == 1 and is_faiss_available():
            similarities, rows = self._nearest_by_faiss(vector, number)
        else:
            chunks = table.data.column("embedding").chunks
            similarities = np.concatenate(
                [chunk.flatten().to_numpy().reshape(-1, len(vector)) @ vector for chunk in chunks]
            )
            rows = np.argsort(-similarities, kind="stable")[:number]
            similarities = similarities[rows]
        found = table.remove_columns("embedding").select(rows)
        return [dict(row, similarity=float(score)) for row, score in zip(found, similarities, strict=True)]

    def _nearest_by_faiss(self, vector: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Searches an inverted file, which the first search saves beside its part."""
        import faiss

        table = self.table
        path = self.folder / f"{self.manifest.parts[0]}.faiss"
        if path.exists():
            table.load_faiss_index("embedding", path)
        else:
            cells = int(np.sqrt(len(table)))
            table.add_faiss_index(
                "embedding",
                string_factory=f"IVF{cells},Flat",
                metric_type=faiss.METRIC_INNER_PRODUCT,
                train_size=min(len(table), 64 * cells),
            )
            with atomic_write(path) as temporary:
                table.save_faiss_index("embedding", temporary)
        inverted = table.get_index("embedding").faiss_index
        inverted.nprobe = max(1, inverted.nlist // 8)
        similarities, rows = inverted.search(vector[None], number)
        return similarities[0][rows[0] >= 0], rows[0][rows[0] >= 0]


def _refuse_links(folder: Path) -> None:
    """A folder of videos from elsewhere may contain a link of the name of the index, or an index with links, through
    which files elsewhere would be overwritten. A folder that the user gives with another name may be a link."""
    for path in (folder if folder.name == FOLDER else None, folder / "index.json", folder / "lock"):
        if path is not None and path.is_symlink():
            raise ValueError(
                f"{path} is a link, through which the index would write elsewhere; delete it, or keep the index in "
                "another folder (--index)."
            )


def _relative(path: str | Path, folder: Path) -> str:
    """A path relative to the folder of the index, which `is_local_path`, with links followed."""
    return os.path.join(os.curdir, os.path.relpath(os.path.realpath(path), os.path.realpath(folder)))


def _manifest(stored: dict[str, Any]) -> Manifest:
    """The content of `index.json`.

    Raises:
        TypeError, KeyError, AttributeError, ValueError: it is not what this module writes.
    """
    stored["model"] = IndexModel(**stored["model"])
    stored["broken"] = {video: BrokenVideo(**facts) for video, facts in stored["broken"].items()}
    manifest = Manifest(**stored)
    if not isinstance(manifest.window, float) or not manifest.window > 0:
        raise ValueError(f"the window is {manifest.window!r}")
    if odd := [part for part in manifest.parts if not re.fullmatch(r"part-\d{6}", part)]:
        raise ValueError(f"a part has the name {odd[0]!r}")
    return manifest


def _features(dim: int) -> Features:
    numbers = {"size": Value("int64"), "modified": Value("int64"), "start": Value("float64"), "end": Value("float64")}
    return Features({"video": Value("string"), **numbers, "embedding": List(Value("float32"), length=dim)})


def _write_manifest(folder: Path, manifest: Manifest) -> None:
    fields = asdict(manifest)
    fields["model"] = manifest.model._asdict()
    fields["broken"] = {video: facts._asdict() for video, facts in manifest.broken.items()}
    with atomic_write(folder / "index.json") as temporary:
        temporary.write_text(json.dumps(fields, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
