"""Co-teaching at toy scale: masked modelling with a tiny image teacher, a tiny video teacher and both (MVD, arXiv
2212.04500, table 4), and UMT's alignment in the same CPU time.

    python -m benchmarks.co_teaching [--processes N] [--folder FOLDER] [--seeds 3] [--output FOLDER]

Clips and networks are those of `umt demo`: the class of a clip is the direction of its object, which no single frame
shows. The image teacher is a CLIP of the demo's size, which encodes frames; the video teacher is a student that was
aligned with it, which encodes clips. Every variant gets the CPU time of the alignment, without that of training the
teachers, which is reported. A seed determines masks, initial weights, order of the clips, labelled clips and head.
With `--folder` an interrupted experiment resumes. Intervals are Student's 95 % intervals over seeds.

Two measures of a student: how well its features predict the object's position in a frame (`position_probe`), and top-1
accuracy after fine-tuning.

Masks, decoder, batch and position table were chosen in pilots of one seed with another image teacher, by the probe on
training and validation clips. With UMT's flat position table students did not encode the position at all: R2 0.00
after 400 steps of 64 clips with random masks 0.75 (video teacher) or tube masks 0.5 (both teachers), and after 300
steps with motion masks (image teacher). With the table of MVD, which codes frame, row and column separately
(`position_type="space_time"`), random masks 0.5, a decoder of the encoder's width and 32 clips per step, R2 rose from
0.04 after 100 steps to 0.10 after 300 and 0.14 after 400 (image teacher); with a decoder of half the width and twice
the learning rate it was 0.03 after 300, with 16 clips per step 0.11 after 700. The changes were not tried one by one.
All networks have this table here, also those of the alignment. Learning rate and layer decay of fine-tuning are those
of the demo for all variants.

Unusual: teachers trained by masked modelling, as those of MVD are, stay at chance in minutes (`demo_ablations
target`), hence a CLIP and an aligned student.
"""

import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from modeling_umt import UMTModel, UMTTeacherModel
from umt_training.demo.arms import DROP_PATH, LAYER_DECAY, POOLING
from umt_training.demo.motion_clips import (
    DIRECTIONS,
    NUM_FRAMES,
    SIZE,
    MotionClipDataset,
    render_motion_clips,
    roll_and_jitter,
)
from umt_training.demo.tiny_runs import (
    NO_MIXING,
    classifier,
    finetuning_trainer,
    labelled_motion_clips,
    loss_curve,
    pretraining_trainer,
    student_config,
)
from umt_training.trainers.base_trainer import UMTTrainer
from umt_training.trainers.masked_modeling import UMTMaskedModelingTrainer

from .demo_variants import interval, masked_trainer, seconds_per_step
from .experiment import in_worker, remembered, run_experiment
from .finetuning_presets import LABELLED, TEST, UNLABELLED, train_motion_teacher
from .position_probe import position_r2
from .tokens_kept import train_and_time

# name of a variant → the names of its teachers; the alignment has its own trainer
ALIGNMENT = "alignment"
VARIANTS: dict[str, tuple[str, ...]] = {
    ALIGNMENT: (),
    "image": ("image",),
    "video": ("video",),
    "both": ("image", "video"),
}
POSITIONS = {"position_type": "space_time"}
MASKS = {"mask_type": "random", "mask_ratio": 0.5}
DIVISOR = 2  # of the batch and the learning rate of the alignment
DECODER = {"decoder_num_hidden_layers": 1}
LEARNING_RATE = 1e-3  # of fine-tuning
MOST_STEPS = 1000  # of the schedule while steps are measured


@dataclass(frozen=True)
class Settings:
    """Sizes of the experiment; the defaults are those of the committed table.

    Args:
        pretrain_steps: Those of the alignment, also of the video teacher.
        probe: Clips from which the probe is trained.
    """

    seeds: int = 3
    unlabelled: int = 4000
    labelled: int = 400
    probe: int = 400
    test: int = 800
    teacher_steps: int = 500
    pretrain_steps: int = 300
    finetune_steps: int = 200


# --- students --------------------------------------------------------------------------------------------------------


class FrameTeacher(nn.Module):
    """A [`UMTTeacherModel`] as an image teacher: the features of its last layer, for every patch of every frame."""

    def __init__(self, teacher: UMTTeacherModel):
        super().__init__()
        self.teacher, config = teacher, teacher.config
        self.config = SimpleNamespace(
            hidden_size=config.projection_dim,
            patch_size=config.patch_size,
            image_height_width=(config.image_size, config.image_size),
        )

    def forward(self, clips: torch.Tensor) -> SimpleNamespace:
        """`last_hidden_state` (B, tokens, F) of clips (B, T, C, H, W)."""
        return SimpleNamespace(last_hidden_state=self.teacher(clips).features[:, -1])


def student_trainer(
    variant: str, settings: Settings, folder: Path, output_dir: Path, num_steps: int = MOST_STEPS, seed: int = 0
) -> UMTTrainer:
    """The trainer of a student without labels.

    Args:
        variant: A key of `VARIANTS`.
        folder: Contains the teachers.
    """
    frames, _ = render_motion_clips(UNLABELLED, settings.unlabelled)
    dataset = MotionClipDataset(frames, transform=roll_and_jitter, seed=seed)
    if variant == ALIGNMENT:
        teacher = image_teacher(folder)
        config = student_config(SIZE, NUM_FRAMES, teacher.config.projection_dim, **POSITIONS)
        return pretraining_trainer(teacher, dataset, config, output_dir, num_steps, num_masks=1, seed=seed)
    return co_teaching_trainer(VARIANTS[variant], dataset, folder, output_dir, num_steps, seed)


def co_teaching_trainer(
    names: Sequence[str], dataset: MotionClipDataset, folder: Path, output_dir: Path, num_steps: int, seed: int
) -> UMTMaskedModelingTrainer:
    """The trainer of a student with the teachers of these names: of frames, and an encoder of clips that teaches with
    its raw tokens."""
    teachers: dict[str, nn.Module] = {}
    if "image" in names:
        teachers["image"] = FrameTeacher(image_teacher(folder))
    if "video" in names:
        teachers["video"] = UMTModel.from_pretrained(
            folder / "video-teacher", final_norm="none", attn_implementation="eager"
        )
    targets = {name: teacher.config.hidden_size for name, teacher in teachers.items()}
    config = student_config(
        SIZE, NUM_FRAMES, 1, masked_targets=targets, normalize_targets=True, **DECODER, **POSITIONS
    )
    return masked_trainer(config, teachers, dataset, output_dir, num_steps, seed=seed, divisor=DIVISOR, **MASKS)


def image_teacher(folder: Path) -> UMTTeacherModel:
    return UMTTeacherModel.from_pretrained(folder / "teacher", attn_implementation="eager")


def train_video_teacher(settings: Settings, folder: Path) -> float:
    """Align an encoder with the image teacher and save it in `folder / "video-teacher"`; returns the last loss."""
    # a seed that no student has
    trainer = student_trainer(
        ALIGNMENT, settings, folder, folder / "video-teacher", settings.pretrain_steps, settings.seeds
    )
    trainer.train()
    trainer.save_model()
    return loss_curve(trainer)["loss"]


def video_teacher_r2(settings: Settings, folder: Path) -> float:
    return student_r2(UMTModel.from_pretrained(folder / "video-teacher", attn_implementation="eager"), settings)


def student_r2(encoder: UMTModel, settings: Settings) -> float:
    return position_r2(encoder, (UNLABELLED, settings.probe), (TEST, settings.test))


def steps_in_equal_time(settings: Settings, folder: Path) -> dict[str, int]:
    """Steps of every variant in the CPU time of the alignment's `pretrain_steps`."""
    makers = [partial(student_trainer, name, settings, folder) for name in VARIANTS]
    seconds = dict(zip(VARIANTS, seconds_per_step(makers, lambda done, number: None), strict=True))
    return {name: max(1, round(settings.pretrain_steps * seconds[ALIGNMENT] / seconds[name])) for name in VARIANTS}


# --- the runs --------------------------------------------------------------------------------------------------------


def run_cell(cell: tuple[str, int], steps: dict[str, int], settings: Settings, folder: Path) -> dict[str, Any]:
    """Train, probe and fine-tune a student, a variant and a seed, unless its result is in the folder.

    Returns:
        Last loss, CPU seconds of pre-training, `position_r2` on test clips, and top-1 accuracy in percent.
    """
    variant, seed = cell
    folder_of_cell = folder / "cells" / f"{variant}-{seed}"

    def compute() -> dict[str, Any]:
        started = time.process_time()
        trainer = student_trainer(variant, settings, folder, folder_of_cell, steps[variant], seed)
        trainer.train()
        seconds = time.process_time() - started
        trainer.save_model()
        row = {"variant": variant, "seed": seed, "steps": steps[variant], "cpu_seconds": round(seconds, 1)}
        row["loss"] = loss_curve(trainer)["loss"]
        row["position_r2"] = student_r2(trainer.model.base_model, settings)
        return row | finetune(folder_of_cell, settings, seed)

    return remembered(folder_of_cell.with_suffix(".json"), compute)


def finetune(student: Path, settings: Settings, seed: int) -> dict[str, float]:
    """Fine-tune a student; returns its last loss, and top-1 accuracy on test clips in percent."""
    trainer = finetuning_trainer(
        classifier(student, DIRECTIONS, seed, pooling=POOLING, drop_path_rate=DROP_PATH),
        labelled_motion_clips(*render_motion_clips(LABELLED + seed, settings.labelled), seed),
        student / "finetuned",
        settings.finetune_steps,
        LEARNING_RATE,
        regularisation=NO_MIXING | {"layer_decay": LAYER_DECAY},
        seed=seed,
    )
    trainer.train()
    test = MotionClipDataset(*render_motion_clips(TEST, settings.test))
    return {"finetuning_loss": loss_curve(trainer)["loss"], "test": trainer.evaluate(test)["eval_top1"]}


def measure(settings: Settings, folder: Path, processes: int) -> dict[str, Any]:
    """The complete experiment: results of the teachers, steps, and a row for each variant and seed."""
    results: dict[str, Any] = {"settings": asdict(settings) | MASKS}
    cells = [(variant, seed) for seed in range(settings.seeds) for variant in VARIANTS]
    rows = []
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), in_worker) as pool:

        def in_pool(name: str, task: Callable[..., Any]) -> Any:
            """The result of a task that runs alone."""
            return remembered(folder / f"{name}.json", lambda: next(iter(pool.map(task, [settings], [folder]))))

        results["image_teacher"] = in_pool("image-teacher", partial(train_and_time, train_motion_teacher))
        results["video_teacher"] = in_pool("video-teacher", partial(train_and_time, train_video_teacher))
        results["video_teacher_r2"] = in_pool("video-teacher-r2", video_teacher_r2)
        steps = in_pool("steps", steps_in_equal_time)
        print({key: value for key, value in results.items() if "teacher" in key}, steps, flush=True)
        for row in pool.map(partial(run_cell, steps=steps, settings=settings, folder=folder), cells):
            print(row, flush=True)
            rows.append(row)
    return results | {"runs": rows}


# --- the page --------------------------------------------------------------------------------------------------------


def as_markdown(results: dict[str, Any]) -> str:
    settings, machine = results["settings"], results["environment"]
    image, video = results["image_teacher"], results["video_teacher"]
    lines = [
        "# Co-teaching: UMT's alignment, an image teacher, a video teacher, and both, in equal CPU time",
        "",
        f"`{results['command']}`, {results['date']}; " + ", ".join(f"{key} {value}" for key, value in machine.items()),
        "",
        "| variant | R2 of the position | 95 % interval | each seed | top-1, % | 95 % interval | each seed "
        "| last loss | steps | CPU seconds |",
        "|---" * 10 + "|",
    ]
    for name in VARIANTS:
        runs = [row for row in results["runs"] if row["variant"] == name]
        r2, top1 = ([row[key] for row in runs] for key in ("position_r2", "test"))
        cells = [name]
        for values, digits, bounds in ((r2, 3, (-float("inf"), 1.0)), (top1, 1, (0.0, 100.0))):
            low, high = interval(values, *bounds)
            cells.append(f"{statistics.mean(values):.{digits}f}")
            cells.append(f"{low:.{digits}f} to {high:.{digits}f}" if len(values) > 1 else "")
            cells.append(" / ".join(f"{value:.{digits}f}" for value in values))
        cells.append(f"{statistics.mean(row['loss'] for row in runs):.3f}")
        cells.append(f"{runs[0]['steps']}")
        cells.append(f"{statistics.mean(row['cpu_seconds'] for row in runs):.0f}")
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        f"R2: of a linear probe for the object's position in each frame, trained on the frames of {settings['probe']} "
        f"clips, on {settings['test']} test clips; 0 is the prediction of the mean. From the features of the video "
        f"teacher the probe reaches {results['video_teacher_r2']:.3f}. Top-1 accuracy on the test clips after "
        f"{settings['finetune_steps']} steps of fine-tuning on {settings['labelled']} labelled clips; chance level "
        f"{100 / len(DIRECTIONS):.1f}. Losses of different variants are not comparable.",
        "",
        f"Masks of the masked modelling: {settings['mask_type']}, {settings['mask_ratio']}; of the alignment: by "
        f"attention, 0.8. Training the image teacher took {image['cpu_seconds']:.0f} CPU seconds, the video teacher "
        f"{video['cpu_seconds']:.0f} more; neither is counted above.",
    ]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> None:
    run_experiment("co_teaching", __doc__.splitlines()[0], Settings, measure, as_markdown, arguments)


if __name__ == "__main__":
    main()
