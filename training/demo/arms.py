"""The runs that `umt demo` compares, each a task of a worker: teacher and stage 1, then fine-tuning from it or from
nothing (arXiv 2303.16058, sections 3 and 4.2, in small).

What the arms have in common is the network, the labelled clips, the steps, and the learning rates that are tried. The
head reads the frames in their order (`UMTFramePooling`); it is not the paper's, which takes the mean of all tokens.
The student's layers are all but kept as they are, by a strong layer-wise decay of the rate (docs/demo.md).
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoConfig, AutoModel

from modeling_umt import UMTTeacherModel

from ..runs.finetuning_run import FineTuningRun
from ..runs.pretraining_run import PreTrainingRun
from .data import DemoClips, demo_processor, repeat_one_frame, shuffle_frames
from .motion_clips import NUM_FRAMES, SIZE, draw_motion_clip, render_motion_clips
from .tiny_runs import (
    ALIGNED_LAYERS,
    GRID_SIDE,
    NO_MIXING,
    classifier,
    finetuning_trainer,
    pretraining_trainer,
    student_config,
    train_teacher,
)

TEACHER_CLIPS = 1003  # seed of the clips whose frames and captions the teacher learns from
POOLING = "frames"
DROP_PATH = 0.1
LAYER_DECAY = 0.3


# --- teacher and student ---------------------------------------------------------------------------------------------


def train_demo_teacher(num_clips: int, num_steps: int, folder: Path, on_step: Callable[..., None]) -> dict[str, float]:
    """A tiny CLIP on frames of generated clips and their captions, saved in `folder / "teacher"`."""
    frames, _ = render_motion_clips(TEACHER_CLIPS, num_clips)
    clips = [draw_motion_clip(TEACHER_CLIPS, index) for index in range(num_clips)]
    captions = [clip.caption(frame) for clip in clips for frame in range(NUM_FRAMES)]
    loss = train_teacher(frames.reshape(-1, SIZE, SIZE, 3), captions, num_steps, folder, on_step)
    return {"loss": loss, "parameters": AutoModel.from_pretrained(folder / "clip").num_parameters()}


def load_demo_teacher(name: str) -> UMTTeacherModel:
    """The teacher in a folder or on the Hub, seeing as many tokens as the student.

    Raises:
        ValueError: if it can't be had, with what to do.
    """
    try:
        config = AutoConfig.from_pretrained(name)
        if config.model_type == "umt_teacher":
            return UMTTeacherModel.from_pretrained(name, attn_implementation="eager")
        patch = getattr(config, "vision_config", config).patch_size
        return UMTTeacherModel.from_clip(name, image_size=GRID_SIDE * patch, num_aligned_layers=ALIGNED_LAYERS)
    except OSError as error:
        raise ValueError(
            f"The teacher {name!r} can't be loaded: it is no folder here, and the Hub can't be reached or has no such "
            f"model ({str(error).splitlines()[0]}). Leave --teacher out to train a tiny one, or give the folder of a "
            "CLIP that was downloaded before."
        ) from error


def pretrain(
    clips: DemoClips,
    teacher: str,
    num_steps: int,
    folder: Path,
    options: dict[str, Any],
    on_step: Callable[..., None],
) -> dict[str, Any]:
    """Stage 1 without labels; the student ends in `folder`, with its card.

    Args:
        teacher: Folder or Hub id.
        options: `mask_type`, `num_masks` or `seed` of `pretraining_trainer`.
    """
    model = load_demo_teacher(teacher)
    config = student_config(clips.side, NUM_FRAMES, model.config.projection_dim)
    trainer = pretraining_trainer(
        model,
        clips.for_pretraining(options.get("seed", 0)),
        config,
        folder,
        num_steps,
        on_step=on_step,
        processing_class=demo_processor(clips.side),
        **options,
    )
    trainer.run = PreTrainingRun(data=described(clips), teacher=teacher)
    trainer.train()
    trainer.save_model()
    trainer.create_model_card()
    curve = [(line["step"], line["loss"]) for line in trainer.state.log_history if "loss" in line]
    return {"curve": curve, "loss": curve[-1][1]}


# --- classifiers -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ArmRun:
    """A fine-tuning run of an arm.

    Args:
        arm: `umt`, `scratch` or `long`.
        start: Folder of the student to start from, or None: from nothing.
        num_steps, learning_rate, seed: As they say; the seed is of labelled clips, fresh weights and order.
        layer_decay: Of the rate, if the run starts from a student.
    """

    arm: str
    start: Path | None
    num_steps: int
    learning_rate: float
    seed: int
    layer_decay: float = LAYER_DECAY


def finetune(run: ArmRun, clips: DemoClips, folder: Path, on_step: Callable[..., None]) -> dict[str, Any]:
    """Train a classifier, save it in `folder` with its card, and score it in percent of clips.

    Returns:
        The run, its `curve` of (step, loss), and top-1 on `validation`, `test`, and the controls' clips.
    """
    source = student_config(clips.side, NUM_FRAMES, 1) if run.start is None else run.start
    trainer = finetuning_trainer(
        classifier(source, clips.class_names, run.seed, pooling=POOLING, drop_path_rate=DROP_PATH),
        clips.for_finetuning(run.seed),
        folder,
        run.num_steps,
        run.learning_rate,
        # layers that start from nothing learn at the rate of the head: to slow them down would hold these arms back
        regularisation=NO_MIXING | {"layer_decay": 1.0 if run.start is None else run.layer_decay},
        seed=run.seed,
        on_step=on_step,
        processing_class=demo_processor(clips.side),
        eval_dataset=clips.for_evaluation("validation"),
    )
    trainer.run = FineTuningRun(
        data=f"{described(clips)}, {len(trainer.train_dataset)} of them with labels",
        eval_data="validation clips",
        init_from=None if run.start is None else run.start.name,
        sampling="segments",
        flip=False,
    )
    trainer.train()
    row = {"arm": run.arm, "rate": run.learning_rate, "seed": run.seed, "steps": run.num_steps}
    row["curve"] = [(line["step"], line["loss"]) for line in trainer.state.log_history if "loss" in line]
    row["validation"] = trainer.evaluate()["eval_top1"]
    for name, control in (("test", None), ("one_frame", repeat_one_frame), ("shuffled", shuffle_frames)):
        row[name] = accuracy(trainer, clips.for_evaluation("test", control))
    trainer.save_model()
    trainer.create_model_card()
    return row


def accuracy(trainer: Any, dataset: Any) -> float:
    """Top-1 in percent, which leaves no trace in the trainer's log, as the card tells of the last evaluation there."""
    prediction = trainer.predict(dataset)
    return float((prediction.predictions.argmax(axis=1) == np.asarray(prediction.label_ids)).mean() * 100)


def described(clips: DemoClips) -> str:
    return "generated motion clips" if clips.generated else "a folder of videos"
