"""An action detection run from a recipe: key frames, model, trainer, resume (arXiv 2303.16058, section 4; AVA).

Own data of few videos are a common start, so a run of fewer than five videos trains on all of them, without
evaluation.
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from transformers import set_seed
from transformers.trainer_utils import IntervalStrategy

from modeling_umt import UMTConfig, UMTForActionDetection
from modeling_umt.labels_umt import load_labels
from processing_umt import UMTVideoProcessor
from processing_umt.detection_augmentation_umt import augment_for_detection

from ..cards.run_facts import RunFacts
from ..data.action_records import load_annotated_actions, training_key_frames
from ..data.annotated_actions import AnnotatedActions
from ..data.ava_csv import read_excluded
from ..data.key_frame_clips import check_key_times
from ..data.key_frame_dataset import KeyFrameDataset
from ..data.key_frames import KeyFrame, hold_out_videos
from ..data.label_map import label_map_classes
from ..data.labelled_records import describe_classes
from ..data.movie_files import Movie, describe_missing, find_movies, present_key_frames
from ..evaluation.detection_set import DetectionSet, detection_set, videos_folder
from ..trainers.argument_ranges import require_ranges
from ..trainers.detection import UMTActionDetectionArguments, UMTActionDetectionTrainer
from .finetuning_run import UMT_ENCODERS, head_rows, load_source
from .initial_weights import load_initial_weights
from .recipes import parse_recipe, require_keys
from .resume import run_to_end
from .run_clips import data_seed, describe_evaluation_data, training_crop
from .run_folder import RunFolder

FEWEST_VIDEOS = 5  # of which some are held out


@dataclass
class DetectionRun:
    """The keys of an action detection recipe beside the training arguments.

    Args:
        task: `detection`.
        data: Annotated actions: a folder with `metadata.jsonl`, AVA's `.csv`, or the `.json` of the official code.
        eval_data: Annotated actions to choose the best checkpoint by; by default `eval_split` or `eval_share` of
            `data`. Their annotated boxes are classified.
        data_root: Folder of the videos; by default that of `data`.
        train_split, eval_split: Sub-folders of `data`.
        eval_share: Fraction of the videos that is held out for evaluation, if `data` has no splits and at least five
            videos.
        labels: Label list that gives the classes and their order: `ava`, whose 80 names are in the order of AVA's ids.
            By default the classes of own data are those that occur.
        label_map: Label map (`.pbtxt`) of the action ids in a `.csv` or `.json`, in place of `labels`.
        excluded: `.csv` of key frames that are left out of training, as published for AVA.
        eval_excluded: The same for the evaluation.
        start: Second of the movies at which their files begin: 900 where the first 15 minutes were cut off.
        init_from: A saved UMT video model, a Hub id, or an official `.pth`, whose encoder is the start. Rows of the
            head of an action detection model are kept if its classes include the run's.
        frame_stride: Distance between the frames of a clip, in frames of `sampling_fps`.
        sampling_fps: Frames per second by which the stride is counted. The defaults make a clip of 8 frames 2.56
            seconds long, as published; choose fewer for short actions.
        model: Fields of `UMTConfig` that differ from the checkpoint's, as a mapping.
        flip: Mirror half of the training clips; false if classes differ by left and right.
        license: Licence of the trained model, for its card; an identifier of the Hub, such as `apache-2.0`.
    """

    task: Literal["detection"] = "detection"
    data: str | None = None
    eval_data: str | None = None
    data_root: str | None = None
    train_split: str | None = None
    eval_split: str | None = None
    eval_share: float = 0.0
    labels: str | None = None
    label_map: str | None = None
    excluded: str | None = None
    eval_excluded: str | None = None
    start: float = 0.0
    init_from: str | None = None
    frame_stride: int = 8
    sampling_fps: float = 25.0
    model: dict[str, Any] = field(default_factory=dict, metadata={"fields_of": UMTConfig})
    flip: bool = True
    license: str | None = None

    def __post_init__(self):
        require_ranges(self, {"frame_stride": "[1, inf)", "sampling_fps": "(0, inf)", "start": "[0, inf)"})

    @property
    def is_evaluated(self) -> bool:
        return bool(self.eval_data or self.eval_split or self.eval_share)


def finetune_detection(recipe: Mapping[str, Any], overrides: Sequence[str]) -> UMTActionDetectionTrainer:
    """Run an action detection recipe to its end or resume it; see `tasks.finetune`."""
    run, args = parse_recipe(recipe, overrides, DetectionRun, UMTActionDetectionArguments)
    require_keys(run, "data", "init_from")
    folder = RunFolder.open(run, args)
    set_seed(args.seed)
    clips = load_key_frames(run, args)
    if clips.evaluation is None:  # the recipes choose the best checkpoint
        args.eval_strategy, args.load_best_model_at_end = IntervalStrategy.NO, False
    model = load_detector(run, clips.class_names)
    processor = UMTVideoProcessor.for_action_detection(model.config)
    processor.frame_stride, processor.sampling_fps = run.frame_stride, run.sampling_fps
    trainer = UMTActionDetectionTrainer(
        model=model,
        args=args,
        processing_class=processor,
        train_dataset=load_training_clips(run, args, clips, processor, training_crop(model.config)),
        eval_dataset=clips.evaluation,
        run_facts=run_facts(run, is_evaluated=clips.evaluation is not None),
    )
    next_command = f"umt detect VIDEO --model {args.output_dir} --output found"
    return run_to_end(trainer, folder, next_command, class_names=clips.class_names)


def run_facts(run: DetectionRun, is_evaluated: bool) -> RunFacts:
    """The facts of a run for its model card."""
    eval_data = None
    if is_evaluated:
        eval_data = describe_evaluation_data(run.eval_data or run.data, run.eval_split, run.eval_share)
    return RunFacts(
        data=(run.data,),
        eval_data=eval_data,
        starts=(run.init_from,),
        license=run.license,
        settings={"started from": run.init_from, "horizontal flip": run.flip},
    )


# --- data -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class RunKeyFrames:
    """The data of a run: training key frames, the files of their videos, names of the classes, evaluation data."""

    training: list[KeyFrame]
    movies: Mapping[str, Movie]
    class_names: list[str]
    evaluation: DetectionSet | None


def load_key_frames(run: DetectionRun, args: UMTActionDetectionArguments) -> RunKeyFrames:
    """The data of a run, all checked; prints what was left out, and the classes."""
    names = load_labels(run.labels) if run.labels else None
    actions = load_annotated_actions(run.data, split=run.train_split, label_map=run.label_map, class_names=names)
    class_names = names or label_map_classes(actions.label_map)
    excluded = read_excluded(run.excluded) if run.excluded else ()
    root = videos_folder(run.data, run.train_split, run.data_root)
    key_frames, num_left_out = training_key_frames(actions, excluded)
    movies = find_movies([key_frame.video for key_frame in key_frames], root, run.start)
    key_frames, missing = present_key_frames(key_frames, movies, root)
    check_key_times(key_frames, movies)
    training, evaluation, note = key_frames, None, None
    if run.eval_share:
        if run.eval_data is not None or run.eval_split is not None:
            raise ValueError("Give `eval_share`, or `eval_data` or `eval_split`, but not both.")
        num_videos = len({key_frame.video for key_frame in key_frames})
        if num_videos < FEWEST_VIDEOS:
            note = (
                f"note: there are {num_videos} videos, fewer than {FEWEST_VIDEOS}, so that none is held out: training "
                "uses all of them, without evaluation"
            )
        else:
            training, held_out = hold_out_videos(key_frames, run.eval_share, data_seed(args))
            evaluation = detection_set(rows_of(actions, held_out), root, start=run.start)
    elif run.is_evaluated:
        evaluation = load_evaluation_set(run, class_names)
    if args.should_save:
        counts = Counter(label for key_frame in training for labels in key_frame.labels for label in labels)
        print(*describe_data(actions, key_frames, num_left_out), sep="\n")
        _, *lines = describe_classes(counts, class_names)
        is_named = names is not None or run.label_map is not None  # names of a list are not misspelt
        print(*(line for line in lines if not (is_named and line.startswith("note:"))), sep="\n")
        if missing:
            print(f"note: {describe_missing(missing, root)}")
        print(*filter(None, [note]), sep="\n", end="\n" if note else "", flush=True)
    return RunKeyFrames(training, movies, class_names, evaluation)


def load_evaluation_set(run: DetectionRun, class_names: list[str]) -> DetectionSet:
    """The evaluation data of a run, whose annotated boxes are classified."""
    source = run.eval_data or run.data
    actions = load_annotated_actions(source, split=run.eval_split, class_names=class_names)
    # only AVA-Kinetics lists key frames on which nobody acts
    protocol = "ava-kinetics" if (actions.table.actions == 0).any() else "ava"
    excluded = read_excluded(run.eval_excluded) if run.eval_excluded else ()
    root = videos_folder(source, run.eval_split, run.data_root)
    return detection_set(actions, root, start=run.start, protocol=protocol, excluded=excluded)


def rows_of(actions: AnnotatedActions, key_frames: Sequence[KeyFrame]) -> AnnotatedActions:
    """The annotated actions of some key frames."""
    table, wanted = actions.table, {(key_frame.video, key_frame.time) for key_frame in key_frames}
    places = zip(table.video.tolist(), table.times.tolist(), strict=True)
    rows = [row for row, (video, time) in enumerate(places) if (table.videos[video], time) in wanted]
    columns = {
        name: getattr(table, name)[rows]
        for name in ("video", "times", "boxes", "actions", "person_ids")
        if getattr(table, name) is not None
    }
    places = None if table.places is None else [table.places[row] for row in rows]
    return dataclasses.replace(actions, table=dataclasses.replace(table, **columns, places=places))


def describe_data(actions: AnnotatedActions, key_frames: Sequence[KeyFrame], num_left_out: int) -> list[str]:
    """The numbers of videos, key frames and persons, and of what was left out, for people."""
    num_videos = len({key_frame.video for key_frame in key_frames})
    num_persons = sum(len(key_frame.boxes) for key_frame in key_frames)
    num_actions = sum(len(labels) for key_frame in key_frames for labels in key_frame.labels)
    lines = [
        f"{len(actions.label_map)} classes, {num_actions} actions of {num_persons} persons on {len(key_frames)} key "
        f"frames of {num_videos} videos"
    ]
    if actions.num_empty_rows or actions.num_empty_persons:
        lines.append(
            f"skipped: {actions.num_empty_rows} rows without categories, and {actions.num_empty_persons} persons "
            "without categories on other rows"
        )
    if num_left_out:
        lines.append(f"left out: {num_left_out} key frames that are excluded or on which nobody acts")
    return lines


def load_training_clips(
    run: DetectionRun,
    args: UMTActionDetectionArguments,
    clips: RunKeyFrames,
    processor: UMTVideoProcessor,
    crop: int,
) -> KeyFrameDataset:
    """Augmented clips around the training key frames, with the sizes and statistics of the processor."""
    return KeyFrameDataset(
        clips.training,
        clips.movies,
        num_labels=len(clips.class_names),
        num_frames=processor.num_frames,
        transform=partial(
            augment_for_detection,
            size=crop,
            short_side=processor.size.shortest_edge,
            flip=run.flip,
            image_mean=tuple(processor.image_mean),
            image_std=tuple(processor.image_std),
        ),
        frame_stride=run.frame_stride,
        sampling_fps=run.sampling_fps,
        seed=data_seed(args),
    )


# --- model ----------------------------------------------------------------------------------------------------------


def load_detector(run: DetectionRun, class_names: list[str]) -> UMTForActionDetection:
    """The model of a run, in float32: the encoder of any UMT video model, and the head of an action detection model if
    its classes include the run's.

    Raises:
        ValueError: the checkpoint is not a UMT video model.
    """
    source = load_source(run.init_from, (*UMT_ENCODERS, UMTForActionDetection), run.model.get("position_type"))
    names = {"id2label": dict(enumerate(class_names)), "label2id": {name: i for i, name in enumerate(class_names)}}
    # a classifier may pool or drop tokens, which a detector can't
    plain = {"pooling": "mean", "motion_drop_ratio": 0.0}
    config = UMTConfig.from_dict(source.config.to_dict(), **names, **plain | run.model)
    state = source.state_dict()
    rows = head_rows(source.config, class_names) if isinstance(source, UMTForActionDetection) else None
    for key in ("classifier.weight", "classifier.bias"):
        weight = state.pop(key, None)
        if rows is not None:
            state[key] = weight[rows].clone()
    new = ("classifier.", "umt.norm.")  # a classifier has the norm of the mean in place of that of the tokens
    return load_initial_weights(UMTForActionDetection, None, new, config=config, state_dict=state, dtype=torch.float32)
