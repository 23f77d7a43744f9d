"""A whole stage-1 run from a recipe: data, teacher, student, trainer, resume (arXiv 2303.16058, section 3.2)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from transformers import set_seed

from modeling_umt import (
    UMTConfig,
    UMTForPreTraining,
    convert_umt_checkpoint,
)
from processing_umt import UMTVideoProcessor
from processing_umt.augmentation_umt import augment_for_pretraining
from processing_umt.frame_sampling_umt import sample_training_clip

from ..data.video_dataset import VideoClipDataset
from ..data.video_records import load_video_records
from ..data.video_stream import StreamedClipDataset
from ..trainers.pretraining import UMTPreTrainingArguments, UMTPreTrainingTrainer
from ..trainers.teacher_student import TOKEN_SELECTIONS
from ..trainers.teachers import load_teacher, size_teacher
from .estimate import describe_cost, estimate_pretraining
from .recipes import config_fields, for_this_machine, parse_recipe, read_recipe
from .resume import save_with_card, train_or_resume
from .run_clips import data_seed, training_clips, training_crop


@dataclass
class PreTrainingRun:
    """What a stage-1 recipe says beside the training arguments.

    Args:
        data: The videos: a folder, a list file, a table, a Hub dataset id, shards (see `load_video_records`).
        data_root: Folder that relative paths of the data start from.
        streaming: Read a Hub data set as a stream instead of downloading it first.
        samples_per_epoch: Clips of an epoch of a stream or of tar shards, which do not tell their length, and of an
            estimate without `data`.
        teacher: Hub id or folder of a CLIP or DINOv2 checkpoint or of a saved `UMTTeacherModel`, or an official
            extracted `.pth`.
        teacher_image_size: Pixels of the frames the teacher sees; by default a saved `UMTTeacherModel`'s own, and of
            other checkpoints 14 patches a side.
        model: Fields of `UMTConfig` that differ from UMT-L/16, as a mapping (JSON on the command line).
        init_from: Start from a saved UMT model, a Hub id or an official `.pth` instead of random weights.
        num_devices: Devices of the run, for `--estimate` alone.
    """

    data: str | None = None
    data_root: str | None = None
    streaming: bool = False
    samples_per_epoch: int = 658_000
    teacher: str = "openai/clip-vit-large-patch14"
    teacher_image_size: int | None = None
    model: str = "{}"
    init_from: str | None = None
    num_devices: int = 32


def pretrain(recipe: str, overrides: list[str]) -> UMTPreTrainingTrainer:
    """Run a stage-1 recipe to its end, from the last checkpoint in `output_dir` if there is one.

    The trained model, its code, its processor and its card end in `output_dir`. Without an accelerator the arithmetic
    is float32, whatever the recipe says.

    Raises:
        ValueError: if a key is unknown, no data are given, or teacher and student do not fit.
    """
    settings = for_this_machine(read_recipe(recipe))
    run, args = parse_recipe(settings, overrides, PreTrainingRun, UMTPreTrainingArguments)
    if run.data is None:
        raise ValueError("No `data` given; say --data FOLDER, a list file, a table, shards or a Hub dataset id.")
    set_seed(args.seed)
    student = load_student(run.init_from, config_fields(run, UMTConfig))
    teacher = load_teacher(run.teacher, student.config, run.teacher_image_size)
    trainer = UMTPreTrainingTrainer(
        model=student,
        teacher=teacher,
        args=args,
        train_dataset=load_clips(run, student.config, args),
        processing_class=UMTVideoProcessor.for_config(student.config),
    )
    trainer.run = run
    train_or_resume(trainer)
    save_with_card(trainer)
    return trainer


def estimate_run(recipe: str, overrides: list[str]) -> str:
    """What a recipe would cost, as text.

    A fresh student and the teachers of the published recipes are sized without weights; others are loaded for it.
    """
    run, args = parse_recipe(read_recipe(recipe), overrides, PreTrainingRun, UMTPreTrainingArguments)
    fields = config_fields(run, UMTConfig)
    if run.init_from is None:
        with torch.device("meta"):
            student = load_student(None, fields)
    else:
        student = load_student(run.init_from, fields).to("meta")
    teacher = size_teacher(run.teacher, student.config, run.teacher_image_size)
    seeds = torch.zeros(1, dtype=torch.int64, device="meta")
    select = partial(TOKEN_SELECTIONS[args.mask_type], mask_ratio=args.mask_ratio, sample_seeds=seeds)
    records = [] if run.data is None else load_video_records(run.data, root=run.data_root, streaming=run.streaming)
    return describe_cost(
        estimate_pretraining(student, teacher, select),
        num_clips=len(records) if records and hasattr(records, "__len__") else run.samples_per_epoch,
        num_epochs=args.num_train_epochs,
        num_masks=args.num_masks_per_clip,
        batch=args.per_device_train_batch_size,
        num_devices=run.num_devices,
    )


def load_student(init_from: str | None, fields: Mapping[str, Any]) -> UMTForPreTraining:
    """The student of a run.

    Args:
        init_from: A saved UMT model, a Hub id or an official `.pth` with a UMT encoder; its decoders may be missing
            and are then initialised. None: random weights.
        fields: Fields of `UMTConfig` that differ from UMT-L/16, or from the checkpoint's.
    """
    if init_from is None:
        return UMTForPreTraining(UMTConfig(**fields))
    if not init_from.endswith(".pth"):
        return UMTForPreTraining.from_pretrained(init_from, dtype=torch.float32, **fields)
    official = convert_umt_checkpoint(init_from)
    config = UMTConfig.from_dict(official.config.to_dict(), **fields)
    return UMTForPreTraining.from_pretrained(None, config=config, state_dict=official.state_dict())


def load_clips(
    run: PreTrainingRun, student: UMTConfig, args: UMTPreTrainingArguments
) -> VideoClipDataset | StreamedClipDataset:
    """Stage-1 training clips: a random frame of each segment, multi-scale crop, flip (method, 7)."""
    crop = training_crop(student)
    return training_clips(
        load_video_records(run.data, root=run.data_root, streaming=run.streaming),
        args,
        run.samples_per_epoch,
        num_frames=student.num_frames,
        sample_frames=partial(sample_training_clip, sampling="segments"),
        transform=partial(augment_for_pretraining, size=crop),
        seed=data_seed(args),
    )
