"""A stage-2 run from a recipe: model, teacher, captioned videos and images, trainer, resume (arXiv 2303.16058, section
3.3)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch.utils.data import Dataset
from transformers import set_seed
from transformers.trainer_utils import IntervalStrategy

from modeling_umt import (
    UMTConfig,
    UMTForVideoTextPreTraining,
    UMTTextConfig,
    UMTVideoTextConfig,
)
from processing_umt import UMTProcessor
from processing_umt.augmentation_umt import augment_for_video_text
from processing_umt.frame_sampling_umt import sample_training_clip

from ..cards.run_facts import RunFacts
from ..data.alternating_clips import AlternatingClips, AlternatingStreams
from ..data.captioned_records import load_captioned_records
from ..data.video_dataset import VideoClipDataset
from ..data.video_stream import StreamedClipDataset
from ..trainers.argument_ranges import require_ranges
from ..trainers.teacher_student import TOKEN_SELECTIONS
from ..trainers.teachers import load_teacher, size_teacher
from ..trainers.video_text import UMTVideoTextArguments, UMTVideoTextTrainer
from .estimate_video_text import PUBLISHED_TEXTS, describe_video_text_cost, estimate_pair
from .motion_setting import refuse_motion_drop
from .pretraining_run import load_student
from .recipes import parse_recipe
from .resume import run_to_end
from .run_clips import data_seed, describe_evaluation_data, evaluation_clips, training_clips, training_crop
from .run_folder import RunFolder
from .video_text_start import read_video_text_start, record_run_vocabulary

HEADS_ADVICE = (
    "Stage 2 continues from a stage-2 model, or starts from a stage-1 model and the BERT of --text. An objective of "
    """weight 0 needs no head: --model '{"mlm_weight": 0, "uta_weight": 0}'."""
)


@dataclass
class VideoTextRun:
    """The keys of a stage-2 recipe beside the training arguments.

    Args:
        task: `stage2`.
        video_data, image_data: Captioned corpora: official annotation files, tables, Hub dataset ids, shards (see
            `load_captioned_records`). Videos, images or both; a batch contains only one of the two.
        video_root, image_root: Folders that relative paths start from: one for each corpus, or one for all.
        positives: Which pairs are positives of each other: those of one `row`, of one `video`, or of one `caption`.
        streaming: Read a Hub data set as a stream instead of downloading it first.
        videos_per_epoch, images_per_epoch: Samples in an epoch of streams and tar shards, whose length is unknown, and
            of an estimate.
        eval_data, eval_root: Captioned videos on which recall is measured after every epoch.
        init_from: A stage-1 checkpoint, a saved UMT model, a Hub id or an official `.pth`; or a stage-2 model, whose
            training continues. Without it the video encoder starts with random weights.
        text: Hub id or folder of a BERT: its vocabulary, and its weights unless `init_from` has them.
        num_frames: Frames of a clip.
        max_text_length: Tokens of a caption.
        vision: Fields of `UMTConfig` that differ from the stage-1 checkpoint's, as a mapping.
        model: Fields of `UMTVideoTextConfig`, likewise, such as `mlm_weight`, or `text_config` with a BERT's
            `fusion_layer`.
        teacher, teacher_image_size: As in stage 1. Not loaded if `uta_weight` is 0.
        license: Licence of the trained model, for its card; an identifier of the Hub, such as `apache-2.0`.
        num_devices: Devices of the run, for `--estimate` only.
    """

    task: Literal["stage2"] = "stage2"
    video_data: list[str] = field(default_factory=list)
    image_data: list[str] = field(default_factory=list)
    video_root: list[str] = field(default_factory=list)
    image_root: list[str] = field(default_factory=list)
    positives: str = "row"
    streaming: bool = False
    videos_per_epoch: int = 2_500_000
    images_per_epoch: int = 2_500_000
    eval_data: str | None = None
    eval_root: str | None = None
    init_from: str | None = None
    text: str = "google-bert/bert-large-uncased"
    num_frames: int = 4
    max_text_length: int = 32
    vision: dict[str, Any] = field(default_factory=dict, metadata={"fields_of": UMTConfig})
    model: dict[str, Any] = field(default_factory=dict, metadata={"fields_of": UMTVideoTextConfig})
    teacher: str = "openai/clip-vit-large-patch14"
    teacher_image_size: int | None = None
    license: str | None = None
    num_devices: int = 32

    def __post_init__(self):
        require_ranges(
            self,
            {
                "videos_per_epoch": "[0, inf)",
                "images_per_epoch": "[0, inf)",
                "num_frames": "[1, inf)",
                "max_text_length": "[2, inf)",
                "num_devices": "[1, inf)",
                "teacher_image_size": "[1, inf)",
            },
        )
        refuse_motion_drop("vision", self.vision)


def pretrain_stage2(recipe: Mapping[str, Any], overrides: Sequence[str]) -> UMTVideoTextTrainer:
    """Run a stage-2 recipe to its end or resume it; see `tasks.pretrain`."""
    run, args = parse_recipe(recipe, overrides, VideoTextRun, UMTVideoTextArguments)
    if not run.video_data and not run.image_data:
        raise ValueError("No data given; give --video-data LIST ..., --image-data LIST ..., or both.")
    if run.eval_data is not None and args.eval_strategy == IntervalStrategy.NO:
        args.eval_strategy = IntervalStrategy.EPOCH
    folder = RunFolder.open(run, args)
    set_seed(args.seed)
    model = load_video_text_model(run)
    vision, uses_teacher = model.config.vision_config, model.config.uta_weight > 0
    image_size = training_crop(vision)
    teacher = load_teacher(run.teacher, vision, run.teacher_image_size) if uses_teacher else None
    processor = UMTProcessor.from_bert(
        run.text, num_frames=vision.num_frames, image_size=image_size, max_text_length=run.max_text_length
    )
    record_run_vocabulary(model.config, processor, run.init_from, run.text)
    trainer = UMTVideoTextTrainer(
        model=model,
        teacher=teacher,
        args=args,
        processing_class=processor,
        train_dataset=load_training_clips(run, args, image_size),
        eval_dataset=load_evaluation_clips(run, processor),
        run_facts=run_facts(run, uses_teacher),
    )
    return run_to_end(trainer, folder, f'umt search "TEXT" VIDEOS --model {args.output_dir}')


def run_facts(run: VideoTextRun, uses_teacher: bool) -> RunFacts:
    """The facts of a run for its model card."""
    return RunFacts(
        data=(*run.video_data, *run.image_data),
        eval_data=None if run.eval_data is None else describe_evaluation_data(run.eval_data, None),
        starts=tuple(name for name in (run.init_from, run.text) if name),
        license=run.license,
        settings={
            "started from": run.init_from,
            "text encoder": run.text,
            "teacher": run.teacher if uses_teacher else None,
            "pairs that belong together": f"of one {run.positives}",
        },
    )


def load_video_text_model(run: VideoTextRun) -> UMTForVideoTextPreTraining:
    """The model of a run, in float32: a stage-1 encoder joined with a BERT, or a stage-2 model.

    Raises:
        ValueError: the parts do not fit, or a model of videos and texts lacks the head of an objective.
    """
    start = None if run.init_from is None else read_video_text_start(run.init_from)
    if start is not None:
        return start.load(UMTForVideoTextPreTraining, run.model, HEADS_ADVICE)
    student = load_student(run.init_from, run.vision)
    return UMTForVideoTextPreTraining.from_video_text_pretrained(student, run.text, run.num_frames, **run.model)


def load_training_clips(run: VideoTextRun, args: UMTVideoTextArguments, image_size: int) -> Dataset:
    """Augmented clips of all corpora, alternating between images and videos if there are both."""
    kinds = (
        (run.image_data, run.image_root, 1, run.images_per_epoch),
        (run.video_data, run.video_root, run.num_frames, run.videos_per_epoch),
    )
    parts = []
    for number, (sources, roots, num_frames, samples_per_epoch) in enumerate(kinds):
        if not sources:
            continue
        records = load_captioned_records(sources, roots, positives=run.positives, streaming=run.streaming)
        parts.append(
            training_clips(
                records,
                args,
                samples_per_epoch,
                num_frames=num_frames,
                sample_frames=partial(sample_training_clip, sampling="middle"),
                transform=partial(augment_for_video_text, size=image_size),
                seed=data_seed(args) + number,
                images=number == 0,
            )
        )
    if len(parts) == 1:
        return parts[0]
    streamed = {isinstance(part, StreamedClipDataset) for part in parts}
    if len(streamed) > 1:
        raise ValueError(
            "One of images and videos is a stream and the other is not, so they can't alternate; give both as tables "
            "or both as shards."
        )
    return AlternatingStreams(parts) if streamed.pop() else AlternatingClips(parts)


def load_evaluation_clips(run: VideoTextRun, processor: UMTProcessor) -> VideoClipDataset | None:
    """A clip for every pair of the evaluation data, made by the processor; None without evaluation data."""
    if run.eval_data is None:
        return None
    roots = [] if run.eval_root is None else [run.eval_root]
    records = load_captioned_records([run.eval_data], roots, positives="video")
    return evaluation_clips(records, run.num_frames, processor.video_processor)


def estimate_run(recipe: Mapping[str, Any], overrides: Sequence[str]) -> str:
    """What a recipe would cost, as text.

    A new model, BERTs and teachers of the published recipes are sized without weights; others are loaded.
    """
    run, args = parse_recipe(recipe, overrides, VideoTextRun, UMTVideoTextArguments)
    if run.init_from is None and run.text in PUBLISHED_TEXTS:
        fields = dict(run.model)
        vision = {"num_frames": run.num_frames, "decoder_layer_norm_eps": 1e-5} | run.vision
        text = PUBLISHED_TEXTS[run.text].to_dict() | fields.pop("text_config", {})
        with torch.device("meta"):
            config = UMTVideoTextConfig(vision_config=vision, text_config=UMTTextConfig.from_dict(text), **fields)
            model = UMTForVideoTextPreTraining(config)
    else:
        model = load_video_text_model(run).to("meta")
    teacher = None
    if model.config.uta_weight > 0:
        teacher = size_teacher(run.teacher, model.config.vision_config, run.teacher_image_size)
    seeds = torch.zeros(4, dtype=torch.int64, device="meta")
    costs = []
    for num_frames, ratio in ((model.config.num_frames, args.mask_ratio), (1, args.image_mask_ratio)):
        select = partial(TOKEN_SELECTIONS[args.mask_type], mask_ratio=ratio, sample_seeds=seeds)
        costs.append(estimate_pair(model, teacher, select, num_frames, run.max_text_length))
    return describe_video_text_cost(
        model,
        teacher,
        *costs,
        num_videos=run.videos_per_epoch,
        num_images=run.images_per_epoch,
        num_epochs=args.num_train_epochs,
        num_devices=run.num_devices,
    )
