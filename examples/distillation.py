"""Distillation of a tiny InternVideo2 student, without network, against the same student without a teacher.

A tiny InternVideo2 is trained on many labelled clips and becomes the teacher. The student, half as deep and as wide,
is distilled from it on clips without labels, and then fine-tuned on few labelled ones; the other student is fine-tuned
on these from random weights. The classes are the shape and the colour of a moving object.

    python examples/distillation.py --output distillation
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modeling_umt import (
    InternVideo2Config,
    InternVideo2ForPreTraining,
    InternVideo2ForVideoClassification,
    InternVideo2Model,
)
from umt_training import (
    UMTDistillationArguments,
    UMTDistillationTrainer,
    UMTFineTuningArguments,
    UMTFineTuningTrainer,
)
from umt_training.demo.motion_clips import COLOURS, SHAPES, SIZE, MotionClipDataset, draw_motion_clip, roll_and_jitter
from umt_training.trainers.video_teacher import VideoTeacher

CLASSES = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
FRAMES = [0, 4]  # of a generated clip
TEST_CLIPS = 800
BATCH = 32
QUIET = {"save_strategy": "no", "report_to": "none", "disable_tqdm": True, "logging_steps": 0.5}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("distillation"), help="folder of the models")
    parser.add_argument("--teacher-steps", type=int, default=1200, help="optimiser steps of the teacher")
    parser.add_argument("--steps", type=int, default=800, help="optimiser steps of the distillation")
    parser.add_argument("--finetune-steps", type=int, default=300, help="optimiser steps of each fine-tuning")
    parser.add_argument(
        "--clips", type=int, default=4000, help="clips with labels for the teacher, without for students"
    )
    parser.add_argument("--labelled", type=int, default=160, help="labelled clips for the students")
    args = parser.parse_args(argv)
    start = time.perf_counter()

    many, few, test = clips(1, args.clips), clips(2, args.labelled), clips(3, TEST_CLIPS)
    teacher = classifier(hidden_size=96, num_hidden_layers=4)
    fine_tune(teacher, many, args.output / "teacher", args.teacher_steps)
    say(start, f"teacher: {accuracy(teacher, test):.1f} % of held-out clips, {teacher.num_parameters():,} parameters")

    student = distil(teacher.base_model, many, args.output / "student", args.steps)
    say(start, f"student distilled, {student.base_model.num_parameters():,} parameters")
    for name, source in (("distilled", args.output / "student"), ("without the teacher", None)):
        model = classifier(source, hidden_size=48, num_hidden_layers=2)
        fine_tune(model, few, args.output / name.replace(" ", "-"), args.finetune_steps)
        say(start, f"student, {name}, after {args.labelled} labels: {accuracy(model, test):.1f} % of held-out clips")
    print(f"chance: {100 / len(CLASSES):.1f} %")


def clips(seed: int, number: int) -> MotionClipDataset:
    """Generated clips of `FRAMES`, with the index of shape and colour as label."""
    drawn = [draw_motion_clip(seed, index) for index in range(number)]
    labels = np.array([CLASSES.index(f"{clip.colour} {clip.shape}") for clip in drawn])
    return MotionClipDataset(np.stack([clip.frames()[FRAMES] for clip in drawn]), labels, roll_and_jitter, seed=seed)


def config(hidden_size: int, num_hidden_layers: int, **fields: Any) -> InternVideo2Config:
    return InternVideo2Config(
        image_size=SIZE,
        patch_size=8,
        num_frames=len(FRAMES),
        hidden_size=hidden_size,
        num_hidden_layers=num_hidden_layers,
        num_attention_heads=4,
        intermediate_size=4 * hidden_size,
        num_pooling_heads=4,
        pooled_size=64,
        layer_scale_init_value=1.0,  # 1e-5 suits long runs of deep models
        initializer_range=hidden_size**-0.5,
        num_aligned_layers=2,
        **fields,
    )


def classifier(source: Path | None = None, **sizes: int) -> InternVideo2ForVideoClassification:
    """A classifier of the sizes, with the encoder of a saved student or random weights."""
    torch.manual_seed(0)
    names = dict(enumerate(CLASSES))
    if source is not None:
        return InternVideo2ForVideoClassification.from_pretrained(source, id2label=names)
    return InternVideo2ForVideoClassification(config(**sizes, id2label=names))


def fine_tune(model: torch.nn.Module, data: MotionClipDataset, folder: Path, num_steps: int) -> None:
    args = UMTFineTuningArguments(
        output_dir=folder,
        max_steps=num_steps,
        warmup_steps=num_steps // 10,
        per_device_train_batch_size=BATCH,
        base_learning_rate=1e-3 * 256 / BATCH,
        views_per_video=1,
        mixup_alpha=0.0,
        cutmix_alpha=0.0,
        **QUIET,
    )
    UMTFineTuningTrainer(model, args, train_dataset=data).train()


def distil(encoder: InternVideo2Model, data: MotionClipDataset, folder: Path, num_steps: int):
    """Distil a student from `encoder` on clips without their labels, and save it."""
    torch.manual_seed(0)
    targets = {"target_dim": encoder.config.hidden_size, "final_target_dim": encoder.config.pooled_size}
    student = InternVideo2ForPreTraining(config(hidden_size=48, num_hidden_layers=2, **targets))
    args = UMTDistillationArguments(
        output_dir=folder,
        max_steps=num_steps,
        warmup_steps=num_steps // 10,
        per_device_train_batch_size=BATCH,
        base_learning_rate=1e-3 * 256 / BATCH,
        base_min_learning_rate=0.0,
        mask_ratio=0.5,
        **QUIET,
    )
    unlabelled = MotionClipDataset(data.frames, None, roll_and_jitter, seed=1)
    trainer = UMTDistillationTrainer(
        student, VideoTeacher(encoder, student.config, 1.5), args, train_dataset=unlabelled
    )
    trainer.train()
    student.save_pretrained(folder)
    return student


@torch.inference_mode()
def accuracy(model: torch.nn.Module, data: MotionClipDataset) -> float:
    """Top-1 accuracy in percent."""
    model.eval()
    trainer = UMTFineTuningTrainer(model, UMTFineTuningArguments(output_dir="unused", **QUIET), train_dataset=data)
    frames = torch.from_numpy(data.frames).permute(0, 1, 4, 2, 3)
    logits = torch.cat(
        [model(trainer.pixel_values(batch.to(model.device))).logits.cpu() for batch in frames.split(100)]
    )
    return 100 * (logits.argmax(-1).numpy() == data.labels).mean()


def say(start: float, text: str) -> None:
    print(f"{time.perf_counter() - start:5.0f} s  {text}", flush=True)


if __name__ == "__main__":
    main()
