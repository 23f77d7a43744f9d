"""`umt classify`: the most likely labels of videos.

The probabilities of a video are the mean over its views, as in the official evaluation of UMT (arXiv 2303.16058,
section 4). Results are printed as they are computed. Broken videos are reported on stderr, with exit code 1.
"""

import argparse
import json
import sys
from typing import Any

from ..data.batching import batches
from ..data.video_files import list_video_files
from ..terminal import printable
from .arguments import CLASSIFIER, add_model_arguments, load_model, load_processor, require_at_least

HELP = "classify videos: the most likely labels of each"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    parser.add_argument("--top-k", type=int, default=5, metavar="K", help="labels per video")
    parser.add_argument("--clips", type=int, metavar="N", help="clips per video (default: the processor's, usually 1)")
    parser.add_argument("--crops", type=int, metavar="N", help="crops per clip (default: the processor's, usually 1)")
    parser.add_argument("--json", action="store_true", help="print a JSON list instead of tables")


def run(args: argparse.Namespace) -> int:
    """Prints a table per video, or with `--json` a list of `{"video", "predictions": [{"label", "score"}]}`, in which
    a broken video, or one whose scores are not finite, has `error` instead of `predictions`. Returns 1 if there is
    one."""
    require_at_least(args, top_k=1, clips=1, crops=1, batch_size=1)
    files = list_video_files(args.videos)

    import torch
    from tqdm import tqdm
    from transformers import AutoModelForVideoClassification

    import modeling_umt  # noqa: F401 (registers the models)
    from processing_umt import VideoDecodeError

    model = load_model(AutoModelForVideoClassification, args, CLASSIFIER, "classify")
    processor = load_processor(model.config, args)
    labels = model.config.id2label
    if all(label == f"LABEL_{index}" for index, label in labels.items()):
        print(f"note: {args.model} has no names for its labels; printing their indices", file=sys.stderr)
    options = {name: value for name, value in (("num_clips", args.clips), ("num_crops", args.crops)) if value}

    results, num_broken = [], 0
    with tqdm(total=len(files), unit="video", delay=1, file=sys.stderr, leave=False) as progress:
        for batch in batches(files, args.batch_size):
            readable, views = [], []
            for file in batch:
                try:
                    views.append(processor(file, return_tensors="pt", **options)["pixel_values_videos"])
                    readable.append(file)
                except VideoDecodeError as error:
                    num_broken += 1
                    results.append({"video": file, "error": str(error)})
                    progress.write(f"umt classify: {printable(str(error))}", file=sys.stderr)
            if readable:
                scores = class_scores(model, torch.cat(views), len(views[0]), args.batch_size)
                for file, row in zip(readable, scores, strict=True):
                    if not row.isfinite().all():
                        num_broken += 1
                        error = f"{file}: the model's scores are not finite in {model.dtype}; use --dtype float32"
                        results.append({"video": file, "error": error})
                        progress.write(f"umt classify: {printable(error)}", file=sys.stderr)
                        continue
                    top = row.topk(min(args.top_k, len(row)))
                    pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
                    predictions = [{"label": labels[index], "score": score} for index, score in pairs]
                    results.append({"video": file, "predictions": predictions})
                    if not args.json:
                        progress.write(table(file, predictions), file=sys.stdout)
            progress.update(len(batch))
    if args.json:
        order = {file: position for position, file in enumerate(files)}
        print(json.dumps(sorted(results, key=lambda result: order[result["video"]]), indent=2, ensure_ascii=False))
    return 1 if num_broken else 0


def class_scores(model: Any, pixel_values_videos: Any, num_views: int, batch_size: int) -> Any:
    """Probabilities float32 `(videos, classes)` from views `(videos * num_views, frames, channels, height, width)`,
    `batch_size` views at a time: softmax, or sigmoid for a multi-label model, then the mean over views."""
    import torch

    from processing_umt import fold_views

    with torch.inference_mode():
        parts = pixel_values_videos.split(batch_size)
        logits = [model(part.to(model.device, model.dtype)).logits.float().cpu() for part in parts]
    logits = torch.cat(logits)
    if model.config.problem_type == "multi_label_classification":
        return logits.sigmoid().unflatten(0, (-1, num_views)).mean(dim=1)
    return fold_views(logits, num_views)


def table(file: str, predictions: list[dict]) -> str:
    """The name of the video, and below it labels and probabilities in columns."""
    labels = [printable(prediction["label"]) for prediction in predictions]
    width = max(map(len, labels))
    rows = [
        f"  {label:<{width}}  {prediction['score']:.4f}" for label, prediction in zip(labels, predictions, strict=True)
    ]
    return "\n".join([printable(file), *rows])
