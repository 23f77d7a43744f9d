"""A distillation run from a recipe: InternVideo2 student, video encoder as teacher, data, trainer, resume (arXiv
2403.15377, section 3.1)."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from transformers import PreTrainedModel, set_seed

from modeling_umt import (
    InternVideo2Config,
    InternVideo2ForPreTraining,
    InternVideo2Model,
    convert_umt_checkpoint,
)
from processing_umt import UMTVideoProcessor

from ..cards.run_facts import RunFacts
from ..model_sources import OFFICIAL_ENDINGS, read_model_config
from ..trainers.argument_ranges import require_ranges
from ..trainers.distillation import UMTDistillationArguments, UMTDistillationTrainer, require_attention
from ..trainers.video_teacher import VideoTeacher, load_video_encoder
from .estimate import describe_cost, estimate_distillation
from .initial_weights import load_initial_weights, require_model_type
from .motion_setting import refuse_motion_drop
from .pretraining_run import load_training_clips, select_tokens
from .recipes import parse_recipe, require_keys
from .resume import run_to_end
from .run_clips import clips_per_epoch
from .run_folder import RunFolder

DECODERS = ("decoders.", "final_decoder.", "aligned_positions.")
# InternVideo2-1B after stage 2, so that an estimate of a published recipe needs no download
PUBLISHED_TEACHER = InternVideo2Config(num_frames=4)


@dataclass
class DistillationRun:
    """The keys of a distillation recipe beside the training arguments.

    Args:
        task: `distillation`.
        data: The videos: a folder, a list file, a table, a Hub dataset id, shards (see `load_video_records`).
        data_root: Folder that relative paths of the data start from.
        streaming: Read a Hub data set as a stream instead of downloading it first.
        samples_per_epoch: Clips in an epoch of a stream or of tar shards, whose length is unknown, and of an estimate
            without `data`.
        teacher: A saved InternVideo2, UMT or stage-2 model, a Hub id, or an official file; its video encoder teaches.
            An estimate without it is of InternVideo2-1B, the published teacher.
        teacher_layer_interval: Distance between the teacher's aligned blocks, counted from the last.
        model: Fields of `InternVideo2Config` that differ from InternVideo2-1B, or from the checkpoint's, as a mapping.
            `target_dim` and `final_target_dim` follow from the teacher.
        init_from: Start from a saved InternVideo2 model, a Hub id or an official file instead of random weights.
        num_devices: Devices of the run, for `--estimate` only.
    """

    task: Literal["distillation"] = "distillation"
    data: str | None = None
    data_root: str | None = None
    streaming: bool = False
    samples_per_epoch: int = 1_100_000
    teacher: str | None = None
    teacher_layer_interval: float = 1.0
    model: dict[str, Any] = field(default_factory=dict, metadata={"fields_of": InternVideo2Config})
    init_from: str | None = None
    num_devices: int = 32

    def __post_init__(self):
        ranges = {"samples_per_epoch": "[1, inf)", "num_devices": "[1, inf)", "teacher_layer_interval": "(0, inf)"}
        require_ranges(self, ranges)
        refuse_motion_drop("model", self.model)


def pretrain_distillation(recipe: Mapping[str, Any], overrides: Sequence[str]) -> UMTDistillationTrainer:
    """Run a distillation recipe to its end or resume it; see `tasks.pretrain`."""
    run, args = parse_recipe(recipe, overrides, DistillationRun, UMTDistillationArguments)
    require_keys(run, "data", "teacher")
    folder = RunFolder.open(run, args)
    set_seed(args.seed)
    encoder = load_video_encoder(run.teacher)
    student = load_student(run.init_from, target_dims(encoder) | run.model)
    trainer = UMTDistillationTrainer(
        model=student,
        teacher=VideoTeacher(encoder, student.config, run.teacher_layer_interval),
        args=args,
        processing_class=UMTVideoProcessor.for_config(student.config),
        train_dataset=load_training_clips(run, args, student.config),
        run_facts=RunFacts(
            data=(run.data,),
            starts=(run.init_from,) if run.init_from else (),
            settings={"started from": run.init_from, "teacher": run.teacher},
        ),
    )
    return run_to_end(trainer, folder, f"umt finetune --data CLIPS --init-from {args.output_dir} --output-dir NEW")


def target_dims(encoder: PreTrainedModel) -> dict[str, int]:
    """The fields of a student's configuration that follow from its teacher."""
    config = encoder.config
    return {
        "target_dim": config.hidden_size,
        "final_target_dim": getattr(config, "pooled_size", config.hidden_size),
    }


def load_student(init_from: str | None, fields: Mapping[str, Any]) -> InternVideo2ForPreTraining:
    """The student of a run; decoders that a checkpoint does not contain are initialised.

    Args:
        init_from: A saved InternVideo2 model, a Hub id or an official file. None: random weights.
        fields: Fields of `InternVideo2Config` that differ from InternVideo2-1B, or from the checkpoint's.

    Raises:
        OSError: the model does not exist.
        ValueError: it is of another type, or lacks weights of the encoder.
    """
    if init_from is None:
        return InternVideo2ForPreTraining(InternVideo2Config(**fields))
    if not init_from.endswith(OFFICIAL_ENDINGS):
        require_model_type(init_from, read_model_config(init_from), InternVideo2Config.model_type)
        return load_initial_weights(InternVideo2ForPreTraining, init_from, DECODERS, dtype=torch.float32, **fields)
    official = convert_umt_checkpoint(init_from)
    official.config.architectures = [type(official).__name__]
    require_model_type(init_from, official.config.to_dict(), InternVideo2Config.model_type)
    config = InternVideo2Config.from_dict(official.config.to_dict(), **fields)
    return load_initial_weights(
        InternVideo2ForPreTraining, init_from, DECODERS, config=config, state_dict=official.state_dict()
    )


def estimate_run(recipe: Mapping[str, Any], overrides: Sequence[str]) -> str:
    """What a recipe would cost, as text.

    A new student and the teacher of the published recipes are sized without weights; others are loaded.

    Raises:
        ValueError: as in a run, if student, teacher and masks do not fit.
        OSError: the teacher or the student's start does not exist.
    """
    run, args = parse_recipe(recipe, overrides, DistillationRun, UMTDistillationArguments)
    if run.teacher is None:
        with torch.device("meta"):
            encoder = InternVideo2Model(PUBLISHED_TEACHER)
    else:
        encoder = load_video_encoder(run.teacher).to("meta")
    with torch.device("meta") if run.init_from is None else nullcontext():
        student = load_student(run.init_from, target_dims(encoder) | run.model).to("meta")
    teacher = VideoTeacher(encoder, student.config, run.teacher_layer_interval)
    require_attention(args.mask_type, teacher)
    return describe_cost(
        estimate_distillation(student, teacher, partial(select_tokens, student, args)),
        num_clips=clips_per_epoch(run),
        num_epochs=args.num_train_epochs,
        num_masks=args.num_masks_per_clip,
        batch=args.per_device_train_batch_size,
        num_devices=run.num_devices,
    )
