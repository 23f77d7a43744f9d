"""A folder of videos as a table of vectors that texts are compared with: the index of `umt search`.

The vector of a window of time is `video_embeds` of UMT's dual encoder (arXiv 2303.16058, section 3.3). On disk an
index is a folder:

* `index.json`: which model made it, the length of a window, the videos that can't be read, and the names of
* `part-000001` …: `datasets` tables (`load_from_disk`) with `video` (path below the folder of videos), `size` and
  `modified` (of the file), `start`, `end` (seconds) and `embedding`, a row for every window.

Unusual: `index.json` alone says what belongs to the index and is replaced in one step, so that a kill at any moment
leaves an index that is whole, and the next update goes on from the files that are in it. Parts are written at growing
intervals, so that a kill costs at most a twentieth of the work, and become one at the end. Nothing is asked of the
clock: a file is done again where its size or time of change differs, and a broken one is not tried again until then.
"""

import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import Dataset, Features, List, Value, concatenate_datasets, load_from_disk
from filelock import FileLock, Timeout
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from tqdm import tqdm
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import is_faiss_available

from modeling_umt.modeling_umt_video_text import mean_of_unit_vectors
from processing_umt import VideoDecodeError

from ..atomic_files import atomic_write
from ..data.batching import batches
from ..data.video_files import list_video_files
from .windows import read_windows

FORMAT = 1
FOLDER = ".umt-index"  # in the folder of videos
MATRIX_ROWS = 1_000_000  # windows that are searched as one matrix; beyond, FAISS is used where it is installed
_COMMIT_SECONDS = 2.0
_COMMIT_SHARE = 0.05  # of the time since the update began


class BrokenVideo(NamedTuple):
    """A video that could not be read to its end: size and time of change of the file, reason and message."""

    size: int
    modified: int
    reason: str
    message: str


class IndexModel(NamedTuple):
    """Which model made an index: its name or folder, its revision on the Hub, and `fingerprint`."""

    name: str
    revision: str | None
    fingerprint: str


@dataclass
class Manifest:
    """What `index.json` says."""

    videos: str
    model: IndexModel
    window: float
    parts: list[str] = field(default_factory=list)
    broken: dict[str, BrokenVideo] = field(default_factory=dict)
    format: int = FORMAT


class SearchIndex:
    """An index on disk, as it was when this was made.

    Args:
        folder: of the index.

    Raises:
        ValueError: there is none, or of a format that this version does not know.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        try:
            stored = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ValueError(f"{folder} is no index of `umt search`: it has no index.json.") from None
        if stored["format"] != FORMAT:
            raise ValueError(f"{folder} has the format {stored['format']}, this version reads {FORMAT}; delete it.")
        stored["model"] = IndexModel(**stored["model"])
        stored["broken"] = {video: BrokenVideo(**facts) for video, facts in stored["broken"].items()}
        self.manifest = Manifest(**stored)

    @classmethod
    def create(cls, folder: Path, videos: Path, model: IndexModel, window: float) -> "SearchIndex":
        """An empty index of the videos in a folder, by windows of so many seconds."""
        folder.mkdir(parents=True, exist_ok=True)
        inside = videos.resolve() in folder.resolve().parents  # then both can be moved together
        place = os.path.relpath(videos, folder) if inside else os.path.abspath(videos)
        _write_manifest(folder, Manifest(place, model, window))
        return cls(folder)

    @staticmethod
    def exists(folder: Path) -> bool:
        return (folder / "index.json").is_file()

    @property
    def videos(self) -> Path:
        """The folder that the paths in the table are relative to."""
        return Path(os.path.normpath(self.folder / self.manifest.videos))

    @property
    def table(self) -> Dataset | None:
        """All windows; None if there are none. Rows stay on disk until they are asked for."""
        if not self.manifest.parts:
            return None
        return concatenate_datasets([load_from_disk(str(self.folder / part)) for part in self.manifest.parts])

    def require_model(self, model: IndexModel) -> None:
        """Raises a ValueError if another model made the index: its vectors mean nothing to this one."""
        own = self.manifest.model
        if model.fingerprint != own.fingerprint:
            revision = f" ({own.revision})" if own.revision else ""
            raise ValueError(
                f"The index {self.folder} was made by {own.name}{revision}, and not by {model.name} with the weights "
                "and processor that it has now. Search with that model, or delete the folder to index anew."
            )

    def known(self) -> dict[str, tuple[int, int]]:
        """Size and time of change of all videos in the index, as they were then."""
        known = {video: (facts.size, facts.modified) for video, facts in self.manifest.broken.items()}
        if (table := self.table) is not None:
            columns = (table.with_format("numpy")[name] for name in ("size", "modified"))
            known |= {
                video: (int(size), int(modified))
                for video, size, modified in zip(table["video"], *columns, strict=True)
            }
        return known

    def add(self, rows: list[dict[str, Any]], broken: dict[str, BrokenVideo]) -> None:
        """Adds windows and broken videos, both or neither."""
        if rows:
            vectors = np.stack([row["embedding"] for row in rows])
            columns = {name: [row[name] for row in rows] for name in rows[0] if name != "embedding"}
            table = Dataset.from_dict(columns | {"embedding": list(vectors)}, features=_features(vectors.shape[1]))
            self.manifest.parts.append(self._save(table))
        self.manifest.broken |= broken
        _write_manifest(self.folder, self.manifest)

    def drop(self, videos: set[str]) -> None:
        """Removes all windows of some videos, and these from the broken."""
        table = self.table
        self.manifest.broken = {name: facts for name, facts in self.manifest.broken.items() if name not in videos}
        if table is not None and videos:
            kept = [row for row, video in enumerate(table["video"]) if video not in videos]
            self._replace(table.select(kept))
        else:
            _write_manifest(self.folder, self.manifest)

    def compact(self) -> None:
        """Makes one part of all, and removes what a killed update left."""
        if len(self.manifest.parts) > 1:
            self._replace(self.table)
        self._remove_strays()

    def _replace(self, table: Dataset) -> None:
        self.manifest.parts = [self._save(table)] if len(table) else []
        _write_manifest(self.folder, self.manifest)
        self._remove_strays()

    def _save(self, table: Dataset) -> str:
        """Writes a part under a name that was never used, and returns it; it does not belong to the index yet."""
        numbers = [int(path.name[5:11]) for path in self.folder.glob("part-??????") if path.name[5:].isdigit()]
        name = f"part-{max(numbers, default=0) + 1:06d}"
        temporary = self.folder / f"{name}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        table.save_to_disk(str(temporary))
        os.replace(temporary, self.folder / name)
        return name

    def _remove_strays(self) -> None:
        for path in self.folder.glob("part-*"):
            if path.name.split(".")[0] not in self.manifest.parts or path.suffix == ".tmp":
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def nearest(self, vector: np.ndarray, number: int) -> list[dict[str, Any]]:
        """The windows nearest to a vector float32 (E,), by dot product, best first; of equal ones the first in the
        table. Rows of it, with `similarity` instead of `embedding`."""
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
        """By an inverted file that is kept beside the part that it was made of; made by the first search."""
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


_OF_THE_PROCESSOR = (
    "num_frames", "sampling", "frame_stride", "do_resize", "size", "resample", "resize_kernel", "do_center_crop",
    "crop_size", "do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std",
)  # fmt: skip


def fingerprint(model: PreTrainedModel, processor: Any) -> str:
    """A hash of what vectors depend on: configuration, processor, and the first numbers of every weight."""
    options = {name: getattr(processor.video_processor, name) for name in _OF_THE_PROCESSOR}
    options |= {name: dict(options[name]) for name in ("size", "crop_size")}
    digest = hashlib.blake2b(digest_size=8)
    digest.update(json.dumps([_own_fields(model.config), options], sort_keys=True, default=str).encode())
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().reshape(-1)[:1024].float().cpu().numpy().tobytes())
    return digest.hexdigest()


def _own_fields(config: PreTrainedConfig) -> dict[str, Any]:
    """The fields of the model, without those of Transformers, which differ from version to version."""
    fields = {name: getattr(config, name) for name in type(config).__annotations__}
    return {
        name: _own_fields(value) if isinstance(value, PreTrainedConfig) else value for name, value in fields.items()
    }


def update(
    index: SearchIndex, model: PreTrainedModel, processor: Any, *, batch_size: int = 4, num_workers: int = 0
) -> tuple[int, dict[str, BrokenVideo]]:
    """Brings an index up to date with its folder: new files, changed ones, deleted ones.

    Args:
        index: changed in place and on disk.
        model, processor: a `UMTVideoTextModel` on its device, in evaluation mode, and its `UMTProcessor`.
        batch_size: windows that pass the model at once.
        num_workers: processes that decode.

    Returns:
        How many files were done, and those of them that are broken.

    Raises:
        ValueError: another process is updating the index, or the folder holds no videos.
    """
    try:
        with FileLock(index.folder / "lock", timeout=0):
            return _update(SearchIndex(index.folder), index, model, processor, batch_size, num_workers)
    except Timeout:
        raise ValueError(f"Another process is updating the index {index.folder}; wait until it is done.") from None


def _update(
    fresh: SearchIndex, index: SearchIndex, model: PreTrainedModel, processor: Any, batch_size: int, num_workers: int
) -> tuple[int, dict[str, BrokenVideo]]:
    index.manifest = fresh.manifest
    present = {}
    for path in list_video_files([str(index.videos)]):
        present[os.path.relpath(path, index.videos)] = _stamp(path)
    known = index.known()
    stale = {video for video, stamp in known.items() if present.get(video) != stamp}
    if stale:
        index.drop(stale)
    todo = {video: stamp for video, stamp in present.items() if known.get(video) != stamp}

    all_broken: dict[str, BrokenVideo] = {}
    rows: list[dict[str, Any]] = []
    broken: dict[str, BrokenVideo] = {}
    began = committed = time.monotonic()
    with tqdm(total=len(todo), desc="indexing", unit=" videos", delay=1, leave=False, file=sys.stderr) as progress:
        for done, error in embed_files(index, list(todo), model, processor, batch_size, num_workers):
            video, windows = done
            size, modified = todo[video]
            rows += [{"video": video, "size": size, "modified": modified, **window} for window in windows]
            if error is not None:
                broken[video] = BrokenVideo(size, modified, *error)
            progress.update()
            now = time.monotonic()
            if now - committed > max(_COMMIT_SECONDS, _COMMIT_SHARE * (now - began)):
                index.add(rows, broken)
                all_broken |= broken
                rows, broken, committed = [], {}, now
    if rows or broken:
        index.add(rows, broken)
    index.compact()
    return len(todo), all_broken | broken


def _stamp(path: str) -> tuple[int, int]:
    """Size and time of change of a file; of a dangling link what no file has."""
    try:
        status = os.stat(path)
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns


def embed_files(
    index: SearchIndex,
    videos: Sequence[str],
    model: PreTrainedModel,
    processor: Any,
    batch_size: int,
    num_workers: int,
) -> Iterator[tuple[tuple[str, list[dict[str, Any]]], tuple[str, str] | None]]:
    """Each video when its last window is done: (its path, its windows `{"start", "end", "embedding"}`), and reason and
    message if it is broken; then its windows are those before the break."""
    stream = WindowStream(index.videos, videos, processor.video_processor, index.manifest.window)
    loader = DataLoader(
        stream, batch_size=None, num_workers=num_workers, collate_fn=_as_it_is, generator=torch.Generator()
    )
    windows: dict[str, list[dict[str, Any]]] = {video: [] for video in videos}
    for batch in batches(loader, batch_size):
        read = [(video, window, clip) for video, window, clip in batch if isinstance(clip, torch.Tensor)]
        if read:
            pixels = torch.cat([clip for *_, clip in read]).to(model.device, model.dtype)
            with torch.inference_mode():
                frames = model.get_video_features(pixels).pooler_output
            vectors = mean_of_unit_vectors(frames.float()).cpu().numpy()
            for (video, window, _), vector in zip(read, vectors, strict=True):
                windows[video].append({**window, "embedding": vector})
        for video, window, error in batch:
            if window is None:
                yield (video, windows.pop(video)), error


class WindowStream(IterableDataset):
    """Windows of videos one after the other: (video, `{"start", "end"}`, `pixel_values_videos (1, frames, channels,
    height, width)`), and at the end of each video (video, None, None or reason and message of what broke it). A worker
    reads whole videos, so that a long one does not have to be held in memory."""

    def __init__(self, folder: Path, videos: Sequence[str], video_processor: Any, window: float):
        self.folder, self.videos, self.video_processor, self.window = folder, videos, video_processor, window

    def __iter__(self) -> Iterator[tuple[str, dict[str, float] | None, Any]]:
        worker = get_worker_info()
        for video in self.videos if worker is None else self.videos[worker.id :: worker.num_workers]:
            try:
                path = os.path.join(self.folder, video)
                for row, clip in read_windows(path, self.video_processor, self.window, self.window, _no_announcement):
                    yield video, {"start": row["start"], "end": row["end"]}, clip
            except VideoDecodeError as error:
                yield video, None, (error.reason, str(error))
            else:
                yield video, None, None


def _no_announcement(count: int) -> None:
    """Windows are not counted beforehand."""


def _as_it_is(item: Any) -> Any:
    return item


def _features(width: int) -> Features:
    numbers = {"size": Value("int64"), "modified": Value("int64"), "start": Value("float64"), "end": Value("float64")}
    return Features({"video": Value("string"), **numbers, "embedding": List(Value("float32"), length=width)})


def _write_manifest(folder: Path, manifest: Manifest) -> None:
    fields = asdict(manifest)
    fields["model"] = manifest.model._asdict()
    fields["broken"] = {video: facts._asdict() for video, facts in manifest.broken.items()}
    with atomic_write(folder / "index.json") as temporary:
        temporary.write_text(json.dumps(fields, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
