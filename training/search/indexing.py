"""Updates of a `SearchIndex`: finds new, changed and deleted files of its folder and encodes their windows.

A file is read again if its size or modification time has changed, and a broken file is not retried until then. Parts
are saved at growing intervals, so that an interruption costs at most a twentieth of the work, and are merged at the
end; the next update resumes from the saved files.
"""

import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from tqdm import tqdm
from transformers import PreTrainedConfig, PreTrainedModel

from processing_umt import VideoDecodeError

from ..corpus.clip_vectors import clip_vectors
from ..data.batching import batches, identity_collate
from ..data.video_files import list_video_files
from .search_index import BrokenVideo, SearchIndex
from .windows import read_windows

_COMMIT_SECONDS = 2.0
_COMMIT_SHARE = 0.05  # of the time since the update began

_PROCESSOR_OPTIONS = (
    "num_frames", "sampling", "frame_stride", "do_resize", "size", "resample", "resize_kernel", "do_center_crop",
    "crop_size", "do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std",
)  # fmt: skip


def fingerprint(model: PreTrainedModel, processor: Any) -> str:
    """A hash of what vectors of videos depend on: configuration, processor, and the first 1024 values of every weight.

    The vocabulary's hash is left out: an index of a model remains valid when the hash is written into it."""
    options = {name: getattr(processor.video_processor, name) for name in _PROCESSOR_OPTIONS}
    options |= {name: dict(options[name]) for name in ("size", "crop_size")}
    digest = hashlib.blake2b(digest_size=8)
    digest.update(json.dumps([_own_fields(model.config), options], sort_keys=True, default=str).encode())
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().reshape(-1)[:1024].float().cpu().numpy().tobytes())
    return digest.hexdigest()


def _own_fields(config: PreTrainedConfig) -> dict[str, Any]:
    """The fields of the model's own configuration class; those of Transformers differ from version to version."""
    fields = {name: getattr(config, name) for name in type(config).__annotations__ if name != "vocabulary_hash"}
    return {
        name: _own_fields(value) if isinstance(value, PreTrainedConfig) else value for name, value in fields.items()
    }


def update(
    index: SearchIndex, model: PreTrainedModel, processor: Any, *, batch_size: int = 4, num_workers: int = 0
) -> tuple[int, dict[str, BrokenVideo]]:
    """Brings an index up to date with its folder: new, changed and deleted files.

    Args:
        index: updated in memory and on disk.
        model, processor: a `UMTVideoTextModel` on its device, in evaluation mode, and its `UMTProcessor`.
        batch_size: windows per batch.
        num_workers: decoding processes.

    Returns:
        The number of files that were read, and those of them that are broken.

    Raises:
        ValueError: another process is updating the index, or the folder contains no videos.
    """
    try:
        with FileLock(index.folder / "lock", timeout=0):
            index.manifest = SearchIndex(index.folder).manifest  # another process may have updated it since
            return _update(index, model, processor, batch_size, num_workers)
    except Timeout:
        raise ValueError(f"Another process is updating the index {index.folder}; wait until it is done.") from None


def _update(
    index: SearchIndex, model: PreTrainedModel, processor: Any, batch_size: int, num_workers: int
) -> tuple[int, dict[str, BrokenVideo]]:
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
        for video, windows, error in embed_files(index, list(todo), model, processor, batch_size, num_workers):
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
    """Size and modification time of a file; (-1, -1) for a dangling link."""
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
) -> Iterator[tuple[str, list[dict[str, Any]], tuple[str, str] | None]]:
    """Encodes videos window by window.

    Yields:
        For each video when its last window is encoded: its path, its windows `{"start", "end", "embedding"}`, and None
        or, for a broken video, reason and message; its windows are then those before the error.
    """
    stream = WindowStream(index.videos, videos, processor.video_processor, index.manifest.window)
    loader = DataLoader(
        stream, batch_size=None, num_workers=num_workers, collate_fn=identity_collate, generator=torch.Generator()
    )
    windows: dict[str, list[dict[str, Any]]] = {video: [] for video in videos}
    for batch in batches(loader, batch_size):
        read = [(video, window, clip) for video, window, clip in batch if isinstance(clip, torch.Tensor)]
        if read:
            pixels = torch.cat([clip for *_, clip in read]).to(model.device, model.dtype)
            with torch.inference_mode():
                vectors = clip_vectors(model, pixels).cpu().numpy()
            for (video, window, _), vector in zip(read, vectors, strict=True):
                windows[video].append({**window, "embedding": vector})
        for video, window, error in batch:
            if window is None:
                yield video, windows.pop(video), error


class WindowStream(IterableDataset):
    """The windows of videos, one after the other: (video, `{"start", "end"}`, `pixel_values_videos (1, frames,
    channels, height, width)`). After its last window, a video has an item (video, None, error), where the error is
    None, or reason and message of a broken video. Each video is read by a single worker, window by window, so that a
    long video is never in memory entirely."""

    def __init__(self, folder: Path, videos: Sequence[str], video_processor: Any, window: float):
        self.folder, self.videos, self.video_processor, self.window = folder, videos, video_processor, window

    def __iter__(self) -> Iterator[tuple[str, dict[str, float] | None, Any]]:
        worker = get_worker_info()
        for video in self.videos if worker is None else self.videos[worker.id :: worker.num_workers]:
            try:
                path = os.path.join(self.folder, video)
                for row, clip in read_windows(path, self.video_processor, self.window, self.window):
                    yield video, {"start": row["start"], "end": row["end"]}, clip
            except VideoDecodeError as error:
                named = VideoDecodeError(video, error.reason, error.detail)  # without the path of the folder
                yield video, None, (error.reason, str(named))
            else:
                yield video, None, None
