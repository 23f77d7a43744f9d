"""Updates of a `SearchIndex`: finds new, changed and deleted files of its folder and encodes their windows.

A file is read again if its size or modification time has changed, and a broken file is not retried until then. The
results are added in commits at growing intervals, so that an interruption costs at most a twentieth of the work; the
next update continues with the videos that are not in the index. Processes of a launcher share the videos, and each
adds its own: commits that add rows do not conflict.
"""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list, gather_object
from filelock import FileLock, Timeout
from tqdm import tqdm
from transformers import PreTrainedModel

from processing_umt import UMTProcessor, VideoDecodeError

from ..data.video_files import check_unicode, list_video_files
from ..processes import fresh_start_method, join_processes
from .search_index import BrokenVideo, SearchIndex, is_remote
from .window_vectors import window_vectors

_COMMIT_SECONDS = 2.0
_COMMIT_SHARE = 0.05  # of the time since the update began
_PROGRESS = {"desc": "indexing", "unit": " videos", "delay": 1, "leave": False, "file": sys.stderr}
_FEW_BYTES = 64 << 20  # of videos that are decoded before decoding processes would have started


def update(
    index: SearchIndex,
    model: PreTrainedModel,
    processor: UMTProcessor,
    *,
    batch_size: int = 4,
    num_workers: int = 0,
) -> tuple[int, dict[str, BrokenVideo]]:
    """Brings an index up to date with its folder: new, changed and deleted files. Under a launcher every process calls
    it, with the same index.

    Args:
        index: updated in memory and in storage.
        model, processor: a `UMTVideoTextModel` on its device, in evaluation mode, and its `UMTProcessor`.
        batch_size: windows per batch.
        num_workers: decoding processes, which are started unless there is little to decode. They import the main
            module, so that a script needs `if __name__ == "__main__"`.

    Returns:
        The number of files that were read by all processes, and those of them that are broken.

    Raises:
        ValueError: another command is updating the index, the folder contains no videos or none of the index, the name
            of a video is not UTF-8, or processes of several machines do not share the index.
        OSError: the folder can't be read, or the index can't be read or written.
    """
    state = join_processes(model.device)
    state.wait_for_everyone()  # none opens the index while another one writes
    with _locked(index, state.is_main_process):
        plan = _plan(index) if state.is_main_process else None
        todo, num_rows = broadcast_object_list([plan])[0]
        index.table.checkout_latest()  # another process may have updated it since it was opened
        mine = dict(list(todo.items())[state.process_index :: state.num_processes])
        with tqdm(total=len(mine), disable=not state.is_main_process, **_PROGRESS) as progress:
            added = _add(index, mine, model, processor, batch_size, num_workers, progress)
        parts = gather_object([added])
        index.table.checkout_latest()
        if state.is_main_process:
            _require_rows(index, num_rows + sum(number for number, _ in parts))
            index.optimize()
    return len(todo), {video: facts for _, broken in parts for video, facts in broken.items()}


@contextmanager
def _locked(index: SearchIndex, is_main_process: bool) -> Iterator[None]:
    """Keeps other commands on this machine from updating an index in a folder at the same time; the main process has
    the lock for all. In object storage, both would add the same videos, which the next update finds and reads again.
    """
    if is_remote(index.uri) or not is_main_process:
        yield
        return
    try:
        with FileLock(Path(index.uri) / "lock", timeout=0):
            yield
    except Timeout:
        raise ValueError(f"Another process is updating the index {index.uri}; wait until it is done.") from None


def _plan(index: SearchIndex) -> tuple[dict[str, tuple[int, int]], int]:
    """Removes changed and deleted videos from an index.

    Returns:
        The stamps of the videos that have to be read, and the number of rows of the others.
    """
    index.table.checkout_latest()
    paths = list_video_files([str(index.videos)])
    check_unicode(paths)
    present = {os.path.relpath(path, index.videos): _stamp(path) for path in paths}
    known = index.known()
    if known and index.is_elsewhere and known.keys().isdisjoint(present):
        raise ValueError(
            f"None of the {len(known)} videos of the index {index.uri} is in {index.videos}; give the folder that it "
            "was created with, or keep another index elsewhere (--index)."
        )
    index.drop(video for video, stamp in known.items() if present.get(video) != stamp)
    return {video: stamp for video, stamp in present.items() if known.get(video) != stamp}, index.table.count_rows()


def _add(
    index: SearchIndex,
    todo: dict[str, tuple[int, int]],
    model: PreTrainedModel,
    processor: UMTProcessor,
    batch_size: int,
    num_workers: int,
    progress: tqdm,
) -> tuple[int, dict[str, BrokenVideo]]:
    """Encodes videos and adds them to an index, of which other processes add other videos.

    Returns:
        The number of rows that were added, and the broken videos.
    """
    if sum(size for size, _ in todo.values()) < _FEW_BYTES:
        num_workers = 0
    num_rows, all_broken = 0, {}
    rows: list[dict[str, Any]] = []
    broken: dict[str, BrokenVideo] = {}
    began = committed = time.monotonic()
    for video, windows, error in _read_videos(index, list(todo), model, processor, batch_size, num_workers):
        size, modified = todo[video]
        rows += [{"video": video, "size": size, "modified": modified, **window} for window in windows]
        if error is not None:
            broken[video] = BrokenVideo(size, modified, error.reason, str(error))
        progress.update()
        now = time.monotonic()
        if now - committed > max(_COMMIT_SECONDS, _COMMIT_SHARE * (now - began)):
            index.add(rows, broken)
            num_rows += len(rows) + len(broken)
            all_broken |= broken
            rows, broken, committed = [], {}, now
    if rows or broken:
        index.add(rows, broken)
    return num_rows + len(rows) + len(broken), all_broken | broken


def _require_rows(index: SearchIndex, expected: int) -> None:
    """Raises a ValueError if rows of other processes are missing in an index in a folder, of which they had another
    one. In object storage all have the same, and other commands may be updating it."""
    if not is_remote(index.uri) and (found := index.table.count_rows()) != expected:
        raise ValueError(
            f"The index {index.uri} has {found} rows, but the processes have added up to {expected}; processes of "
            "several machines need a folder of the index that they share."
        )


def _stamp(path: str) -> tuple[int, int]:
    """Size and modification time of a file; (-1, -1) for a dangling link."""
    try:
        status = os.stat(path)
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns


def _read_videos(
    index: SearchIndex,
    videos: list[str],
    model: PreTrainedModel,
    processor: UMTProcessor,
    batch_size: int,
    num_workers: int,
) -> Iterator[tuple[str, list[dict[str, Any]], VideoDecodeError | None]]:
    """Encodes videos.

    Yields:
        For each video when its last window is encoded: its path, its windows `{"start", "end", "vector"}`, and the
        error of a broken video, of which the windows are those before the error.
    """
    encoded = window_vectors(
        [os.path.join(index.videos, video) for video in videos],
        model,
        processor.video_processor,
        index.facts.window,
        batch_size=batch_size,
        num_workers=num_workers,
        # LanceDB's threads do not survive a fork: decoding processes are forked from one that has never loaded it
        start_method=fresh_start_method(window_vectors.__module__),
    )
    for outputs in encoded:
        video, error = videos[outputs.index], outputs.error
        windows = [
            {"start": start, "end": end, "vector": vector}
            for (start, end), vector in zip(outputs.spans, outputs.outputs, strict=True)
        ]
        if error is not None:
            error = VideoDecodeError(video, error.reason, error.detail)  # without the path of the folder
        yield video, windows, error
