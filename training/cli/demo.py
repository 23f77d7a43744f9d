"""`umt demo`: the complete method in minutes on two CPU cores, from random weights and without network."""

import argparse
from dataclasses import replace
from pathlib import Path

HELP = "run the complete method in minutes: data, teacher, pre-training, fine-tuning, and what pre-training gains"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("umt-demo"),
        metavar="DIR",
        help="output folder, which must be new or empty",
    )
    parser.add_argument(
        "--seeds",
        type=int,
        metavar="N",
        help="number of seeds of every arm (default: 2, and 1 for the arm with the long training)",
    )
    parser.add_argument(
        "--videos",
        type=Path,
        metavar="DIR",
        help="folder of clips, with a sub-folder for each class (default: generated clips)",
    )
    parser.add_argument(
        "--ablate",
        metavar="WHAT",
        help="repeat stage 1 with one thing changed, over 3 seeds: masking, masks or target",
    )
    parser.add_argument("--labelled", type=int, default=50, metavar="N", help="number of labelled clips per class")
    parser.add_argument(
        "--teacher",
        metavar="MODEL",
        help="folder or Hub id of a CLIP, e.g. openai/clip-vit-base-patch16; hours on a CPU (default: a tiny one)",
    )
    for name in ("teacher", "pretrain", "finetune"):
        parser.add_argument(f"--{name}-steps", type=int, metavar="N", help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    from ..demo.demo import DemoSettings, run_demo

    for name in ("seeds", "labelled", "teacher_steps", "pretrain_steps", "finetune_steps"):
        if (value := getattr(args, name)) is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} is {value}; expected at least 1.")
    settings = DemoSettings(videos=args.videos, teacher=args.teacher, labelled=args.labelled)
    if args.seeds is not None:
        settings = replace(settings, seeds=args.seeds, long_seeds=args.seeds)
    given = {name: getattr(args, f"{name}_steps") for name in ("teacher", "pretrain", "finetune")}
    settings = replace(settings, **{f"{name}_steps": steps for name, steps in given.items() if steps is not None})
    if args.ablate is not None:
        from ..demo.ablations import ABLATION_STEPS, run_ablation

        steps = args.pretrain_steps or ABLATION_STEPS
        settings = replace(settings, seeds=args.seeds or 3, long_seeds=0, pretrain_steps=steps)
        run_ablation(args.ablate, settings, args.output)
    else:
        run_demo(settings, args.output)
    return 0
