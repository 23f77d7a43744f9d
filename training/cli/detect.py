"""`umt detect`: who does what in a video (action detection as in AVA, arXiv 1705.08421).

Persons are found on one key frame per second by an object detector, or read from a file, and linked into tracks by the
overlap of their boxes. An action detection model (UMT, arXiv 2303.16058, section 4) predicts what each of them does.
Broken videos are reported on stderr, with exit code 1. A command that is given again skips the videos that are done.
Processes of a launcher share the videos.
"""

import argparse
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TextIO

from ..atomic_files import require_writable
from ..data.video_files import check_unicode
from ..detection.defaults import DEFAULT_DETECTOR, DETECTOR_THRESHOLD, EVERY, THRESHOLD
from ..terminal import printable
from .arguments import (
    ACTION_DETECTOR,
    VIDEOS_HELP,
    add_loading_arguments,
    load_model,
    load_processor,
    require_positive_seconds,
    select_device,
)
from .corpus_common import join_for_corpus

HELP = "find persons and what each of them is doing"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("videos", metavar="VIDEO", nargs="+", help=VIDEOS_HELP)
    parser.add_argument("--model", help="action detection model: folder, or id on the Hub")
    persons = parser.add_mutually_exclusive_group()
    persons.add_argument(
        "--detector",
        metavar="MODEL",
        help="object detector of Transformers with the class 'person': folder, or id on the Hub (default: "
        f"{DEFAULT_DETECTOR})",
    )
    persons.add_argument(
        "--boxes",
        metavar="FILE",
        help="detected persons in place of a detector, PySlowFast's .csv or metadata.jsonl; its times are the key "
        "frames",
    )
    parser.add_argument(
        "--every",
        type=float,
        metavar="SECONDS",
        help=f"time between two key frames (default: {EVERY:g}; with --boxes all times of the file)",
    )
    parser.add_argument(
        "--detector-threshold",
        type=float,
        default=DETECTOR_THRESHOLD,
        metavar="SCORE",
        help="least score of a person",
    )
    parser.add_argument(
        "--threshold",
        type=float,
        metavar="SCORE",
        help=f"least score of an action; 0 lists all classes (default: {THRESHOLD:g})",
    )
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder of the results; processes of a launcher share the videos",
    )
    parser.add_argument(
        "--boxes-only",
        action="store_true",
        help="write only metadata.jsonl, with the persons and empty categories, to be filled in for training; without "
        "--model",
    )
    add_loading_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Writes the files of each video and a page, or with `--boxes-only` the metadata. Returns 1 if a video is broken;
    of several processes, the main process does.

    Raises:
        ValueError: an option is invalid, a result would replace an input, or no person is found in any video.
        OSError: a model does not exist, or the folder can't be written.
    """
    check_options(args)
    state = join_for_corpus(args)

    from accelerate.utils import broadcast_object_list, gather_object

    # as the main process sees the folders, in which another process may be writing already
    (files,) = broadcast_object_list([list_inputs(args) if state.is_main_process else None])
    names = check_outputs(args, files)
    persons = load_persons(args)
    recognizer = None if args.boxes_only else load_recognizer(args)
    results = make_results(args, persons, recognizer)
    mine = range(state.process_index, len(files), state.num_processes)
    parts = gather_object([detect_in_videos(mine, files, names, args, persons, recognizer, results)])
    done = {number: video for part in parts for number, video in part.items()}
    finished = [done[number] for number in sorted(done) if done[number] is not None]
    num_broken = len(files) - len(done)
    if not finished and not num_broken:
        raise ValueError(f"{args.boxes} has no boxes of any of the {len(files)} videos; check the names in it.")
    if finished:
        line = results.finish(finished) if state.is_main_process else None
        if not any(video.num_boxes for video in finished):
            raise ValueError(
                f"No person was found in any of {len(finished)} videos; lower --detector-threshold "
                f"({args.detector_threshold:g}), or use another detector."
            )
        if line is not None:
            print_line(line, sys.stdout)
    state.wait_for_everyone()
    state.destroy_process_group()
    return 1 if num_broken and state.is_main_process else 0


def detect_in_videos(
    numbers: Iterable[int],
    files: list[str],
    names: list[str],
    args: argparse.Namespace,
    persons: Any,
    recognizer: Any,
    results: Any,
) -> dict[int, Any]:
    """Detects in some of the videos and prints a line about each when it is finished.

    Returns:
        By number, the `FinishedVideo` of each, or None without key frames. Broken videos are left out.
    """
    from processing_umt import VideoDecodeError

    done = {}
    for number in numbers:
        file, name = files[number], names[number]
        try:
            video = results.find(file, name) or detect(file, name, persons, recognizer, results)
        except VideoDecodeError as error:
            print_line(f"umt detect: {error}", sys.stderr)
            continue
        done[number] = video
        if video is None:
            print_line(f"umt detect: {file}: {args.boxes} has no boxes of it", sys.stderr)
        else:
            print_line(video.line, sys.stdout)
    return done


def print_line(line: str, stream: TextIO) -> None:
    """Prints a line in one write, so that it is not mixed with one of another process."""
    print(f"{printable(line)}\n", end="", file=stream, flush=True)


def detect(file: str, name: str, persons: Any, recognizer: Any, results: Any) -> Any:
    """Detects in one video and adds it to the results: its `FinishedVideo`, or None without key frames.

    Raises:
        VideoDecodeError: the video can't be read.
    """
    from processing_umt.video_decoding_umt import VideoReader

    from ..data.video_dataset import open_video
    from ..detection.contact_sheet import ContactSheet
    from ..detection.key_times import frame_times
    from ..detection.results import progress_bar
    from ..detection.video_detection import detect_in_video

    with VideoReader(open_video(file)) as reader:
        times = frame_times(file, reader)
        key_frames, persons_on = persons.open(file, reader, times)
        if not key_frames:
            return None
        sheet = ContactSheet(len(key_frames))
        with progress_bar(name, len(key_frames), "key frame") as progress:

            def on_key_frame(number: int, image: Any) -> None:
                sheet.add(number, image)
                progress.update()

            video = detect_in_video(file, reader, times, key_frames, persons_on, recognizer, on_key_frame)
        return results.add(file, name, video, sheet, reader, times)


def check_options(args: argparse.Namespace) -> None:
    """Raises a ValueError for options out of range, or without effect."""
    require_positive_seconds(args, "every")
    for name in ("threshold", "detector_threshold"):
        value = getattr(args, name)
        if value is not None and not 0 <= value <= 1:
            raise ValueError(f"--{name.replace('_', '-')} is {value}; expected a score from 0 to 1.")
    if not args.boxes_only:
        if args.model is None:
            raise ValueError("--model is missing; give an action detection model, or --boxes-only for persons alone.")
        return
    for name in ("model", "threshold", "dtype"):
        if getattr(args, name) is not None:
            raise ValueError(f"--boxes-only predicts no actions, so that --{name} has no effect; leave it out.")


def list_inputs(args: argparse.Namespace) -> list[str]:
    """The videos, without the results of an earlier command in a folder that is searched.

    Raises:
        ValueError: a folder contains no videos, or a name is not UTF-8.
    """
    from ..corpus.listing import list_videos

    output = os.path.realpath(args.output)
    files = []
    for path in args.videos:
        found = list_videos([path])
        if os.path.isdir(path) and output != os.path.realpath(path):
            found = [file for file in found if not Path(os.path.realpath(file)).is_relative_to(output)]
        files += found
    check_unicode(files)  # the results contain the names
    return files


def check_outputs(args: argparse.Namespace, files: list[str]) -> list[str]:
    """The name of the results of each video, without extension.

    Raises:
        ValueError: a result would replace an input, or annotations that exist.
        OSError: the folder can't be written.
    """
    from ..detection.output_names import output_names
    from ..detection.results import METADATA, PAGE, SUFFIXES

    names = output_names(files)
    if args.boxes_only:
        metadata = args.output / METADATA
        require_writable(metadata)
        if metadata.exists():
            raise ValueError(f"{metadata} exists and may contain annotations; move it, or give another --output.")
        return names
    require_writable(args.output / PAGE)
    inputs = {os.path.realpath(file) for file in files}
    for name in names:
        for suffix in SUFFIXES:
            if os.path.realpath(result := args.output / f"{name}{suffix}") in inputs:
                raise ValueError(f"{result} is one of the videos and would be replaced; give another --output.")
    return names


def load_persons(args: argparse.Namespace) -> Any:
    """The detector, or the file of boxes."""
    if args.boxes is not None:
        from ..detection.person_files import PersonFile

        return PersonFile(args.boxes, args.detector_threshold, args.every)
    from ..detection.persons import PersonDetector, load_detector

    name = args.detector or DEFAULT_DETECTOR
    detector = load_detector(name, select_device(args.device), args.trust_remote_code)
    return PersonDetector(detector, args.detector_threshold, args.every or EVERY, name)


def load_recognizer(args: argparse.Namespace) -> Any:
    """The action detection model with its processor."""
    from transformers import AutoModelForObjectDetection

    import modeling_umt  # noqa: F401 (registers the models)

    from ..detection.actions import ActionRecognizer, require_action_model

    model = load_model(AutoModelForObjectDetection, args, ACTION_DETECTOR, "detect actions")
    require_action_model(model, args.model)
    threshold = THRESHOLD if args.threshold is None else args.threshold
    return ActionRecognizer(model, load_processor(model.config, args), threshold, args.model)


def make_results(args: argparse.Namespace, persons: Any, recognizer: Any) -> Any:
    from ..corpus.fingerprints import fingerprint, video_keys
    from ..detection.results import METADATA, MetadataResults, VideoResults

    if recognizer is None:
        return MetadataResults(args.output)
    settings = {"every": persons.every, "detector_threshold": args.detector_threshold}
    settings["threshold"] = recognizer.threshold
    if args.boxes is None:
        settings["detector"] = fingerprint(persons.detector.model, persons.detector.image_processor, {})
    else:
        boxes = os.path.join(args.boxes, METADATA) if os.path.isdir(args.boxes) else args.boxes
        settings["boxes"] = int(video_keys([boxes], [boxes])[0])
    known = fingerprint(recognizer.model, recognizer.processor, settings)
    name = args.boxes or args.detector or DEFAULT_DETECTOR
    return VideoResults(args.output, args.model, name, recognizer.model.config.label2id, known)
