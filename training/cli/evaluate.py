"""`umt evaluate`: a model on a data set, by the protocols of UMT (arXiv 2303.16058, section 4).

A task is a module `evaluate_<task>.py` with `add_task_arguments(group)`, which returns the options that only this task
has, and `evaluate(args, state)`, which returns the folder of the results. After an interruption the same command
resumes from the scores in `partial` there.

With `torchrun -m umt_training.cli evaluate …`, or on GPUs also `accelerate launch -m umt_training.cli evaluate …`, the
videos are sharded across processes. Skipped videos are counted in the printed table and listed in `results.json`; they
do not change the exit code, because launchers treat any code but 0 as a crash.
"""

import argparse
import importlib
from pathlib import Path
from typing import Any

from .arguments import add_device_argument, add_motion_argument, require_all_processes, require_at_least
from .evaluate_common import join_launched

HELP = "evaluate a model on labelled or captioned videos"
TASKS = ("classification", "detection", "retrieval", "question_answering", "multiple_choice")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--task", choices=TASKS, default="classification", help="task and protocol of the evaluation")
    parser.add_argument("--model", help="model folder, or its id on the Hub; not needed with --detections")
    parser.add_argument(
        "--data",
        required=True,
        help="folder of class folders, list of videos with labels or texts, or a data set's id on the Hub; for "
        "detection a folder with metadata.jsonl, AVA's .csv, or the .json of the official code",
    )
    parser.add_argument("--root", help="folder that the paths of a list are relative to (default: the list's own)")
    parser.add_argument("--split", help="split of the data set")
    parser.add_argument("--batch-size", type=int, default=16, metavar="N", help="clips per batch")
    parser.add_argument(
        "--num-workers", type=int, metavar="N", help="decoding processes (default: one per CPU core of the machine)"
    )
    parser.add_argument(
        "--dtype",
        dest="autocast",
        choices=("float32", "bfloat16", "float16"),
        help="data type of the computation (default: float16 on an accelerator, as published; float32 on a CPU)",
    )
    add_motion_argument(parser)
    add_device_argument(parser)
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="folder of the results; existing results are replaced (default: evaluation/MODEL-DATA-PROTOCOL)",
    )
    parser.add_argument(
        "--trust-remote-code",
        action="store_true",
        help="run code from the model's repository, for models other than UMT",
    )
    options = {}
    for task in TASKS:
        group = parser.add_argument_group(f"with --task {task}")
        options[task] = task_module(task).add_task_arguments(group)
    # weights are loaded in float32; --dtype sets the data type of autocast
    parser.set_defaults(dtype="float32", task_options=options)


def task_module(task: str) -> Any:
    return importlib.import_module(f".evaluate_{task}", __package__)


def run(args: argparse.Namespace) -> int:
    """Runs the task in all processes of a launcher.

    Raises:
        ValueError: an option of another task, which would have no effect, or no model.
    """
    for task, options in args.task_options.items():
        given = [option for option in options if getattr(args, option.dest) != option.default]
        if task != args.task and given:
            raise ValueError(f"{given[0].option_strings[0]} is an option of --task {task}; this is {args.task}.")
    if args.model is None and args.task != "detection":
        raise ValueError("No model given; add --model with a model folder, or its id on the Hub.")
    if args.motion_drop_ratio is not None and args.task == "detection":
        raise ValueError("--motion-drop-ratio is not for --task detection: actions are detected from all tokens.")
    require_at_least(args, batch_size=1, num_workers=0)
    require_all_processes()
    state = join_launched(args)
    output = task_module(args.task).evaluate(args, state)
    if state.is_main_process:
        print(f"written to {output}")
    state.wait_for_everyone()
    state.destroy_process_group()
    return 0
