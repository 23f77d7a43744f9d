"""`umt evaluate --task retrieval`: videos by texts and texts by videos (UMT, arXiv 2303.16058, section 4.3).

The protocols of the published data sets are options: one text a video (MSRVTT, LSMDC), several (MSVD: a list of
captions a row, nothing to say), all captions of a video as one text (ActivityNet, DiDeMo: `--paragraph`, and
`--trim-seconds 30` for DiDeMo), several videos a text (Something-Something: `--several-videos`).
"""

import argparse
from pathlib import Path
from typing import Any

from .arguments import load_video_text_model
from .evaluate import (
    autocast_dtype,
    default_output,
    print_skipped,
    settle_computation,
    write_report,
)


def add_task_arguments(group: argparse._ArgumentGroup) -> list[argparse.Action]:
    return [
        group.add_argument(
            "--reranked",
            type=int,
            default=128,
            metavar="K",
            help="candidates of a query that the cross-encoder puts in order; 0 for the dual encoder alone",
        ),
        group.add_argument(
            "--paragraph", action="store_true", help="a video's captions are one text (ActivityNet, DiDeMo)"
        ),
        group.add_argument(
            "--several-videos",
            action="store_true",
            help="videos of equal captions all belong to that text (Something-Something)",
        ),
        group.add_argument(
            "--trim-seconds", type=float, metavar="S", help="take frames from the first seconds only (DiDeMo: 30)"
        ),
        group.add_argument(
            "--frames", type=int, metavar="N", help="frames of a clip (default: the processor's; zero-shot 4, else 12)"
        ),
        group.add_argument(
            "--max-text-length", type=int, metavar="N", help="tokens of a text (default: the processor's)"
        ),
    ]


def evaluate(args: argparse.Namespace, state: Any) -> Path:
    """Prints a table and writes `results.json` into the output folder, which it returns."""
    from ..data.video_records import load_video_records
    from ..evaluation.retrieval import evaluate_retrieval, retrieval_set

    data = retrieval_set(
        load_video_records(args.data, root=args.root, split=args.split), args.paragraph, args.several_videos
    )
    model, processor = load_video_text_model(args, "be evaluated in retrieval")
    settle_computation(args, model.device)
    scores = evaluate_retrieval(
        model,
        processor,
        data,
        num_frames=args.frames,
        max_text_length=args.max_text_length,
        num_reranked=args.reranked,
        trim_seconds=args.trim_seconds,
        batch_size=args.batch_size,
        num_workers=args.num_workers,
        autocast_dtype=autocast_dtype(args),
    )
    output = args.output or default_output(args, f"retrieval-{scores.protocol['frames']}frames")
    if state.is_main_process:
        protocol = scores.protocol | {"paragraph": args.paragraph, "several_videos": args.several_videos}
        counts = {
            "num_videos": len(data.videos),
            "num_scored": len(scores.data.videos),
            "num_texts": len(data.texts),
            "num_scored_texts": len(scores.data.texts),
        }
        write_report(
            output,
            args,
            "text-to-video-retrieval",
            model.config,
            {"architecture": type(model).__name__},
            protocol,
            counts,
            scores.skipped,
            scores.metrics,
        )
        print_table(scores)
    return output


def print_table(scores: Any) -> None:
    protocol = scores.protocol
    print(
        f"{len(scores.data.videos)} videos and {len(scores.data.texts)} texts, {protocol['frames']} frames, "
        f"{protocol['reranked']} candidates re-ranked ({protocol['dtype']})"
    )
    print(f"  {'':<30}{'R@1':>8}{'R@5':>8}{'R@10':>8}{'mean rank':>12}{'median':>8}")
    for order, results in scores.metrics.items():
        for direction in ("text_to_video", "video_to_text"):
            r1, r5, r10, mean, median = (
                results[f"{direction}_{name}"] for name in ("r1", "r5", "r10", "mean_rank", "median_rank")
            )
            title = f"{direction.replace('_', '-')}, {order.replace('_', ' ')}"
            print(f"  {title:<30}{r1:8.2f}{r5:8.2f}{r10:8.2f}{mean:12.1f}{median:8.1f}")
    print_skipped(scores.skipped, "not counted:")
    if scores.num_skipped_texts:
        print(f"  not counted: {scores.num_skipped_texts} texts without another video")
