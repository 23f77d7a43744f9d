"""`umt demo`: all stages of the method in minutes on two cores, without network."""

import argparse
from dataclasses import replace
from pathlib import Path

from .arguments import require_at_least

HELP = "run all stages at toy scale in minutes: data, teacher, pre-training, fine-tuning, comparison"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("umt-demo"),
        metavar="DIR",
        help="folder of the run, new or empty",
    )
    parser.add_argument(
        "--seeds",
        type=int,
        metavar="N",
        help="seeds of every arm (default: 2, and 1 for the long training from scratch)",
    )
    parser.add_argument(
        "--videos",
        type=Path,
        metavar="DIR",
        help="your own clips, one sub-folder per class (default: generated clips)",
    )
    parser.add_argument("--labelled", type=int, default=50, metavar="N", help="labelled clips per class")
    parser.add_argument(
        "--teacher",
        metavar="MODEL",
        help="folder or Hub id of a CLIP, e.g. openai/clip-vit-base-patch16; hours on a CPU (default: a tiny one)",
    )
    for name in ("teacher", "pretrain", "finetune"):
        parser.add_argument(f"--{name}-steps", type=int, metavar="N", help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    from ..demo.demo import DemoSettings, run_demo

    require_at_least(args, seeds=1, labelled=1, teacher_steps=1, pretrain_steps=1, finetune_steps=1)
    settings = DemoSettings(videos=args.videos, teacher=args.teacher, labelled=args.labelled)
    if args.seeds is not None:
        settings = replace(settings, seeds=args.seeds, long_seeds=args.seeds)
    given = {name: getattr(args, f"{name}_steps") for name in ("teacher", "pretrain", "finetune")}
    settings = replace(settings, **{f"{name}_steps": steps for name, steps in given.items() if steps is not None})
    run_demo(settings, args.output)
    return 0
