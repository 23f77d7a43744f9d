"""A stage-1 run from a recipe: student, teacher, data, trainer, resume (arXiv 2303.16058, section 3.2)."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from transformers import PreTrainedModel, set_seed

from modeling_umt import UMTConfig, UMTForPreTraining, convert_umt_checkpoint
from modeling_umt.modeling_umt import UMTPreTrainedModel
from processing_umt import UMTVideoProcessor
from processing_umt.augmentation_umt import augment_for_pretraining
from processing_umt.frame_sampling_umt import sample_training_clip

from ..cards.run_facts import RunFacts
from ..data.video_dataset import VideoClipDataset
from ..data.video_stream import StreamedClipDataset
from ..model_sources import read_model_config
from ..trainers.argument_ranges import require_ranges
from ..trainers.pretraining import UMTPreTrainingArguments, UMTPreTrainingTrainer
from ..trainers.teacher_student import MOTION, draw_scored_masks
from ..trainers.teachers import load_teacher, size_teacher
from .estimate import describe_cost, estimate_pretraining
from .initial_weights import load_initial_weights, require_model_type
from .motion_setting import refuse_motion_drop
from .recipes import parse_recipe, require_keys
from .resume import run_to_end
from .run_clips import clips_per_epoch, data_seed, training_clips, training_crop, unlabelled_records
from .run_folder import RunFolder


@dataclass
class PreTrainingRun:
    """The keys of a stage-1 recipe beside the training arguments.

    Args:
        task: `stage1`.
        data: The videos: a folder, a list file, a table, a Hub dataset id, shards (see `load_video_records`).
        data_root: Folder that relative paths of the data start from.
        streaming: Read a Hub data set as a stream instead of downloading it first.
        samples_per_epoch: Clips in an epoch of a stream or of tar shards, whose length is unknown, and of an estimate
            without `data`.
        teacher: Hub id or folder of a CLIP, SigLIP, SigLIP 2, DINOv2 or DINOv3 (ViT) checkpoint or of a saved
            `UMTTeacherModel`, or an official extracted `.pth`.
        teacher_image_size: Side of the teacher's frames in pixels; by default a saved `UMTTeacherModel`'s own, and for
            other checkpoints 14 patches.
        model: Fields of `UMTConfig` that differ from UMT-L/16, as a mapping.
        init_from: Start from a saved UMT model, a Hub id or an official `.pth` instead of random weights.
        num_devices: Devices of the run, for `--estimate` only.
    """

    task: Literal["stage1"] = "stage1"
    data: str | None = None
    data_root: str | None = None
    streaming: bool = False
    samples_per_epoch: int = 658_000
    teacher: str = "openai/clip-vit-large-patch14"
    teacher_image_size: int | None = None
    model: dict[str, Any] = field(default_factory=dict, metadata={"fields_of": UMTConfig})
    init_from: str | None = None
    num_devices: int = 32

    def __post_init__(self):
        require_ranges(
            self,
            {"samples_per_epoch": "[1, inf)", "num_devices": "[1, inf)", "teacher_image_size": "[1, inf)"},
        )
        refuse_motion_drop("model", self.model)


def pretrain_stage1(recipe: Mapping[str, Any], overrides: Sequence[str]) -> UMTPreTrainingTrainer:
    """Run a stage-1 recipe to its end or resume it; see `tasks.pretrain`."""
    run, args = parse_recipe(recipe, overrides, PreTrainingRun, UMTPreTrainingArguments)
    require_keys(run, "data")
    folder = RunFolder.open(run, args)
    set_seed(args.seed)
    student = load_student(run.init_from, run.model)
    teacher = load_teacher(run.teacher, student.config, run.teacher_image_size)
    trainer = UMTPreTrainingTrainer(
        model=student,
        teacher=teacher,
        args=args,
        processing_class=UMTVideoProcessor.for_config(student.config),
        train_dataset=load_training_clips(run, args, student.config),
        run_facts=run_facts(run),
    )
    return run_to_end(trainer, folder, f"umt finetune --data CLIPS --init-from {args.output_dir} --output-dir NEW")


def run_facts(run: PreTrainingRun) -> RunFacts:
    """The facts of a run for its model card."""
    return RunFacts(
        data=(run.data,),
        starts=(run.init_from,) if run.init_from else (),
        settings={"started from": run.init_from, "teacher": run.teacher},
    )


def load_student(
    init_from: str | None, fields: Mapping[str, Any], model_class: type[UMTPreTrainedModel] = UMTForPreTraining
) -> UMTPreTrainedModel:
    """The student of a run.

    Args:
        init_from: A saved UMT model, a Hub id or an official `.pth` with a UMT encoder; decoders that it does not
            contain are initialised. None: random weights.
        fields: Fields of `UMTConfig` that differ from UMT-L/16, or from the checkpoint's.
        model_class: Its class, [`UMTForPreTraining`] (stage 1) or [`UMTForMaskedModeling`].

    Raises:
        OSError: the model does not exist.
        ValueError: it is of another type, or lacks weights of the encoder.
    """
    if init_from is None:
        return model_class(UMTConfig(**fields))
    new = ("decoders.", "umt.norm.")
    if not init_from.endswith(".pth"):
        require_model_type(init_from, read_model_config(init_from), UMTConfig.model_type)
        return load_initial_weights(model_class, init_from, new, dtype=torch.float32, **fields)
    official = convert_umt_checkpoint(init_from)
    official.config.architectures = [type(official).__name__]
    require_model_type(init_from, official.config.to_dict(), UMTConfig.model_type)
    config = UMTConfig.from_dict(official.config.to_dict(), **fields)
    return load_initial_weights(model_class, init_from, new, config=config, state_dict=official.state_dict())


def size_student(
    init_from: str | None, fields: Mapping[str, Any], model_class: type[UMTPreTrainedModel] = UMTForPreTraining
) -> UMTPreTrainedModel:
    """The student of `load_student` on the meta device; a new one is made without weights."""
    with torch.device("meta") if init_from is None else nullcontext():
        return load_student(init_from, fields, model_class).to("meta")


def load_training_clips(
    run: PreTrainingRun, args: UMTPreTrainingArguments, student: UMTConfig
) -> VideoClipDataset | StreamedClipDataset:
    """Training clips: a random frame of each segment, multi-scale crop, flip (section 3.2)."""
    return training_clips(
        unlabelled_records(run),
        args,
        run.samples_per_epoch,
        num_frames=student.num_frames,
        sample_frames=partial(sample_training_clip, sampling="segments"),
        transform=partial(augment_for_pretraining, size=training_crop(student)),
        seed=data_seed(args),
    )


def estimate_run(recipe: Mapping[str, Any], overrides: Sequence[str]) -> str:
    """What a recipe would cost, as text.

    A new student and the teachers of the published recipes are sized without weights; others are loaded.
    """
    run, args = parse_recipe(recipe, overrides, PreTrainingRun, UMTPreTrainingArguments)
    student = size_student(run.init_from, run.model)
    teacher = size_teacher(run.teacher, student.config, run.teacher_image_size)
    return describe_cost(
        estimate_pretraining(student, teacher, partial(select_tokens, student, args)),
        num_clips=clips_per_epoch(run),
        num_epochs=args.num_train_epochs,
        num_masks=args.num_masks_per_clip,
        batch=args.per_device_train_batch_size,
        num_devices=run.num_devices,
    )


def select_tokens(
    student: PreTrainedModel, args: UMTPreTrainingArguments, cls_attention: torch.Tensor
) -> torch.Tensor:
    """The visible tokens of a clip of an estimate, whose values do not matter; motion embeds the clip once more."""
    config, scores = student.config, cls_attention
    if args.mask_type == MOTION:
        clip = cls_attention.new_empty(1, config.num_frames, config.num_channels, *config.image_height_width)
        scores = student.base_model.motion_importance(clip)
    seeds = torch.zeros(1, dtype=torch.int64, device=scores.device)
    return draw_scored_masks(args.mask_type, scores, args.mask_ratio, seeds, 1)[:, 0]
