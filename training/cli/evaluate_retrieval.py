"""`umt evaluate --task retrieval`: videos by texts, and texts by videos (UMT, arXiv 2303.16058, section 4.3).

The protocols of the published data sets: one text per video (MSRVTT, LSMDC) and several texts per video (MSVD, a list
of captions per row) need no option; all captions of a video as one text (ActivityNet, DiDeMo) is `--paragraph`, for
DiDeMo with `--trim-seconds 30`; several videos per text (Something-Something) is `--several-videos`.
"""

import argparse
from pathlib import Path
from typing import Any

from .arguments import load_video_text_model, require_at_least, require_positive_seconds
from .evaluate_common import computation_options, default_output, remove_partial_scores, report_results


def add_task_arguments(group: argparse._ArgumentGroup) -> list[argparse.Action]:
    return [
        group.add_argument(
            "--reranked",
            type=int,
            default=128,
            metavar="K",
            help="candidates per query that the cross-encoder re-ranks; 0 for the dual encoder alone",
        ),
        group.add_argument(
            "--paragraph", action="store_true", help="all captions of a video are one text (ActivityNet, DiDeMo)"
        ),
        group.add_argument(
            "--several-videos",
            action="store_true",
            help="videos with the same caption all belong to that text (Something-Something)",
        ),
        group.add_argument(
            "--trim-seconds",
            type=float,
            metavar="S",
            help="sample frames from the first seconds of a video only (DiDeMo: 30)",
        ),
        group.add_argument(
            "--frames",
            type=int,
            metavar="N",
            help="frames per clip (default: the processor's; published: 4 zero-shot, 12 fine-tuned)",
        ),
        group.add_argument(
            "--max-text-length", type=int, metavar="N", help="tokens per text (default: the processor's)"
        ),
    ]


def evaluate(args: argparse.Namespace, state: Any) -> Path:
    """Prints a table and writes `results.json` into the output folder, which it returns."""
    from ..data.text_columns import note_texts
    from ..data.video_records import load_video_records
    from ..evaluation.retrieval import evaluate_retrieval, retrieval_set
    from ..evaluation.text_pages import retrieval_sections

    require_at_least(args, reranked=0, frames=1, max_text_length=2)
    require_positive_seconds(args, "trim_seconds")
    records = load_video_records(args.data, root=args.root, split=args.split, with_labels=False, reads=("caption",))
    data = retrieval_set(records, args.paragraph, args.several_videos, source=args.data)
    model, processor = load_video_text_model(args, "be evaluated in retrieval")
    counts = processor.inspect_texts(data.texts, args.max_text_length)
    note_texts(counts, f"captions of {args.data}", state.is_main_process)
    num_frames = args.frames or processor.video_processor.num_frames
    output = args.output or default_output(args, f"retrieval-{num_frames}frames")
    scores = evaluate_retrieval(
        model,
        processor,
        data,
        num_frames=num_frames,
        max_text_length=args.max_text_length,
        num_reranked=args.reranked,
        trim_seconds=args.trim_seconds,
        batch_size=args.batch_size,
        partial_folder=output / "partial",
        **computation_options(args, model.device),
    )
    if state.is_main_process:
        report_results(
            output,
            args,
            task="text-to-video-retrieval",
            config=model.config,
            model={"architecture": type(model).__name__},
            protocol=scores.protocol | {"paragraph": args.paragraph, "several_videos": args.several_videos},
            dataset={
                "num_videos": len(data.videos),
                "num_scored": len(scores.data.videos),
                "num_texts": len(data.texts),
                "num_scored_texts": len(scores.data.texts),
                "texts": {name: getattr(counts, name) for name in ("cut", "unknown", "equal", "empty")},
            },
            metrics=scores.metrics,
            scores=scores,
            table=table(scores),
            sections=retrieval_sections(output, scores),
            next_command=f"umt search TEXT FOLDER --model {args.model}",
            effect="not counted:",
        )
        if scores.num_skipped_texts:
            print(f"  not counted: {scores.num_skipped_texts} texts without another video")
    remove_partial_scores(scores.partial_folder, state)
    return output


def table(scores: Any) -> list[str]:
    protocol = scores.protocol
    lines = [
        f"{len(scores.data.videos)} videos and {len(scores.data.texts)} texts, {protocol['frames']} frames, "
        f"{protocol['reranked']} candidates re-ranked ({protocol['dtype']})",
        f"  {'':<30}{'R@1':>8}{'R@5':>8}{'R@10':>8}{'mean rank':>12}{'median':>8}",
    ]
    for ranking, metrics in scores.metrics.items():
        for direction in ("text_to_video", "video_to_text"):
            r1, r5, r10, mean, median = (
                metrics[f"{direction}_{name}"] for name in ("r1", "r5", "r10", "mean_rank", "median_rank")
            )
            title = f"{direction.replace('_', '-')}, {ranking.replace('_', ' ')}"
            lines.append(f"  {title:<30}{r1:8.2f}{r5:8.2f}{r10:8.2f}{mean:12.1f}{median:8.1f}")
    return lines
