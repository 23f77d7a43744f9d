"""`umt evaluate --task classification`: top-1, top-5 and per-class accuracy (UMT, arXiv 2303.16058, section 4)."""

import argparse
from pathlib import Path
from typing import Any

from ..model_sources import CLASSIFIER
from .arguments import load_model, load_processor, require_at_least
from .evaluate_common import computation_options, default_output, remove_partial_scores, report_results, write_csv


def add_task_arguments(group: argparse._ArgumentGroup) -> list[argparse.Action]:
    return [
        group.add_argument("--clips", type=int, default=4, metavar="N", help="clips per video"),
        group.add_argument("--crops", type=int, default=3, metavar="N", help="crops per clip"),
        group.add_argument(
            "--sampling",
            choices=("sparse", "segments", "middle", "dense", "strided", "uniform"),
            help="frame sampling (default: the processor's; segments, for Something-Something, has at most 2 clips)",
        ),
        group.add_argument(
            "--frame-stride",
            type=int,
            metavar="N",
            help="distance between the frames of a clip, for --sampling dense or strided (default: the processor's if "
            "it was saved for one of these)",
        ),
        group.add_argument(
            "--resize-kernel",
            choices=("opencv_bilinear", "antialias", "bicubic_no_antialias"),
            default="opencv_bilinear",
            help="how frames are resized; published results were measured with OpenCV's kernel",
        ),
    ]


def evaluate(args: argparse.Namespace, state: Any) -> Path:
    """Prints a table and writes `confusion.csv`, `per_class.csv`, `videos.csv`, pictures, `results.json` and finally
    `index.html` into the output folder, which it returns. Files are written atomically."""
    from transformers import AutoModelForVideoClassification

    import modeling_umt  # noqa: F401 (registers the models)

    from ..data.class_indices import class_names_of
    from ..data.video_records import load_video_records
    from ..evaluation.classification import evaluate_classifier
    from ..evaluation.classification_page import classification_sections

    require_at_least(args, clips=1, crops=1, frame_stride=1)
    records = load_video_records(args.data, root=args.root, split=args.split, reads=())
    model = load_model(AutoModelForVideoClassification, args, CLASSIFIER, "be evaluated in classification")
    processor = load_processor(model.config, args)
    processor.frame_stride = frame_stride(args, processor)
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
        partial_folder=output / "partial",
        **computation_options(args, model.device),
    )
    if state.is_main_process:
        names = class_names_of(model.config)
        write_tables(output, scores, names)
        metrics = {name: getattr(scores, name) for name in ("top1", "top5", "mean_class_accuracy")}
        metrics = {name: value for name, value in metrics.items() if value is not None}
        report_results(
            output,
            args,
            task="video-classification",
            config=model.config,
            model={"num_labels": model.config.num_labels},
            protocol=scores.protocol,
            dataset={"num_videos": len(scores.videos) + len(scores.skipped), "num_scored": len(scores.videos)},
            metrics=metrics,
            scores=scores,
            table=table(scores, metrics),
            sections=classification_sections(
                output,
                scores.confusion_matrix,
                scores.probabilities,
                scores.labels,
                names,
                f"top-1 {scores.top1:.2f} % of {len(scores.videos)} videos",
                scores.videos,
                lambda index: records[int(scores.rows[index])]["video"],
            ),
            next_command=f"umt classify VIDEO --model {args.model}",
            effect="not counted:",
        )
    remove_partial_scores(scores.partial_folder, state)
    return output


def frame_stride(args: argparse.Namespace, processor: Any) -> int:
    """The distance between the frames of a dense or strided clip: `--frame-stride`, or that of a processor with one.

    Raises:
        ValueError: dense or strided sampling without a stride, or a stride with another sampling.
    """
    from processing_umt.frame_sampling_umt import RULES_WITH_STRIDE

    sampling = args.sampling or processor.sampling
    if sampling not in RULES_WITH_STRIDE and args.frame_stride is not None:
        raise ValueError(
            f"--frame-stride is for --sampling {' or '.join(RULES_WITH_STRIDE)}; the sampling is {sampling}, which "
            "has no stride."
        )
    if sampling in RULES_WITH_STRIDE and args.frame_stride is None and processor.sampling not in RULES_WITH_STRIDE:
        raise ValueError(
            f"--sampling {sampling} needs --frame-stride N, the distance between the frames of a clip; the processor "
            f"was saved for {processor.sampling} sampling and has none."
        )
    return args.frame_stride or processor.frame_stride


def table(scores: Any, metrics: dict[str, float]) -> list[str]:
    protocol = scores.protocol
    height, width = protocol["resolution"]
    sampling = protocol["sampling"]
    if sampling in ("dense", "strided"):
        sampling = f"{sampling} with stride {protocol['frame_stride']}"
    return [
        f"{len(scores.videos)} videos, {protocol['clips']} clips x {protocol['crops']} crops of {protocol['frames']} "
        f"frames at {width}x{height} ({sampling}, {protocol['resize_kernel']}, {protocol['dtype']})",
        *(f"  {name.replace('_', ' '):<20}{value:6.2f} %" for name, value in metrics.items()),
    ]


def write_tables(output: Path, scores: Any, names: list[str]) -> None:
    """The confusion matrix, the accuracy of each class, and the prediction of each video.

    Args:
        scores: `ClassificationScores`.
        names: class names in the order of the model.
    """
    matrix = scores.confusion_matrix
    write_csv(output / "confusion.csv", ["true \\ predicted", *names], zip(names, *matrix.T.tolist(), strict=True))
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
