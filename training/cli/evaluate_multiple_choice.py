"""`umt evaluate --task multiple-choice`: which of several captions belongs to a video (UMT, arXiv 2303.16058, section
4.3, MSRVTT-MC), asked of a retrieval model."""

import argparse
from pathlib import Path
from typing import Any

from .arguments import load_video_text_model
from .evaluate import (
    autocast_dtype,
    default_output,
    print_skipped,
    settle_computation,
    write_csv,
    write_report,
)


def add_task_arguments(group: argparse._ArgumentGroup) -> list[argparse.Action]:
    """None; its lists hold `video`, `caption` (a list of texts) and `answer` (a place in it)."""
    return []


def evaluate(args: argparse.Namespace, state: Any) -> Path:
    """Prints the accuracy and writes `results.json` and `choices.csv` into the output folder, which it returns; each
    complete or not at all."""
    from ..data.video_records import load_video_records
    from ..evaluation.multiple_choice import evaluate_multiple_choice

    records = load_video_records(args.data, root=args.root, split=args.split)
    model, processor = load_video_text_model(args, "choose captions")
    settle_computation(args, model.device)
    scores = evaluate_multiple_choice(
        model, processor, records, num_workers=args.num_workers, autocast_dtype=autocast_dtype(args)
    )
    output = args.output or default_output(args, f"multiple-choice-{scores.protocol['frames']}frames")
    if state.is_main_process:
        rows = zip(records["video"], scores.answers, scores.choices, strict=True)
        write_csv(output / "choices.csv", ["video", "answer", "choice"], rows)
        write_report(
            output,
            args,
            "video-multiple-choice",
            model.config,
            {"architecture": type(model).__name__},
            scores.protocol,
            {"num_questions": len(scores.answers)},
            scores.skipped,
            {"accuracy": scores.accuracy},
        )
        print(f"{len(scores.answers)} videos, {scores.protocol['frames']} frames ({scores.protocol['dtype']})")
        print(f"  accuracy {scores.accuracy:6.2f} %")
        print_skipped(scores.skipped, "counted as wrong:")
    return output
