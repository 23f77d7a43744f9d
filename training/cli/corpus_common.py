"""Shared code of the commands that run a model on many videos: workers, processes, progress, and a folder of parts."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..terminal import printable
from .arguments import require_all_processes
from .evaluate_common import join_launched


def add_worker_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--num-workers",
        type=int,
        metavar="N",
        help="decoding processes; 0 decodes in the main process (default: one per CPU core of the machine, shared by "
        "the processes of a launcher)",
    )


def default_workers(args: argparse.Namespace) -> int:
    """`--num-workers`, or its default."""
    if args.num_workers is not None:
        return args.num_workers
    return max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def progress_bar(num_videos: int, **options: Any) -> Any:
    """A bar on stderr with the time that is left, which appears after a second and disappears at the end."""
    from tqdm import tqdm

    return tqdm(total=num_videos, unit="video", delay=1, file=sys.stderr, leave=False, **options)


def report(command: str, message: str, progress: Any) -> None:
    """Prints a message about a video on stderr, above the progress bar."""
    progress.write(f"umt {command}: {printable(message)}", file=sys.stderr)


def join_for_corpus(args: argparse.Namespace) -> Any:
    """The `PartialState` of this process; see `join_launched` and `require_all_processes`. It precedes loading."""
    require_all_processes()
    return join_launched(args)


def write_corpus(
    command: str,
    output: Path,
    state: Any,
    folder: Any,
    videos: list[str],
    process: Callable,
    make_table: Callable,
    *,
    dimension: int,
    dtype: str,
    row: str,
) -> int:
    """Computes this process's parts of a corpus, and when all processes are done, reports the results.

    Args:
        command: `classify` or `embed`.
        output: the folder, as it was given.
        state: of `join_for_corpus`.
        folder: the `CorpusFolder`.
        videos, process, make_table, dimension, dtype: see `compute_parts`.
        row: what a row is, such as `vector`.

    Returns:
        The exit code: 1 of the main process if a video is broken.
    """
    from ..corpus.runs import compute_parts

    parts = folder.unfinished(state.process_index, state.num_processes)
    num_videos = sum(len(folder.rows_of(part)) for part in parts)
    done = compute_parts(folder, videos, parts, process, make_table, dimension=dimension, dtype=dtype)
    with progress_bar(num_videos, disable=not state.is_main_process) as progress:
        for broken in done:
            if broken is not None:
                report(command, broken.message, progress)
            progress.update()
    state.wait_for_everyone()
    code = 0
    if state.is_main_process:
        summary = folder.finish()
        numbers = {row: summary.num_rows, "video": len(videos), "part": folder.num_parts}
        rows, files, parts = (f"{number} {name}{'s' * (number != 1)}" for name, number in numbers.items())
        print(f"{output}: {rows} of {files}, in {parts}")
        if summary.broken:
            code = 1
            print(
                f"umt {command}: {len(summary.broken)} of {len(videos)} videos are broken ({summary.reasons}), listed "
                f"in {folder.broken_list}",
                file=sys.stderr,
            )
    state.wait_for_everyone()
    state.destroy_process_group()
    return code
