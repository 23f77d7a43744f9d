"""Shared code of the tasks of `umt evaluate`: processes, settings of the computation, and the report."""

import argparse
import collections
import contextlib
import csv
import datetime
import importlib.metadata
import io
import json
import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..atomic_files import atomic_write
from ..processes import join_processes
from .arguments import select_device

PACKAGES = ("unmasked-teacher", "torch", "transformers", "av")


def join_launched(args: argparse.Namespace) -> Any:
    """The `PartialState` of this process among the processes of a launcher, on `--device` or its default.

    Raises:
        ValueError: several processes and a numbered device, processes that can't join, or no such device.
    """
    from transformers.utils import logging

    # the first process to finish waits for the last one, longer than the default timeout of some minutes
    state = join_processes(select_device(args.device), timeout=datetime.timedelta(days=1))
    if state.num_processes > 1 and args.device is not None and ":" in args.device:
        raise ValueError(
            f"--device is {args.device}, but each of the {state.num_processes} processes needs a device of its own; "
            "leave it out."
        )
    if not state.is_main_process:
        logging.disable_progress_bar()
    return state


def computation_options(args: argparse.Namespace, device: Any) -> dict[str, Any]:
    """`num_workers` and `autocast_dtype` (None for float32) of an evaluation, with their defaults for the device."""
    import torch

    dtype = args.autocast or ("float32" if device.type == "cpu" else "float16")
    num_workers = args.num_workers
    if num_workers is None:
        num_workers = max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
    return {"num_workers": num_workers, "autocast_dtype": None if dtype == "float32" else getattr(torch, dtype)}


def default_output(args: argparse.Namespace, protocol: str) -> Path:
    """`evaluation/MODEL-DATA[-SPLIT]-PROTOCOL[-dropR]`, so that an interrupted command finds its partial scores again,
    and results with other tokens dropped are not replaced."""
    names = [Path(args.model).resolve().name, Path(args.data).resolve().stem, args.split]
    drop = [] if args.motion_drop_ratio is None else [f"drop{args.motion_drop_ratio:g}"]
    return Path("evaluation", "-".join([*filter(None, names), protocol, *drop]))


def report_results(
    output: Path,
    args: argparse.Namespace,
    *,
    task: str,
    config: Any,
    model: dict[str, Any],
    protocol: dict[str, Any],
    dataset: dict[str, Any],
    metrics: dict[str, Any],
    scores: Any,
    table: list[str],
    next_command: str,
    sections: Sequence[Any] = (),
    effect: str = "",
    unit: str = "videos",
) -> None:
    """Writes `results.json` and `index.html` and prints a table, and, to stderr, what was resumed.

    Args:
        output: folder of the results.
        task: its name on the Hub.
        config: configuration of the model.
        model, dataset: task-specific entries of `model` and `dataset` in `results.json`.
        protocol, metrics: entries of `results.json`.
        scores: results of the evaluation, with `skipped` and `num_resumed`; None if no video was read.
        table: lines to print.
        next_command: a command that uses the model.
        sections: sections of the page, of `pictures.run_page`.
        effect: effect of skipped videos on the metrics, such as "not counted:".
        unit: what `scores.num_resumed` counts.
    """
    from ..evaluation.page import write_evaluation_page

    skipped, num_resumed = (scores.skipped, scores.num_resumed) if scores is not None else ([], 0)
    video = getattr(config, "vision_config", config)
    if ratio := getattr(video, "motion_drop_ratio", 0.0):
        model = model | {"motion_drop_ratio": ratio, "motion_groups": video.motion_groups}
    results = {
        "task": task,
        "model": {"id": args.model, "revision": getattr(config, "_commit_hash", None), **model},
        "protocol": protocol,
        "dataset": {
            "source": args.data,
            "root": args.root,
            "split": args.split,
            **dataset,
            "num_skipped": len(skipped),
            "skipped": [video._asdict() for video in skipped],
        },
        "metrics": metrics,
        "versions": {package: _version(package) for package in PACKAGES},
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    write_file(output / "results.json", (json.dumps(results, indent=2, ensure_ascii=False) + "\n").encode())
    if skipped:
        reasons = collections.Counter(video.reason for video in skipped).most_common()
        listed = ", ".join(f"{reason} {count}" for reason, count in reasons)
        table = [*table, f"  {effect} {len(skipped)} videos that can't be read ({listed})"]
    name = Path(args.model or args.detections).name
    title = f"{name} on {Path(args.data).name}: {task.replace('-', ' ')}"
    write_evaluation_page(output, title, results, table, sections, next_command)
    if num_resumed:
        print(f"{num_resumed} {unit} were scored before an interruption", file=sys.stderr)
    print("\n".join(table))


def remove_partial_scores(folder: Path, state: Any) -> None:
    """Removes the saved scores once the main process has written the results. Every process must call it."""
    state.wait_for_everyone()
    if state.is_local_main_process:
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # not empty if it has scores of another, unfinished evaluation
            folder.parent.rmdir()


def write_csv(path: Path, header: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(header)
    writer.writerows(rows)
    write_file(path, text.getvalue().encode())


def write_file(path: Path, content: bytes) -> None:
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


def _version(package: str) -> str | None:
    """The installed version; None for this package if it is run from a checkout without being installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
