"""`umt classify`: the most likely labels of videos.

The probabilities of a video are the mean over its views, as in the official evaluation of UMT (arXiv 2303.16058,
section 4). Results are printed as they are computed, or with `--output` written to a folder. Broken videos are
reported on stderr, with exit code 1.
"""

import argparse
import json
import sys
import textwrap
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from ..model_sources import CLASSIFIER
from ..terminal import printable
from .arguments import add_model_arguments, load_model, load_processor, require_at_least
from .corpus_common import (
    add_worker_argument,
    default_workers,
    join_for_corpus,
    progress_bar,
    report,
    write_corpus,
)

HELP = "classify videos: the most likely labels of each"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    add_worker_argument(parser)
    parser.add_argument("--top-k", type=int, default=5, metavar="K", help="labels per video")
    parser.add_argument("--clips", type=int, metavar="N", help="clips per video (default: the processor's, usually 1)")
    parser.add_argument("--crops", type=int, metavar="N", help="crops per clip (default: the processor's, usually 1)")
    parser.add_argument("--json", action="store_true", help="print a JSON list instead of tables")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="write a Parquet data set instead of printing: columns video, start, end, label, score, labels, scores; "
        "an interrupted command resumes, and processes of a launcher share the videos",
    )


def shares_work(args: argparse.Namespace) -> bool:
    return args.output is not None


def run(args: argparse.Namespace) -> int:
    """Prints a table per video, or with `--json` a list of `{"video", "predictions": [{"label", "score"}]}`, in which
    a broken video, or one whose scores are not finite, has `error` instead of `predictions`; or writes a folder.
    Returns 1 if there is one."""
    require_at_least(args, top_k=1, clips=1, crops=1, batch_size=1, num_workers=0)
    if args.json and args.output is not None:
        raise ValueError("--json prints the results, and --output writes them to a folder; leave one of them out.")

    from transformers import AutoModelForVideoClassification

    import modeling_umt  # noqa: F401 (registers the models)

    from ..corpus.class_scores import ViewReader, class_scores
    from ..corpus.engine import process_videos
    from ..corpus.listing import list_videos

    videos = list_videos(args.videos)
    state = join_for_corpus(args) if args.output is not None else None
    model = load_model(AutoModelForVideoClassification, args, CLASSIFIER, "classify")
    processor = load_processor(model.config, args)
    labels = [model.config.id2label[index] for index in range(model.config.num_labels)]
    if all(label == f"LABEL_{index}" for index, label in enumerate(labels)):
        print(f"note: {args.model} has no names for its labels; printing their indices", file=sys.stderr)
    options = {name: value for name, value in (("num_clips", args.clips), ("num_crops", args.crops)) if value}
    reader = ViewReader(processor, options)
    process = partial(
        process_videos,
        read=reader,
        step=class_scores,
        model=model,
        batch_size=args.batch_size,
        num_workers=default_workers(args),
        rows_per_message=reader.rows_per_message,
    )
    if args.output is None:
        return print_results(args, videos, process(videos), labels, str(model.dtype))

    from ..corpus.fingerprints import fingerprint
    from ..corpus.parts import CorpusFolder
    from ..corpus.tables import score_table

    settings = {"command": "umt classify", "model": args.model, "fingerprint": fingerprint(model, processor, {})}
    settings |= {"--clips": args.clips, "--crops": args.crops, "--top-k": args.top_k}
    return write_corpus(
        "classify",
        args.output,
        state,
        CorpusFolder(args.output, videos, settings, args.batch_size),
        videos,
        lambda videos, parts: process(videos, parts=parts),
        partial(score_table, class_names=labels, top_k=args.top_k),
        dimension=len(labels),
        dtype=str(model.dtype),
        row="label",
    )


def print_results(
    args: argparse.Namespace, videos: list[str], outputs: Iterator[Any], labels: list[str], dtype: str
) -> int:
    """Prints the results in the order of the videos, each as soon as it is there."""
    from ..corpus.runs import broken_video, in_order
    from ..corpus.tables import best_classes

    num_broken = 0
    with progress_bar(len(videos)) as progress:
        for number, (video, result) in enumerate(zip(videos, in_order(outputs), strict=True)):
            broken = broken_video(video, result, dtype)
            if broken is not None:
                num_broken += 1
                report("classify", broken.message, progress)
                entry = {"video": video, "error": broken.message}
            else:
                (best,) = best_classes(result.outputs, args.top_k)
                predictions = [{"label": labels[index], "score": float(result.outputs[0, index])} for index in best]
                entry = {"video": video, "predictions": predictions}
            if args.json:
                text = textwrap.indent(json.dumps(entry, indent=2, ensure_ascii=False), "  ")
                progress.write(f"{',' if number else '['}\n{text}", file=sys.stdout, end="")
            elif broken is None:
                progress.write(table(video, predictions), file=sys.stdout)
            progress.update()
    if args.json:
        print("\n]")
    return 1 if num_broken else 0


def table(file: str, predictions: list[dict]) -> str:
    """The name of the video, and below it labels and probabilities in columns."""
    labels = [printable(prediction["label"]) for prediction in predictions]
    width = max(map(len, labels))
    rows = [
        f"  {label:<{width}}  {prediction['score']:.4f}" for label, prediction in zip(labels, predictions, strict=True)
    ]
    return "\n".join([printable(file), *rows])
