"""`umt evaluate`: a model on a data set, to the protocols of UMT (arXiv 2303.16058, section 4).

Classification is here; another `--task` is a module of its own, `evaluate_<task>.py`, with `add_task_arguments`
and `evaluate`, which returns the folder that it wrote into; processes are joined and left around it.

Unusual: started by `accelerate launch -m umt_training.cli evaluate …` or `torchrun -m umt_training.cli evaluate …`,
the processes share the videos. The same command after an interruption goes on where it was. Skipped videos do not
change the exit code, as launchers take any but 0 for a crash: they are counted in the table and listed in
`results.json`.
"""

import argparse
import collections
import contextlib
import csv
import datetime
import importlib
import importlib.metadata
import io
import json
import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..atomic_files import atomic_write
from .arguments import load_model, load_processor

HELP = "measure a model on labelled or captioned videos"
TASKS = ("classification", "retrieval", "vqa", "multiple-choice")

PACKAGES = ("unmasked-teacher", "torch", "transformers", "av")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--task", choices=TASKS, default="classification", help="what the model is measured in")
    parser.add_argument("--model", required=True, help="model folder, or its id on the Hub")
    parser.add_argument(
        "--data",
        required=True,
        help="folder of class folders, list of videos with labels or captions, or a data set's id",
    )
    parser.add_argument("--root", help="folder that the paths of a list are relative to (default: the list's own)")
    parser.add_argument("--split", help="split of the data set")
    parser.add_argument("--batch-size", type=int, default=16, metavar="N", help="clips that pass the model at once")
    parser.add_argument(
        "--num-workers", type=int, metavar="N", help="decoding processes (default: one per CPU core of the machine)"
    )
    parser.add_argument(
        "--dtype",
        dest="autocast",
        choices=("float32", "bfloat16", "float16"),
        help="of the computation (default: float16 on an accelerator, as published; float32 on a CPU)",
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: the accelerator if there is one)")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="folder of the results, replaced if there are any (default: evaluation/MODEL-DATA-PROTOCOL)",
    )
    parser.add_argument(
        "--trust-remote-code", action="store_true", help="run code from the model's repository, if it is no UMT model"
    )
    options = {}
    for task in TASKS:
        group = parser.add_argument_group(f"with --task {task}")
        options[task] = task_module(task).add_task_arguments(group)
    parser.set_defaults(dtype="float32", task_options=options)  # the type of the weights, under autocast


def add_task_arguments(group: argparse._ArgumentGroup) -> list[argparse.Action]:
    """The options of classification."""
    return [
        group.add_argument("--clips", type=int, default=4, metavar="N", help="clips per video"),
        group.add_argument("--crops", type=int, default=3, metavar="N", help="crops per clip"),
        group.add_argument(
            "--sampling",
            choices=("sparse", "segments", "middle", "dense"),
            help="which frames (default: the processor's; segments, of Something-Something, has at most 2 clips)",
        ),
        group.add_argument(
            "--resize-kernel",
            choices=("opencv_bilinear", "antialias", "bicubic_no_antialias"),
            default="opencv_bilinear",
            help="how frames are resized; published results were measured with OpenCV's",
        ),
    ]


def task_module(task: str) -> Any:
    """The module of a task; its name is this one's with the task behind it, but for classification."""
    if task == "classification":
        return sys.modules[__name__]
    return importlib.import_module(f".evaluate_{task.replace('-', '_')}", __package__)


def run(args: argparse.Namespace) -> int:
    """Runs the task in all processes of a launcher; refuses options of another one, which would be ignored.

    Raises:
        ValueError: an option of another task.
    """
    for task, options in args.task_options.items():
        given = [option for option in options if getattr(args, option.dest) != option.default]
        if task != args.task and given:
            raise ValueError(f"{given[0].option_strings[0]} is an option of --task {task}; this is {args.task}.")
    state = join_processes(args)
    output = task_module(args.task).evaluate(args, state)
    if state.is_main_process:
        print(f"written to {output}")
    state.wait_for_everyone()
    state.destroy_process_group()
    return 0


def evaluate(args: argparse.Namespace, state: Any) -> Path:
    """Classification: prints a table and writes `results.json`, `confusion.csv`, `confusion.png`, `per_class.csv` and
    `videos.csv` into the output folder, which it returns; each complete or not at all."""
    from transformers import AutoModelForVideoClassification

    import modeling_umt  # noqa: F401 (registers the models)

    from ..data.video_records import load_video_records
    from ..evaluation.classification import evaluate_classifier

    records = load_video_records(args.data, root=args.root, split=args.split)
    model = load_model(AutoModelForVideoClassification, args, "be evaluated")
    processor = load_processor(model.config, args)
    settle_computation(args, model.device)
    output = args.output or default_output(args, f"{args.clips}x{args.crops}")
    scores = evaluate_classifier(
        model,
        processor,
        records,
        num_clips=args.clips,
        num_crops=args.crops,
        sampling=args.sampling,
        resize_kernel=args.resize_kernel,
        batch_size=args.batch_size,
        num_workers=args.num_workers,
        autocast_dtype=autocast_dtype(args),
        partial_folder=output / "partial",
    )
    if state.is_main_process:
        write_results(output, scores, args, model.config)
        print_table(scores)
    state.wait_for_everyone()  # no scores are removed before the results are written
    if state.is_local_main_process:
        shutil.rmtree(scores.partial_folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # another, unfinished evaluation may have scores there
            scores.partial_folder.parent.rmdir()
    return output


# --- what all tasks share --------------------------------------------------------------------------------------------


def join_processes(args: argparse.Namespace) -> Any:
    """The `PartialState` of this process among those of a launcher.

    Raises:
        ValueError: several processes and one numbered device.
    """
    from accelerate import PartialState
    from transformers.utils import logging

    # the process that is done first waits for the last one: longer than the usual limit of some minutes
    state = PartialState(cpu=args.device == "cpu", timeout=datetime.timedelta(days=1))
    if state.num_processes > 1 and args.device is not None and ":" in args.device:
        raise ValueError(
            f"--device is {args.device}, but {state.num_processes} processes need one each; leave it out."
        )
    if not state.is_main_process:
        logging.disable_progress_bar()
    return state


def settle_computation(args: argparse.Namespace, device: Any) -> None:
    """Fills in the type of the computation and the number of workers where they were not given."""
    if args.autocast is None:
        args.autocast = "float32" if device.type == "cpu" else "float16"
    if args.num_workers is None:
        args.num_workers = max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def autocast_dtype(args: argparse.Namespace) -> Any:
    """The `torch.dtype` of autocast, or None for the weights' own float32."""
    import torch

    return None if args.autocast == "float32" else getattr(torch, args.autocast)


def default_output(args: argparse.Namespace, protocol: str) -> Path:
    """`evaluation/MODEL-DATA[-SPLIT]-PROTOCOL`, so that an interrupted command finds its scores again."""
    names = [Path(args.model).resolve().name, Path(args.data).resolve().stem, args.split]
    return Path("evaluation", "-".join([*filter(None, names), protocol]))


def print_skipped(skipped: list[Any], consequence: str) -> None:
    """A line on `SkippedVideo`s, if there are any: what becomes of them, how many they are, and why."""
    if skipped:
        reasons = collections.Counter(video.reason for video in skipped).most_common()
        listed = ", ".join(f"{reason} {number}" for reason, number in reasons)
        print(f"  {consequence} {len(skipped)} videos that can't be read ({listed})")


def write_report(
    output: Path,
    args: argparse.Namespace,
    task: str,
    config: Any,
    model_facts: dict[str, Any],
    protocol: dict[str, Any],
    counts: dict[str, Any],
    skipped: list[Any],
    metrics: dict[str, Any],
) -> None:
    """`results.json` of any task.

    Args:
        task: its name on the Hub.
        config: the model's.
        model_facts, counts: what is told of the model and of the data set beside what all tasks tell.
        skipped: `SkippedVideo`s.
    """
    results = {
        "task": task,
        "model": {"id": args.model, "revision": getattr(config, "_commit_hash", None), **model_facts},
        "protocol": protocol,
        "dataset": {
            "source": args.data,
            "root": args.root,
            "split": args.split,
            **counts,
            "num_skipped": len(skipped),
            "skipped": [video._asdict() for video in skipped],
        },
        "metrics": metrics,
        "versions": {package: _version(package) for package in PACKAGES},
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    _write(output / "results.json", (json.dumps(results, indent=2, ensure_ascii=False) + "\n").encode())


# --- classification --------------------------------------------------------------------------------------------------


def print_table(scores: Any) -> None:
    protocol = scores.protocol
    height, width = protocol["resolution"]
    if scores.num_resumed:
        print(f"{scores.num_resumed} videos were scored before an interruption", file=sys.stderr)
    print(
        f"{len(scores.videos)} videos, {protocol['clips']} clips x {protocol['crops']} crops of {protocol['frames']} "
        f"frames at {width}x{height} ({protocol['sampling']}, {protocol['resize_kernel']}, {protocol['dtype']})"
    )
    for name, value in metrics(scores).items():
        print(f"  {name.replace('_', ' '):<20}{value:6.2f} %")
    print_skipped(scores.skipped, "not counted:")


def metrics(scores: Any) -> dict[str, float]:
    return {name: getattr(scores, name) for name in ("top1", "top5", "mean_class_accuracy")}


def write_results(output: Path, scores: Any, args: argparse.Namespace, config: Any) -> None:
    """The five files; `results.json` comes last, so that where it is the others are too."""
    from ..pictures.confusion_plot import draw_confusion_matrix

    names = [config.id2label[index] for index in range(config.num_labels)]
    matrix = scores.confusion_matrix
    write_csv(output / "confusion.csv", ["true \\ predicted", *names], zip(names, *matrix.T.tolist(), strict=True))
    picture = io.BytesIO()
    title = f"{Path(args.model).name} on {Path(args.data).name}: top-1 {scores.top1:.2f} % of {len(scores.videos)}"
    draw_confusion_matrix(matrix, names, title).save(picture, "PNG")
    _write(output / "confusion.png", picture.getvalue())
    columns = (range(len(names)), names, matrix.sum(1).tolist(), matrix.diagonal().tolist(), scores.per_class_accuracy)
    header = ["label", "class", "videos", "correct", "accuracy"]
    write_csv(output / "per_class.csv", header, zip(*columns, strict=True))
    predictions = scores.probabilities.argmax(axis=1)
    rows = (
        (video, names[label], names[prediction], float(row[prediction]), float(row[label]))
        for video, label, prediction, row in zip(
            scores.videos, scores.labels, predictions, scores.probabilities, strict=True
        )
    )
    header = ["video", "class", "prediction", "probability", "probability of the class"]
    write_csv(output / "videos.csv", header, rows)
    num_videos = len(scores.videos) + len(scores.skipped)
    write_report(
        output,
        args,
        "video-classification",
        config,
        {"num_labels": config.num_labels},
        scores.protocol,
        {"num_videos": num_videos, "num_scored": len(scores.videos)},
        scores.skipped,
        metrics(scores),
    )


def write_csv(path: Path, header: list[str], rows: Iterable[Iterable[Any]]) -> None:
    """A table of any task."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(header)
    writer.writerows(rows)
    _write(path, text.getvalue().encode())


def _write(path: Path, content: bytes) -> None:
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


def _version(package: str) -> str | None:
    """The installed version; None for this package where it is run from a checkout."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
