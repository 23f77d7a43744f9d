"""Teacher, stage 1 and fine-tuning at toy scale: the runs that `umt demo` and the benchmarks share.

The three steps of the method (arXiv 2303.16058, sections 3 and 4.2) on clips in memory, with the package's public
classes: a tiny CLIP is trained on frames and captions; a student of the same hidden size is aligned with it without
labels; a classifier, initialised from the student or randomly, is fine-tuned on few labelled clips.

Two choices for speed, both measured: at this size eager attention is faster on a CPU than fused attention, and
bfloat16 halves the time on CPUs with bfloat16 instructions.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback

from modeling_umt import UMTConfig, UMTForPreTraining, UMTForVideoClassification, UMTTeacherModel

from ..trainers.finetuning import UMTFineTuningArguments, UMTFineTuningTrainer
from ..trainers.pretraining import UMTPreTrainingArguments, UMTPreTrainingTrainer
from ..trainers.training_arguments import UMTTrainingArguments
from .motion_clips import MotionClipDataset, roll_and_jitter
from .tiny_clip import train_tiny_clip

ALIGNED_LAYERS = 2
PRETRAIN_BATCH = 32  # clips per step with two masks per clip: 64 student views
FINETUNE_BATCH = 16
GRID_SIDE = 4  # tokens along a side of a frame, whatever its size in pixels
JITTER = 0.2  # of the colour channels, in fine-tuning
NO_MIXING = {"mixup_alpha": 0.0, "cutmix_alpha": 0.0}

# `logging_steps` is a fraction of the run
QUIET = {"save_strategy": "no", "report_to": "none", "disable_tqdm": True, "logging_steps": 0.02}

OnStep = Callable[[int, int, float | None], None]


def fast_bf16() -> bool:
    """Whether the machine has bfloat16 instructions; otherwise bfloat16 is emulated in float32."""
    if torch.accelerator.is_available():
        return torch.accelerator.current_accelerator().type != "cuda" or torch.cuda.is_bf16_supported()
    return torch.cpu._is_avx512_bf16_supported()


class Steps(TrainerCallback):
    """Calls `on_step(step, of_steps, loss)` after every step, with the loss when it is logged and None otherwise."""

    def __init__(self, on_step: OnStep):
        self.on_step = on_step

    def on_step_end(self, args, state, control, **kwargs):
        self.on_step(state.global_step, state.max_steps, None)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in (logs or {}):
            self.on_step(state.global_step, state.max_steps, logs["loss"])


def callbacks(on_step: OnStep | None) -> list[TrainerCallback]:
    return [] if on_step is None else [Steps(on_step)]


# --- the teacher -----------------------------------------------------------------------------------------------------


def train_teacher(
    frames: np.ndarray, captions: Sequence[str], num_steps: int, folder: Path, on_step: OnStep | None = None
) -> float:
    """Train a tiny CLIP, and save it in `folder / "clip"` and its vision tower as a teacher in `folder / "teacher"`.

    Args:
        frames: uint8 `(images, side, side, 3)`.
        captions: One per frame.

    Returns:
        The contrastive loss, averaged over the last tenth of the steps.
    """
    losses = []

    def record(step: int, loss: float) -> None:
        losses.append(loss)
        if on_step is not None:
            on_step(step, num_steps, loss)

    bf16 = torch.cpu._is_avx512_bf16_supported()  # the CLIP is trained on the CPU, with or without an accelerator
    clip = train_tiny_clip(frames, captions, num_steps=num_steps, bf16=bf16, on_step=record)
    clip.save_pretrained(folder / "clip")
    teacher = UMTTeacherModel.from_clip(folder / "clip", image_size=frames.shape[1], num_aligned_layers=ALIGNED_LAYERS)
    teacher.save_pretrained(folder / "teacher")
    return float(np.mean(losses[-max(1, num_steps // 10) :]))


# --- the student -----------------------------------------------------------------------------------------------------


def student_config(side: int, num_frames: int, target_dim: int, **fields: Any) -> UMTConfig:
    """Configuration of a student of four layers with the tiny teacher's hidden size.

    Args:
        side: Pixels per side of a frame, a multiple of `GRID_SIDE`.
        num_frames: Frames of a clip.
        target_dim: Dimension of the teacher's features.
        fields: More fields of `UMTConfig`.
    """
    hidden_size = 128
    return UMTConfig(
        image_size=side,
        patch_size=side // GRID_SIDE,
        num_frames=num_frames,
        hidden_size=hidden_size,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=4 * hidden_size,
        position_grid=None,
        initializer_range=hidden_size**-0.5,  # 0.02 suits hidden sizes near 1000
        num_aligned_layers=ALIGNED_LAYERS,
        target_dim=target_dim,
        **fields,
    )


def pretraining_trainer(
    teacher: torch.nn.Module,
    train_dataset: Dataset,
    config: UMTConfig,
    output_dir: Path,
    num_steps: int,
    *,
    mask_type: str = "attention",
    num_masks: int = 2,
    seed: int = 0,
    on_step: OnStep | None = None,
    **options: Any,
) -> UMTPreTrainingTrainer:
    """The trainer of stage 1, with `2 * PRETRAIN_BATCH` student views per step for any number of masks per clip.

    Args:
        options: More arguments of the trainer.
    """
    torch.manual_seed(seed)
    student = UMTForPreTraining(config)
    student.set_attn_implementation("eager")
    fields = {"mask_type": mask_type, "num_masks_per_clip": num_masks}
    args = pretraining_arguments(output_dir, num_steps, num_masks=num_masks, seed=seed, **fields)
    return UMTPreTrainingTrainer(
        student, teacher, args, train_dataset=train_dataset, callbacks=callbacks(on_step), **options
    )


def pretraining_arguments(
    output_dir: Path,
    num_steps: int,
    *,
    num_masks: int,
    seed: int,
    arguments: type[UMTTrainingArguments] = UMTPreTrainingArguments,
    **fields: Any,
) -> UMTTrainingArguments:
    """Batch size, learning rate and schedule of stage 1, for any objective.

    Args:
        arguments: Class of the arguments.
        fields: More arguments, those of the masks.
    """
    return arguments(
        output_dir=output_dir,
        max_steps=num_steps,
        per_device_train_batch_size=2 * PRETRAIN_BATCH // num_masks,
        base_learning_rate=2e-3 * 256 / (2 * PRETRAIN_BATCH),
        base_min_learning_rate=0.0,
        warmup_steps=max(1, num_steps // 10),
        bf16=fast_bf16(),
        seed=seed,
        **fields,
        **QUIET,
    )


def loss_curve(trainer: Trainer) -> dict[str, Any]:
    """The logged losses of a run: `curve` of (step, loss), and the last `loss`."""
    curve = [(line["step"], line["loss"]) for line in trainer.state.log_history if "loss" in line]
    return {"curve": curve, "loss": curve[-1][1]}


# --- the classifier --------------------------------------------------------------------------------------------------


def classifier(
    source: Path | UMTConfig, class_names: Sequence[str], seed: int, **fields: Any
) -> UMTForVideoClassification:
    """A classifier initialised from a saved student, or randomly from a configuration.

    Args:
        source: Folder of the student, or configuration of the same network.
        class_names: Names of the classes, by label.
        seed: Seed of the newly initialised weights.
        fields: More fields of `UMTConfig`, such as `pooling`.
    """
    torch.manual_seed(seed)
    fields |= {
        "id2label": dict(enumerate(class_names)),
        "label2id": {name: index for index, name in enumerate(class_names)},
    }
    if isinstance(source, UMTConfig):
        model = UMTForVideoClassification(UMTConfig.from_dict(source.to_dict(), **fields))
    else:
        model = UMTForVideoClassification.from_pretrained(source, **fields)
    model.set_attn_implementation("eager")
    return model


def finetuning_trainer(
    model: torch.nn.Module,
    train_dataset: Dataset,
    output_dir: Path,
    num_steps: int,
    learning_rate: float,
    *,
    regularisation: Mapping[str, float],
    batch_size: int = FINETUNE_BATCH,
    seed: int = 0,
    on_step: OnStep | None = None,
    **options: Any,
) -> UMTFineTuningTrainer:
    """The trainer of a classifier, with or without a fine-tuning preset; cosine schedule.

    Args:
        learning_rate: Peak learning rate.
        regularisation: More fields of `UMTFineTuningArguments`. Without `NO_MIXING`, mixup and CutMix put two moving
            objects into a clip.
        options: More arguments of the trainer.
    """
    args = UMTFineTuningArguments(
        output_dir=output_dir,
        max_steps=num_steps,
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=100,
        base_learning_rate=learning_rate * 256 / batch_size,
        base_min_learning_rate=0.0,
        base_warmup_learning_rate=0.0,
        warmup_steps=max(1, num_steps // 10),
        views_per_video=1,
        bf16=fast_bf16(),
        seed=seed,
        **regularisation,
        **QUIET,
    )
    return UMTFineTuningTrainer(model, args, train_dataset=train_dataset, callbacks=callbacks(on_step), **options)


def labelled_motion_clips(frames: np.ndarray, labels: np.ndarray, seed: int) -> MotionClipDataset:
    """Generated clips with the augmentation of fine-tuning."""
    return MotionClipDataset(frames, labels, partial(roll_and_jitter, jitter=JITTER), seed=seed)
