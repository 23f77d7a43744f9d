"""Distillation of a tiny InternVideo2 student, without network, against the same student without a teacher.

A tiny InternVideo2 is trained on many labelled clips and becomes the teacher. A smaller student is distilled from it
on the same clips without labels, and then fine-tuned on few labelled ones; another is fine-tuned on these from random
weights. Both have the same labelled clips, steps, and candidate learning rates, with all weights or the head alone, of
which validation clips choose. The classes are a plain and a striped background behind a moving object, in random
colours.

    OMP_NUM_THREADS=1 python examples/distillation.py --output distillation
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
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
from umt_training.demo.motion_clips import PATTERNS, SIZE, MotionClipDataset, draw_motion_clip, roll_and_jitter
from umt_training.trainers.presets import apply_preset
from umt_training.trainers.video_teacher import VideoTeacher

FRAMES = [0, 4]  # of a generated clip
TRAINING, VALIDATION, LABELLED, TEST = 1, 2, 100, 1000  # seeds of the clips; a student adds its own to `LABELLED`
VALIDATION_CLIPS, TEST_CLIPS = 400, 800
# candidates of the students' fine-tuning: preset (all weights, or the head alone) and learning rate
CANDIDATES = (("full", 1e-3), ("full", 2e-3), ("full", 4e-3), ("linear", 1e-2), ("linear", 1e-1))
TEACHER = {"hidden_size": 64, "num_hidden_layers": 3}
STUDENT = {"hidden_size": 48, "num_hidden_layers": 2}
ARMS = ("distilled", "without the teacher")
BATCH = 32
T_QUANTILES = (12.706, 4.303, 3.182, 2.776)  # of Student's 95 % interval of 2 to 5 values
QUIET = {"save_strategy": "no", "report_to": "none", "disable_tqdm": True, "logging_steps": 0.5}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("distillation"), help="folder of the models")
    parser.add_argument("--seeds", type=int, default=5, choices=range(2, 6), help="students of each kind")
    parser.add_argument("--teacher-steps", type=int, default=800, help="optimiser steps of the teacher")
    parser.add_argument("--steps", type=int, default=600, help="optimiser steps of each distillation")
    parser.add_argument("--finetune-steps", type=int, default=80, help="optimiser steps of each fine-tuning")
    parser.add_argument(
        "--clips", type=int, default=3000, help="clips with labels for the teacher, without for students"
    )
    parser.add_argument("--labelled", type=int, default=8, help="labelled clips of a student")
    args = parser.parse_args(argv)

    many, validation, test = (
        clips(seed, number)
        for seed, number in ((TRAINING, args.clips), (VALIDATION, VALIDATION_CLIPS), (TEST, TEST_CLIPS))
    )
    teacher = classifier(seed=0, **TEACHER)
    fine_tune(teacher, many, args.output / "teacher", args.teacher_steps, 2e-3, seed=0)
    teacher_accuracy = accuracy(teacher, test)
    say(f"teacher: {teacher_accuracy:.1f} % of the test clips, {teacher.num_parameters():,} parameters")

    # of each seed: (validation, test)
    scores = {(arm, candidate): [] for arm in ARMS for candidate in CANDIDATES}
    for seed in range(args.seeds):
        folder = args.output / f"student-{seed}"
        distil(teacher.base_model, many, folder, args.steps, seed)
        say(f"student {seed} distilled")
        few = clips(LABELLED + seed, args.labelled)
        for (arm, (preset, rate)), pairs in scores.items():
            source = folder if arm == "distilled" else None
            model = apply_preset(classifier(seed, source, **STUDENT), preset)
            fine_tune(model, few, args.output / "fine-tuned", args.finetune_steps, rate, seed)
            pairs.append((accuracy(model, validation), accuracy(model, test)))
        say(f"students {seed} fine-tuned; validation, %: " + describe_validation(scores))
    print_table(scores, teacher_accuracy, args)


def clips(seed: int, number: int) -> MotionClipDataset:
    """Generated clips of `FRAMES`; half of them, and of every 16 that of each direction of motion, is striped."""
    index = np.arange(number)
    labels = (index + index // 8) % 2  # a clip's direction is its index modulo 8
    drawn = [replace(draw_motion_clip(seed, i), pattern=PATTERNS[label]) for i, label in enumerate(labels)]
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


def classifier(seed: int, source: Path | None = None, **sizes: int) -> InternVideo2ForVideoClassification:
    """A classifier of the sizes, with the encoder of a saved student or random weights."""
    torch.manual_seed(seed)
    names = dict(enumerate(PATTERNS))
    if source is not None:
        return InternVideo2ForVideoClassification.from_pretrained(source, id2label=names)
    return InternVideo2ForVideoClassification(config(**sizes, id2label=names))


def fine_tune(
    model: torch.nn.Module, data: MotionClipDataset, folder: Path, num_steps: int, learning_rate: float, seed: int
) -> None:
    args = UMTFineTuningArguments(
        output_dir=folder,
        max_steps=num_steps,
        warmup_steps=num_steps // 10,
        per_device_train_batch_size=BATCH,
        base_learning_rate=learning_rate * 256 / BATCH,
        layer_decay=1.0,
        views_per_video=1,
        mixup_alpha=0.0,
        cutmix_alpha=0.0,
        seed=seed,
        **QUIET,
    )
    UMTFineTuningTrainer(model, args, train_dataset=data).train()


def distil(encoder: InternVideo2Model, data: MotionClipDataset, folder: Path, num_steps: int, seed: int) -> None:
    """Distil a student from `encoder` on clips without their labels, and save it."""
    torch.manual_seed(seed)
    targets = {"target_dim": encoder.config.hidden_size, "final_target_dim": encoder.config.pooled_size}
    student = InternVideo2ForPreTraining(config(**STUDENT, **targets))
    args = UMTDistillationArguments(
        output_dir=folder,
        max_steps=num_steps,
        warmup_steps=num_steps // 10,
        per_device_train_batch_size=BATCH,
        base_learning_rate=1e-3 * 256 / BATCH,
        base_min_learning_rate=0.0,
        mask_ratio=0.5,
        seed=seed,
        **QUIET,
    )
    unlabelled = MotionClipDataset(data.frames, None, roll_and_jitter, seed=seed)
    trainer = UMTDistillationTrainer(student, VideoTeacher(encoder, student.config), args, train_dataset=unlabelled)
    trainer.train()
    student.save_pretrained(folder)


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


def describe_validation(scores: dict[tuple, list]) -> str:
    """The last validation accuracy of each kind of student with each candidate."""
    values = {arm: [f"{scores[arm, candidate][-1][0]:.1f}" for candidate in CANDIDATES] for arm in ARMS}
    return "; ".join(f"{arm} {' / '.join(each)}" for arm, each in values.items())


def print_table(scores: dict[tuple, list], teacher_accuracy: float, args: argparse.Namespace) -> None:
    """Test accuracy of each kind of student with the candidate of the best mean validation accuracy."""
    print(f"\n| student, {args.labelled} labels | top-1, % | 95 % interval | each seed | trained, learning rate |")
    print("|---|---|---|---|---|")
    tested = {}
    for arm in ARMS:
        best = max(CANDIDATES, key=lambda candidate: mean(validation for validation, _ in scores[arm, candidate]))
        preset, rate = best
        tested[arm] = values = [test for _, test in scores[arm, best]]
        each = " / ".join(f"{value:.1f}" for value in values)
        print(f"| {arm} | {mean(values):.1f} | {interval(values)} | {each} | {preset}, {rate:g} |")
    gains = [first - second for first, second in zip(*tested.values(), strict=True)]
    gain = f"{mean(gains):.1f} points, 95 % interval {interval(gains, lowest=-100.0)}"
    print(f"\ngain from the teacher: {gain}, of pairs of a seed")
    print(f"teacher: {teacher_accuracy:.1f} %; chance: {100 / len(PATTERNS):.1f} %; {TEST_CLIPS} test clips")
    print(f"{time.process_time():.0f} CPU seconds")


def interval(values: list[float], lowest: float = 0.0) -> str:
    """Student's 95 % interval of a mean, clipped to `lowest` and 100."""
    half = T_QUANTILES[len(values) - 2] * stdev(values) / len(values) ** 0.5
    return f"{max(mean(values) - half, lowest):.1f} to {min(mean(values) + half, 100):.1f}"


def say(text: str) -> None:
    print(f"{time.process_time():5.0f} CPU s  {text}", flush=True)


if __name__ == "__main__":
    main()
