"""A whole stage-1 run from a recipe: data, teacher, student, trainer, resume (arXiv 2303.16058, section 3.2)."""

import json
import os
from dataclasses import dataclass
from functools import partial

from torch import nn
from transformers import AutoConfig, set_seed
from transformers.trainer_utils import get_last_checkpoint

from modeling_umt import (
    UMTConfig,
    UMTDinov2Teacher,
    UMTForPreTraining,
    UMTTeacherConfig,
    UMTTeacherModel,
    convert_umt_checkpoint,
)
from processing_umt.augmentation_umt import augment_for_pretraining
from processing_umt.frame_sampling_umt import sample_training_clip

from .estimate import PUBLISHED_TEACHERS, describe_cost, estimate_pretraining
from .inference import processor_of_config
from .pretraining import UMTPreTrainingArguments, UMTPreTrainingTrainer
from .recipes import parse_recipe, read_recipe
from .video_dataset import VideoClipDataset
from .video_records import load_video_records
from .video_stream import StreamedClipDataset


@dataclass
class PreTrainingRun:
    """What a stage-1 recipe says beside the training arguments.

    Args:
        data: The videos: a folder, a list file, a table, a Hub dataset id, shards (see `load_video_records`).
        data_root: Folder that relative paths of the data start from.
        streaming: Read a Hub data set as a stream instead of downloading it first.
        samples_per_epoch: Clips of an epoch of a stream or of tar shards, which do not tell their length.
        teacher: Hub id or folder of a CLIP or DINOv2 checkpoint or of a saved `UMTTeacherModel`, or an official
            extracted `.pth`.
        teacher_image_size: Pixels of the frames the teacher sees.
        model: Fields of `UMTConfig` that differ from UMT-L/16, as a mapping (JSON on the command line).
        init_from: Start from a saved UMT model, a Hub id or an official `.pth` instead of random weights.
        num_devices: Devices of the run, for `--estimate` alone.
    """

    data: str | None = None
    data_root: str | None = None
    streaming: bool = False
    samples_per_epoch: int = 658_000
    teacher: str = "openai/clip-vit-large-patch14"
    teacher_image_size: int = 196
    model: str = "{}"
    init_from: str | None = None
    num_devices: int = 32


def pretrain(recipe: str, overrides: list[str]) -> UMTPreTrainingTrainer:
    """Run a stage-1 recipe to its end, from the last checkpoint in `output_dir` if there is one.

    The trained model, its code and its processor end in `output_dir`.

    Raises:
        ValueError: if a key is unknown, no data are given, or teacher and student do not fit.
    """
    run, args = parse_recipe(read_recipe(recipe), overrides, PreTrainingRun, UMTPreTrainingArguments)
    if run.data is None:
        raise ValueError("No `data` given; say --data FOLDER, a list file, a table, shards or a Hub dataset id.")
    set_seed(args.seed)
    student = load_student(run)
    teacher = load_teacher(run, student.config)
    trainer = UMTPreTrainingTrainer(
        model=student,
        teacher=teacher,
        args=args,
        train_dataset=load_clips(run, student.config, args),
        processing_class=processor_of_config(student.config),
    )
    checkpoint = args.resume_from_checkpoint
    if checkpoint is None and os.path.isdir(args.output_dir):
        checkpoint = get_last_checkpoint(args.output_dir)
    if checkpoint is not None:
        print(f"resuming from {checkpoint}", flush=True)
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()
    trainer.save_state()
    return trainer


def estimate_run(recipe: str, overrides: list[str]) -> str:
    """What a recipe would cost, as text; loads no weights."""
    run, args = parse_recipe(read_recipe(recipe), overrides, PreTrainingRun, UMTPreTrainingArguments)
    student = UMTConfig(**json.loads(run.model))
    teacher = PUBLISHED_TEACHERS.get(run.teacher) or UMTTeacherConfig.from_pretrained(run.teacher)
    return describe_cost(
        estimate_pretraining(student, teacher, args.mask_ratio),
        num_clips=run.samples_per_epoch,
        num_epochs=args.num_train_epochs,
        num_masks=args.num_masks_per_clip,
        batch=args.per_device_train_batch_size,
        num_devices=run.num_devices,
    )


def load_student(run: PreTrainingRun) -> UMTForPreTraining:
    """The student of a run: fresh, or from any checkpoint that holds a UMT encoder; decoders may be fresh then."""
    fields = json.loads(run.model)
    if run.init_from is None:
        return UMTForPreTraining(UMTConfig(**fields))
    if not run.init_from.endswith(".pth"):
        return UMTForPreTraining.from_pretrained(run.init_from, dtype="float32", **fields)
    official = convert_umt_checkpoint(run.init_from)
    config = UMTConfig.from_dict(official.config.to_dict(), **fields)
    return UMTForPreTraining.from_pretrained(None, config=config, state_dict=official.state_dict())


def load_clips(
    run: PreTrainingRun, student: UMTConfig, args: UMTPreTrainingArguments
) -> VideoClipDataset | StreamedClipDataset:
    """Stage-1 training clips: a random frame of each segment, multi-scale crop, flip (method, 7)."""
    if not isinstance(student.image_size, int):
        raise ValueError(f"Training crops are square, but `image_size` is {student.image_size}; give one number.")
    records = load_video_records(run.data, root=run.data_root, streaming=run.streaming)
    options = {
        "num_frames": student.num_frames,
        "sample_frames": partial(sample_training_clip, sampling="segments"),
        "transform": partial(augment_for_pretraining, size=student.image_size),
        "seed": args.seed if args.data_seed is None else args.data_seed,
    }
    if hasattr(records, "__len__"):
        return VideoClipDataset(records, **options)
    return StreamedClipDataset(
        records,
        samples_per_epoch=run.samples_per_epoch,
        batch_size=args.train_batch_size,
        process_index=args.process_index,
        num_processes=args.world_size,
        **options,
    )


def load_teacher(run: PreTrainingRun, student: UMTConfig) -> nn.Module:
    """The teacher of a run, returning the layers that the student aligns.

    Raises:
        ValueError: if the checkpoint is of a family that has no adapter.
    """
    if run.teacher.endswith(".pth"):
        return convert_umt_checkpoint(run.teacher)
    fields = {
        "num_aligned_layers": student.num_aligned_layers,
        "aligned_layer_interval": student.aligned_layer_interval,
        "target_norm": student.target_norm,
    }
    family = AutoConfig.from_pretrained(run.teacher).model_type
    if family == "umt_teacher":
        return UMTTeacherModel.from_pretrained(run.teacher, **fields)
    if family in ("clip", "clip_vision_model"):
        return UMTTeacherModel.from_clip(run.teacher, image_size=run.teacher_image_size, **fields)
    if family == "dinov2":
        return UMTDinov2Teacher.from_pretrained(run.teacher, image_size=run.teacher_image_size, **fields)
    raise ValueError(
        f"{run.teacher!r} is a {family!r} model; a teacher is a CLIP, DINOv2 or UMTTeacherModel checkpoint."
    )
