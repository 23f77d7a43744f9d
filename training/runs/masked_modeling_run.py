"""A run of masked modelling from a recipe: student, teachers, data, trainer, resume (MVD, arXiv 2212.04500; VideoMAE,
arXiv 2203.12602)."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from transformers import set_seed

from modeling_umt import UMTConfig, UMTForMaskedModeling
from processing_umt import UMTVideoProcessor
from processing_umt.augmentation_umt import augment_for_masked_modeling
from processing_umt.frame_sampling_umt import RULES_WITH_STRIDE, SAMPLING_RULES, sample_training_clip

from ..cards.run_facts import RunFacts
from ..data.video_dataset import VideoClipDataset
from ..data.video_records import load_video_records
from ..data.video_stream import StreamedClipDataset
from ..trainers.argument_ranges import require_ranges
from ..trainers.masked_modeling import UMTMaskedModelingArguments, UMTMaskedModelingTrainer
from ..trainers.masked_modeling_teachers import (
    check_teachers_fit,
    load_masked_modeling_teacher,
    size_masked_modeling_teacher,
    teacher_image_size,
)
from ..trainers.masked_tokens import num_pool_frames
from ..trainers.teacher_student import TOKEN_SELECTIONS
from .estimate_masked_modeling import describe_masked_modeling_cost, estimate_masked_modeling
from .motion_setting import refuse_motion_drop
from .pretraining_run import count_clips, load_student
from .recipes import parse_recipe, require_keys
from .resume import run_to_end
from .run_clips import data_seed, training_clips, training_crop
from .run_folder import RunFolder


@dataclass
class MaskedModelingRun:
    """The keys of a recipe of masked modelling beside the training arguments.

    Args:
        task: `masked_modeling`.
        data: The videos: a folder, a list file, a table, a Hub dataset id, shards (see `load_video_records`).
        data_root: Folder that relative paths of the data start from.
        streaming: Read a Hub data set as a stream instead of downloading it first.
        samples_per_epoch: Clips in an epoch of a stream or of tar shards, whose length is unknown, and of an estimate
            without `data`.
        teachers: The teacher of each entry of `masked_targets` but `pixels`, as a mapping: Hub ids or folders of MAE
            or VideoMAE in Transformers' layout, of saved image teachers or UMT models, or official `.pth` files. Empty
            for pixels alone.
        model: Fields of `UMTConfig` that differ from UMT-L/16, as a mapping; `masked_targets` is required.
        init_from: Start from a saved UMT model, a Hub id or an official `.pth` instead of random weights.
        sampling: Frame sampling of a clip: `strided`, one window of frames `frame_stride` apart, as in the published
            runs, or another rule such as `dense` or `segments`.
        frame_stride: Distance between the frames of a clip, for `strided` and `dense`; 4 by default.
        flip: Mirror half of the training clips; the published runs do not.
        num_devices: Devices of the run, for `--estimate` only.
    """

    task: Literal["masked_modeling"] = "masked_modeling"
    data: str | None = None
    data_root: str | None = None
    streaming: bool = False
    samples_per_epoch: int = 240_000
    teachers: dict[str, str] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict, metadata={"fields_of": UMTConfig})
    init_from: str | None = None
    sampling: str = "strided"
    frame_stride: int | None = None
    flip: bool = False
    num_devices: int = 32

    def __post_init__(self):
        require_ranges(self, dict.fromkeys(("samples_per_epoch", "num_devices", "frame_stride"), "[1, inf)"))
        if self.sampling not in SAMPLING_RULES:
            raise ValueError(f"`sampling` must be one of {', '.join(SAMPLING_RULES)}, but is {self.sampling!r}.")
        if self.sampling not in RULES_WITH_STRIDE and self.frame_stride is not None:
            raise ValueError(
                f"`frame_stride` {self.frame_stride} was given, but `sampling` {self.sampling} has no stride; leave "
                f"it out, or choose {' or '.join(RULES_WITH_STRIDE)}."
            )
        refuse_motion_drop("model", self.model)
        for name, teacher in self.teachers.items():
            if not isinstance(name, str) or not isinstance(teacher, str):
                raise ValueError(
                    f"`teachers` must map the name of each target to a checkpoint, but maps {name!r} to {teacher!r}."
                )

    @property
    def stride(self) -> int:
        """Distance between the frames of a clip, for the rules that have one."""
        return 4 if self.frame_stride is None else self.frame_stride


def pretrain_masked_modeling(recipe: Mapping[str, Any], overrides: Sequence[str]) -> UMTMaskedModelingTrainer:
    """Run a recipe of masked modelling to its end or resume it; see `tasks.pretrain`."""
    run, args = parse_recipe(recipe, overrides, MaskedModelingRun, UMTMaskedModelingArguments)
    require_keys(run, "data")
    folder = RunFolder.open(run, args)
    set_seed(args.seed)
    student = load_student(run.init_from, run.model, UMTForMaskedModeling)
    teachers = {name: load_masked_modeling_teacher(source, student.config) for name, source in run.teachers.items()}
    teacher_size = teacher_image_size(student.config, {name: teacher.config for name, teacher in teachers.items()})
    trainer = UMTMaskedModelingTrainer(
        model=student,
        teachers=teachers,
        args=args,
        processing_class=processor_of(run, student.config),
        train_dataset=load_training_clips(run, args, student.config, teacher_size),
        run_facts=run_facts(run),
    )
    return run_to_end(trainer, folder, f"umt finetune --data CLIPS --init-from {args.output_dir} --output-dir NEW")


def processor_of(run: MaskedModelingRun, student: UMTConfig) -> UMTVideoProcessor:
    """The processor that is saved with the student, with the frame sampling of the run."""
    processor = UMTVideoProcessor.for_config(student)
    processor.sampling = run.sampling
    if run.sampling in RULES_WITH_STRIDE:
        processor.frame_stride = run.stride
    return processor


def run_facts(run: MaskedModelingRun) -> RunFacts:
    """The facts of a run for its model card."""
    sampling = f"{run.sampling}, stride {run.stride}" if run.sampling in RULES_WITH_STRIDE else run.sampling
    return RunFacts(
        data=(run.data,),
        starts=(run.init_from,) if run.init_from else (),
        settings={
            "started from": run.init_from,
            **{f"{name} teacher": source for name, source in run.teachers.items()},
            "frame sampling": sampling,
            "horizontal flip": run.flip,
        },
    )


def load_training_clips(
    run: MaskedModelingRun,
    args: UMTMaskedModelingArguments,
    student: UMTConfig,
    teacher_size: tuple[int, int] | None,
) -> VideoClipDataset | StreamedClipDataset:
    """Training clips: one window of frames, the multi-scale crop of stage 1, at the student's size and at
    `teacher_size`."""
    return training_clips(
        load_video_records(run.data, root=run.data_root, with_labels=False, streaming=run.streaming, reads=()),
        args,
        run.samples_per_epoch,
        num_frames=num_pool_frames(student, args.frame_pool_ratio),
        sample_frames=partial(sample_training_clip, sampling=run.sampling, frame_stride=run.stride),
        transform=partial(
            augment_for_masked_modeling,
            size=training_crop(student),
            teacher_size=None if teacher_size is None else teacher_size[0],
            flip=run.flip,
        ),
        seed=data_seed(args),
    )


def estimate_run(recipe: Mapping[str, Any], overrides: Sequence[str]) -> str:
    """What a recipe would cost, as text.

    A new student and the teachers of the published recipes are sized without weights; others are loaded.
    """
    run, args = parse_recipe(recipe, overrides, MaskedModelingRun, UMTMaskedModelingArguments)
    with torch.device("meta") if run.init_from is None else nullcontext():
        student = load_student(run.init_from, run.model, UMTForMaskedModeling).to("meta")
    teachers = {name: size_masked_modeling_teacher(source, student.config) for name, source in run.teachers.items()}
    check_teachers_fit(student.config, {name: teacher.config for name, teacher in teachers.items()})
    return describe_masked_modeling_cost(
        estimate_masked_modeling(
            student,
            teachers,
            TOKEN_SELECTIONS.get(args.mask_type),  # None: by motion
            args.mask_ratio,
            args.keep_ratio,
            args.frame_pool_ratio,
        ),
        num_clips=count_clips(run),
        num_epochs=args.num_train_epochs,
        batch=args.per_device_train_batch_size,
        num_devices=run.num_devices,
    )
