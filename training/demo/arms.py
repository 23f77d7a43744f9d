"""The training runs that `umt demo` compares, each a task of a worker process: teacher, stage 1, and fine-tuning from
the pre-trained student or from scratch (arXiv 2303.16058, sections 3 and 4.2, at toy scale).

All arms share the network, the labelled clips, the number of steps and the candidate learning rates. The head reads
the features of the frames in temporal order (`UMTFramePooling`); the paper's head reads the mean of all tokens. A
strong layer-wise learning-rate decay keeps the student's layers nearly unchanged (docs/demo.md).
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn
from transformers import AutoConfig, AutoModel

from ..cards.run_facts import RunFacts
from ..trainers.teachers import load_teacher
from .data import DemoClips, demo_processor, repeat_one_frame, shuffle_frames
from .motion_clips import NUM_FRAMES, SIZE, draw_motion_clip, render_motion_clips
from .tiny_runs import (
    GRID_SIDE,
    NO_MIXING,
    classifier,
    finetuning_trainer,
    loss_curve,
    pretraining_trainer,
    student_config,
    train_teacher,
)

TEACHER_CLIPS = 1003  # seed of the clips whose frames and captions the teacher is trained on
POOLING = "frames"
DROP_PATH = 0.1
LAYER_DECAY = 0.3


# --- teacher and student ---------------------------------------------------------------------------------------------


def train_demo_teacher(num_clips: int, num_steps: int, folder: Path, on_step: Callable[..., None]) -> dict[str, float]:
    """Train a tiny CLIP on frames of generated clips and their captions, and save it in `folder / "teacher"`."""
    frames, _ = render_motion_clips(TEACHER_CLIPS, num_clips)
    clips = [draw_motion_clip(TEACHER_CLIPS, index) for index in range(num_clips)]
    captions = [clip.caption(frame) for clip in clips for frame in range(NUM_FRAMES)]
    loss = train_teacher(frames.reshape(-1, SIZE, SIZE, 3), captions, num_steps, folder, on_step)
    return {"loss": loss, "parameters": AutoModel.from_pretrained(folder / "clip").num_parameters()}


def load_demo_teacher(name: str) -> nn.Module:
    """The teacher in a folder or on the Hub, with the student's token grid.

    Raises:
        ValueError: if the teacher can't be loaded.
    """
    try:
        config = AutoConfig.from_pretrained(name)
        # `load_teacher` rejects the models without patches, and reads the student's aligned layers and their norm
        patch_size = getattr(getattr(config, "vision_config", config), "patch_size", 1)
        teacher = load_teacher(name, student_config(SIZE, NUM_FRAMES, target_dim=1), GRID_SIDE * patch_size)
    except OSError as error:
        raise ValueError(
            f"The teacher {name!r} can't be loaded: it is not a local folder, and the Hub is unreachable or does not "
            f"have the model ({str(error).splitlines()[0]}). Omit --teacher to train a tiny one, or give the folder "
            "of a downloaded CLIP."
        ) from error
    teacher.set_attn_implementation("eager")
    return teacher


def pretrain(
    clips: DemoClips,
    teacher: str,
    num_steps: int,
    folder: Path,
    options: dict[str, Any],
    on_step: Callable[..., None],
) -> dict[str, Any]:
    """Run stage 1 without labels; the student and its model card are saved in `folder`.

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
        run_facts=RunFacts(data=(clips.description,), settings={"teacher": teacher}),
        **options,
    )
    trainer.train()
    trainer.save_model()
    trainer.create_model_card()
    return loss_curve(trainer)


# --- classifiers -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ArmRun:
    """One fine-tuning run of an arm.

    Args:
        arm: `umt`, `scratch` or `long`.
        start: Folder of the student that the run starts from, or None: from scratch.
        num_steps: Optimiser steps.
        learning_rate: Peak learning rate.
        seed: Seed of the labelled clips, the newly initialised weights and the order of the clips.
        layer_decay: Layer-wise learning-rate decay of a run that starts from a student.
    """

    arm: str
    start: Path | None
    num_steps: int
    learning_rate: float
    seed: int
    layer_decay: float = LAYER_DECAY


def finetune(run: ArmRun, clips: DemoClips, folder: Path, on_step: Callable[..., None]) -> dict[str, Any]:
    """Train a classifier, save it with its model card in `folder`, and evaluate it.

    Returns:
        The run's settings, its `curve` of (step, loss), and top-1 accuracy in percent on `validation`, `test`, and the
        two controls, `one_frame` and `shuffled`.
    """
    source = student_config(clips.side, NUM_FRAMES, 1) if run.start is None else run.start
    train_dataset = clips.for_finetuning(run.seed)
    trainer = finetuning_trainer(
        classifier(source, clips.class_names, run.seed, pooling=POOLING, drop_path_rate=DROP_PATH),
        train_dataset,
        folder,
        run.num_steps,
        run.learning_rate,
        # layers with random weights learn at the learning rate of the head: decay would hold these arms back
        regularisation=NO_MIXING | {"layer_decay": 1.0 if run.start is None else run.layer_decay},
        seed=run.seed,
        on_step=on_step,
        processing_class=demo_processor(clips.side),
        eval_dataset=clips.for_evaluation("validation"),
        run_facts=RunFacts(
            data=(f"{clips.description}, {len(train_dataset)} of them labelled",),
            eval_data="validation clips",
            starts=() if run.start is None else (run.start.name,),
            settings={"frame sampling": "segments", "horizontal flip": False},
        ),
    )
    trainer.train()
    row = {"arm": run.arm, "rate": run.learning_rate, "seed": run.seed, "steps": run.num_steps}
    row["curve"] = loss_curve(trainer)["curve"]
    row["validation"] = trainer.evaluate()["eval_top1"]
    for name, control in (("test", None), ("one_frame", repeat_one_frame), ("shuffled", shuffle_frames)):
        row[name] = accuracy(trainer, clips.for_evaluation("test", control))
    trainer.save_model()
    trainer.create_model_card()
    return row


def accuracy(trainer: Any, dataset: Any) -> float:
    """Top-1 accuracy in percent. Nothing is logged: the model card reports the last logged evaluation."""
    prediction = trainer.predict(dataset)
    return float((prediction.predictions.argmax(axis=1) == np.asarray(prediction.label_ids)).mean() * 100)
