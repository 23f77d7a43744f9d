"""`umt evaluate --task detection`: frame mAP at IoU 0.5 of action detection (AVA; UMT, arXiv 2303.16058, section 4).

A model classifies detected persons (`--boxes`, or those that `--detector` finds on the annotated key frames), and the
annotated boxes beside them, which separates the errors of the detector from those of the model. Without either it
classifies the annotated boxes alone. `--detections` scores the file of any program, without a model.
"""

import argparse
from pathlib import Path
from typing import Any

from ..detection.defaults import DETECTOR_THRESHOLD
from .arguments import ACTION_DETECTOR, load_model, load_processor, select_device
from .evaluate_common import (
    computation_options,
    default_output,
    remove_partial_scores,
    report_results,
    write_csv,
)


def add_task_arguments(group: argparse._ArgumentGroup) -> list[argparse.Action]:
    return [
        group.add_argument(
            "--detections",
            metavar="CSV",
            help="detected actions in AVA's eight columns, which are scored without a model",
        ),
        group.add_argument(
            "--boxes",
            metavar="FILE",
            help="detected persons: metadata.jsonl with scores, PySlowFast's .csv, or AlphAction's .json "
            "(default: the annotated boxes)",
        ),
        group.add_argument(
            "--detector",
            metavar="MODEL",
            help="in place of --boxes, a detector of Transformers that finds persons on the annotated key frames",
        ),
        group.add_argument(
            "--image-ids",
            metavar="JSON",
            help="annotations that number the key frames of AlphAction's --boxes (default: --data, if it is JSON)",
        ),
        group.add_argument(
            "--detector-threshold",
            type=float,
            metavar="SCORE",
            help="least score of a person of --boxes or --detector (default: 0.8, as published)",
        ),
        group.add_argument(
            "--label-map",
            metavar="PBTXT",
            help="ids and names of the evaluated classes, for AVA's files (default: all classes of the model)",
        ),
        group.add_argument("--excluded", metavar="CSV", help="key frames that are left out: video, time"),
        group.add_argument(
            "--protocol",
            choices=("ava", "ava-kinetics"),
            default="ava",
            help="rules of the metric; ava-kinetics counts the 50 highest actions of the annotated key frames",
        ),
        group.add_argument(
            "--start",
            type=float,
            default=0.0,
            metavar="SECOND",
            help="second of the movies at which their files begin: 900 where the first 15 minutes were cut off",
        ),
    ]


def evaluate(args: argparse.Namespace, state: Any) -> Path:
    """Prints a table and writes `per_class.csv` and finally `results.json` into the output folder, which it returns;
    of a model also `detections.csv`, which `--detections` reads, and, with detected persons,
    `per_class_annotated.csv`. Files are written atomically."""
    check_options(args)
    return evaluate_file(args, state) if args.detections else evaluate_model(args, state)


def check_options(args: argparse.Namespace) -> None:
    """Raises a ValueError for options without a model or detections, or without an effect."""
    if args.detections is None and args.model is None:
        raise ValueError("Give --model to score a model, or --detections to score a file of detected actions.")
    if args.detections is not None:
        given = [name for name in ("model", "boxes", "detector", "image_ids", "start") if getattr(args, name)]
        if given:
            raise ValueError(
                f"--detections are scored without a model, so that --{given[0].replace('_', '-')} has no use; leave "
                "one of the two out."
            )
    if args.boxes is not None and args.detector is not None:
        raise ValueError("Persons are given by --boxes or found by --detector; leave one of the two out.")
    if args.detector_threshold is None:
        args.detector_threshold = DETECTOR_THRESHOLD
    elif args.boxes is None and args.detector is None:
        raise ValueError("--detector-threshold is for persons of --boxes or --detector, and neither is given.")
    if args.image_ids is not None and not str(args.boxes or "").lower().endswith(".json"):
        raise ValueError("--image-ids is for --boxes in AlphAction's JSON; leave it out.")
    if args.start < 0 or args.start != args.start:
        raise ValueError(f"--start is {args.start:g}; expected a second from 0.")
    if not 0 <= args.detector_threshold <= 1:
        raise ValueError(f"--detector-threshold is {args.detector_threshold:g}; expected a score from 0 to 1.")
    if args.protocol == "ava-kinetics" and args.excluded is not None:
        raise ValueError("--protocol ava-kinetics has no excluded key frames; leave --excluded out.")


def evaluate_file(args: argparse.Namespace, state: Any) -> Path:
    """Scores a file of detected actions, in the main process."""
    from ..data.action_records import load_annotated_actions
    from ..data.ava_csv import read_detections, read_excluded
    from ..data.movie_files import find_movies
    from ..evaluation.detection_metrics import frame_map
    from ..evaluation.detection_page import class_section
    from ..evaluation.detection_set import as_fractions, videos_folder

    output = args.output or Path("evaluation", f"{Path(args.detections).stem}-{Path(args.data).resolve().stem}")
    if not state.is_main_process:
        return output
    actions = load_annotated_actions(args.data, split=args.split, label_map=args.label_map)
    annotations = actions.table
    if not annotations.relative:
        movies = find_movies(annotations.videos, videos_folder(args.data, args.split, args.root))
        annotations = as_fractions(annotations, movies, all_needed=True)
    detections = read_detections(args.detections)
    excluded = read_excluded(args.excluded) if args.excluded else ()
    result = frame_map(annotations, detections, actions.label_map, args.protocol, excluded)
    write_classes(output / "per_class.csv", result, actions.label_map)
    report_results(
        output,
        args,
        task="object-detection",
        config=None,
        model={},
        protocol={"protocol": args.protocol, **sources(args)},
        dataset={"num_annotated_boxes": sum(result.num_annotated.values())},
        metrics={"map50": result.map50},
        scores=None,
        table=[
            f"{result.num_detections} detected actions ({result.num_ignored} others ignored), "
            f"{sum(result.num_annotated.values())} annotated ones, protocol {args.protocol}",
            *rows({"mAP at IoU 0.5": result}),
        ],
        sections=[class_section(output, {args.detections: result}, actions.label_map)],
        next_command="umt detect VIDEO --model MODEL --output FOLDER",
    )
    return output


def evaluate_model(args: argparse.Namespace, state: Any) -> Path:
    """Scores a model on detected persons and on annotated boxes."""
    from transformers import AutoModelForObjectDetection

    import modeling_umt  # noqa: F401 (registers the models)

    from ..data.action_records import load_detected_persons
    from ..data.ava_csv import read_excluded, write_detections
    from ..data.class_indices import class_names_of
    from ..data.movie_files import describe_missing
    from ..evaluation.detection import evaluate_detection
    from ..evaluation.detection_page import class_section, errors_section
    from ..evaluation.detection_set import detection_set, videos_folder

    detected, num_below = None, 0
    if args.boxes is not None:
        are_json = args.boxes.lower().endswith(".json") and args.data.lower().endswith(".json")
        image_ids = args.image_ids or (args.data if are_json else None)
        options = {"annotations": image_ids, "threshold": args.detector_threshold}
        detected, num_below = load_detected_persons(args.boxes, **options)
    model = load_model(AutoModelForObjectDetection, args, ACTION_DETECTOR, "detect actions")
    if model.config.model_type != "umt":
        raise ValueError(f"{args.model} is a model of the type {model.config.model_type!r}, which detects no actions.")
    processor = load_processor(model.config, args)
    actions = load_actions(args, class_names_of(model.config))
    root = videos_folder(args.data, args.split, args.root)
    if args.detector is not None:
        detected = find_persons(args, actions, root, state)
    data = detection_set(
        actions,
        root,
        start=args.start,
        detected=detected,
        protocol=args.protocol,
        excluded=read_excluded(args.excluded) if args.excluded else (),
    )
    output = args.output or default_output(args, "detection")
    scores = evaluate_detection(
        model,
        processor,
        data,
        batch_size=args.batch_size,
        partial_folder=output / "partial",
        **computation_options(args, model.device),
    )
    if state.is_main_process:
        result, annotated = scores.result, scores.annotated_result
        write_detections(output / "detections.csv", scores.detections)
        write_classes(output / "per_class.csv", result, actions.label_map)
        metrics = {"map50": result.map50}
        shown, drawn = {"mAP at IoU 0.5": result}, {f"{scores.protocol['boxes']} boxes": result}
        if annotated is not None:
            write_classes(output / "per_class_annotated.csv", annotated, actions.label_map)
            metrics["annotated_map50"] = annotated.map50
            shown["  with annotated boxes"] = drawn["annotated boxes"] = annotated
        persons = f"{scores.num_persons} {scores.protocol['boxes']} persons"
        if num_below:
            persons += f" ({num_below} below the score {args.detector_threshold:g} left out)"
        table = [
            f"{persons} on {len(data)} key frames, {processor.num_frames} frames, short side "
            f"{processor.size.shortest_edge}, protocol {args.protocol} ({scores.protocol['dtype']})",
            *rows(shown),
        ]
        if scores.num_unread:
            table.append(f"  missed: the persons on {scores.num_unread} key frames that are missing or can't be read")
        if data.missing:
            table.append(f"note: {describe_missing(data.missing, root)}")
        report_results(
            output,
            args,
            task="object-detection",
            config=model.config,
            model={"num_labels": model.config.num_labels},
            protocol=scores.protocol | sources(args) | {"detector_threshold": args.detector_threshold},
            dataset={
                "num_key_frames": len(data) + data.missing.total(),
                "num_unread_key_frames": scores.num_unread,
                "num_persons": scores.num_persons,
                "num_annotated_boxes": sum(result.num_annotated.values()),
                "num_empty_rows": actions.num_empty_rows,
            },
            metrics=metrics,
            scores=scores,
            table=table,
            sections=[
                class_section(output, drawn, actions.label_map),
                errors_section(output / "errors", result, scores.detections, data, actions.label_map),
            ],
            next_command=f"umt detect VIDEO --model {args.model} --output FOLDER",
            effect="missed: the persons of",
            unit="key frames",
        )
    remove_partial_scores(scores.partial_folder, state)
    return output


def load_actions(args: argparse.Namespace, class_names: list[str]) -> Any:
    """The annotated actions whose classes are those of a model.

    Raises:
        ValueError: the names of a label map are those of other classes, or own data have other categories.
    """
    from ..data.action_records import load_annotated_actions
    from ..data.class_indices import loose_key
    from ..data.labelled_records import placeholder_names

    if args.label_map is None:
        return load_annotated_actions(args.data, split=args.split, class_names=class_names)
    actions = load_annotated_actions(args.data, split=args.split, label_map=args.label_map)
    known = dict(enumerate(class_names, 1))
    pairs = [(name, known[number]) for number, name in actions.label_map.items() if number in known]
    is_named = class_names != placeholder_names(len(class_names))
    if is_named and pairs and not any(loose_key(name) == loose_key(of_model) for name, of_model in pairs):
        raise ValueError(
            f"None of the names in {args.label_map} is that of the model's class of the same id: {pairs[0][0]!r} is "
            f"{pairs[0][1]!r} there. Give the label map of the model's classes."
        )
    return actions


def find_persons(args: argparse.Namespace, actions: Any, root: Path, state: Any) -> list[Any]:
    """The persons that `--detector` finds on the annotated key frames, sharded across processes.

    Raises:
        OSError: the detector does not exist.
        ValueError: it does not detect persons, or does not find any.
    """
    from accelerate.utils import gather_object

    from ..data.key_frame_clips import check_key_times
    from ..data.key_frames import group_by_key_frame
    from ..data.movie_files import find_movies, present_key_frames
    from ..detection.key_frame_persons import detect_persons
    from ..detection.persons import PersonDetector, load_detector
    from ..evaluation.clips import progress_bar

    pipeline = load_detector(args.detector, select_device(args.device), args.trust_remote_code)
    detector = PersonDetector(pipeline, args.detector_threshold, name=args.detector)
    key_frames = group_by_key_frame(actions.table)
    movies = find_movies([key_frame.video for key_frame in key_frames], root, args.start)
    present, _ = present_key_frames(key_frames, movies, root)
    check_key_times(present, movies)
    mine = progress_bar(present[state.process_index :: state.num_processes], "find persons")
    found = [key_frame for part in gather_object([detect_persons(detector, mine, movies)]) for key_frame in part]
    if not found:
        raise ValueError(
            f"The detector {args.detector} finds no person with a score of {args.detector_threshold:g} or more on "
            f"{len(present)} key frames; lower --detector-threshold, or give another detector."
        )
    return found


def sources(args: argparse.Namespace) -> dict[str, Any]:
    """The files and values of the options that determine the result."""
    names = ("detections", "detector", "label_map", "excluded", "start")
    return {name: getattr(args, name) for name in names} | {"boxes_file": args.boxes}


def rows(results: dict[str, Any]) -> list[str]:
    """A line with the mAP of each result, a `FrameMAP`."""
    lines = []
    for name, result in results.items():
        num_classes = sum(value is not None for value in result.ap50.values())
        lines.append(f"  {name:<24}{result.map50:6.2f} %  of {num_classes} classes")
    return lines


def write_classes(path: Path, result: Any, label_map: dict[int, str]) -> None:
    """The average precision of each class, empty for a class without annotated boxes."""
    rows = ((number, name, result.ap50[number]) for number, name in label_map.items())
    write_csv(path, ["id", "name", "ap50"], rows)
