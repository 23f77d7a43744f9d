"""Co-teaching at toy scale: masked modelling with a tiny image teacher, a tiny video teacher and both (MVD, arXiv
2212.04500, table 4), and UMT's alignment in the same CPU time.

    python -m benchmarks.co_teaching [--seeds 3] [--output FOLDER]

Clips, networks and fine-tuning are those of `umt demo` (`demo_variants`): the class of a clip is the direction of its
object, which no single frame shows. The image teacher is the demo's CLIP, which encodes frames; the video teacher is a
student that was aligned with it, which encodes clips. Every variant gets the CPU time of the alignment, without that
of training the teachers, which is reported.

Unusual: teachers trained by masked modelling, as those of MVD are, stay at chance in minutes (`demo_ablations
target`), hence a CLIP and an aligned student.
"""

import argparse
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from modeling_umt import UMTModel, UMTTeacherModel
from umt_training.demo.arms import LAYER_DECAY, load_demo_teacher, pretrain
from umt_training.demo.data import DemoClips, demo_processor
from umt_training.demo.demo import DemoSettings, prepare_clips, train_teacher_step
from umt_training.demo.motion_clips import NUM_FRAMES
from umt_training.demo.tiny_runs import OnStep, loss_curve, pretraining_trainer, student_config
from umt_training.demo.worker_pool import WorkerPool
from umt_training.trainers.masked_modeling import UMTMaskedModelingTrainer

from .demo_variants import (
    Variant,
    describe_evaluation,
    masked_trainer,
    run_variants,
    seconds_per_step,
    start,
    variants_table,
)
from .harness import environment, write

# name of a variant → the names of its teachers; the alignment has its own trainer
ALIGNMENT = "alignment"
VARIANTS: dict[str, tuple[str, ...]] = {
    ALIGNMENT: (),
    "image": ("image",),
    "video": ("video",),
    "both": ("image", "video"),
}
TITLE = "Co-teaching: UMT's alignment, an image teacher, a video teacher, and both, in equal CPU time"
# tube masks of 0.9, as published, leave two places of a frame's sixteen
MASKS = {"mask_type": "random", "mask_ratio": 0.75}
PRETRAIN_STEPS = 600  # of the alignment
MOST_STEPS = 1000  # of the schedule while steps are measured
DECODER = {"decoder_num_hidden_layers": 1, "decoder_hidden_size": 64, "decoder_num_attention_heads": 2}


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


def co_teaching_trainer(
    names: tuple[str, ...],
    frame_teacher: str,
    video_teacher: Path,
    clips: DemoClips,
    output_dir: Path,
    num_steps: int,
    *,
    seed: int = 0,
    on_step: OnStep | None = None,
) -> UMTMaskedModelingTrainer:
    """The trainer of a student with the teachers of these names: of frames, and an encoder of clips that teaches with
    its raw tokens."""
    teachers: dict[str, nn.Module] = {}
    if "image" in names:
        teachers["image"] = FrameTeacher(load_demo_teacher(frame_teacher))
    if "video" in names:
        teachers["video"] = UMTModel.from_pretrained(video_teacher, final_norm="none", attn_implementation="eager")
    targets = {name: teacher.config.hidden_size for name, teacher in teachers.items()}
    config = student_config(clips.side, NUM_FRAMES, 1, masked_targets=targets, normalize_targets=True, **DECODER)
    dataset = clips.for_pretraining(seed)
    return masked_trainer(config, teachers, dataset, output_dir, num_steps, seed=seed, on_step=on_step, **MASKS)


def co_teach(
    clips: DemoClips,
    frame_teacher: str,
    video_teacher: Path,
    names: tuple[str, ...],
    num_steps: int,
    folder: Path,
    options: dict[str, Any],
    on_step: Callable[..., None],
) -> dict[str, Any]:
    """Masked modelling in place of `arms.pretrain`; the student is saved in `folder`.

    Args:
        names: Names of the teachers.
        options: `seed` of `co_teaching_trainer`.
    """
    trainer = co_teaching_trainer(
        names, frame_teacher, video_teacher, clips, folder, num_steps, on_step=on_step, **options
    )
    trainer.train()
    trainer.save_model()
    demo_processor(clips.side).save_pretrained(folder)
    return loss_curve(trainer)


def steps_of_variants(
    settings: DemoSettings, clips: DemoClips, frame_teacher: str, video_teacher: Path, pool: WorkerPool
) -> dict[str, int]:
    """Steps of every variant in the CPU time of the alignment's `pretrain_steps`."""
    seconds = pool.submit("seconds per step", measure_steps, clips, frame_teacher, video_teacher).result().value
    steps = {name: max(1, round(settings.pretrain_steps * seconds[ALIGNMENT] / seconds[name])) for name in VARIANTS}
    measured = ", ".join(f"{name} {seconds[name]:.3f} ({steps[name]} steps)" for name in VARIANTS)
    pool.say(f"CPU seconds per step: {measured}")
    return steps


def measure_steps(
    clips: DemoClips, frame_teacher: str, video_teacher: Path, on_step: Callable[..., None]
) -> dict[str, float]:
    """CPU seconds per step of every variant, at the start of runs; a task of a worker."""

    def alignment_trainer(folder: Path):
        teacher = load_demo_teacher(frame_teacher)
        config = student_config(clips.side, NUM_FRAMES, teacher.config.projection_dim)
        return pretraining_trainer(teacher, clips.for_pretraining(0), config, folder, MOST_STEPS, num_masks=1)

    makers = [
        partial(co_teaching_trainer, names, frame_teacher, video_teacher, clips, num_steps=MOST_STEPS)
        if names
        else alignment_trainer
        for names in VARIANTS.values()
    ]
    return dict(zip(VARIANTS, seconds_per_step(makers, on_step), strict=True))


def run(settings: DemoSettings, folder: Path) -> dict[str, Any]:
    """Run all variants in a new folder, print the table, and return the content of `results.json`.

    Args:
        settings: `seeds` is the number of seeds of each variant; `pretrain_steps` are those of the alignment.

    Raises:
        ValueError: for less than one or more than ten seeds, or a folder that is not empty.
    """
    start(settings, folder)
    with WorkerPool(folder / "logs") as pool:
        clips = prepare_clips(settings, folder, pool)
        frame_teacher, costs = train_teacher_step(settings, folder, pool)
        video_teacher = folder / "video-teacher"
        options = {"seed": settings.seeds, "num_masks": 1}  # a seed that no student has
        done = pool.submit(
            "video teacher", pretrain, clips, frame_teacher, settings.pretrain_steps, video_teacher, options
        ).result()
        costs["video_teacher"] = {"loss": done.value["loss"], "cpu_seconds": done.cpu_seconds}
        steps = steps_of_variants(settings, clips, frame_teacher, video_teacher, pool)
        variants = {
            name: Variant(partial(co_teach, clips, frame_teacher, video_teacher, names), steps[name])
            if names
            else Variant(partial(pretrain, clips, frame_teacher), steps[name], {"num_masks": 1})
            for name, names in VARIANTS.items()
        }
        # the default decay was chosen for the alignment's layers
        rows = run_variants(variants, (LAYER_DECAY, 1.0), settings, clips, folder, pool)
        seconds = pool.elapsed()
    clips.frames_file.unlink()
    results = {
        "environment": environment(torch.device("cpu")),
        "settings": asdict(settings) | MASKS,
        "seconds": round(seconds),
        "costs": costs,
        "runs": rows,
    }
    write(folder, "results", results, as_markdown(results, clips))
    return results


def as_markdown(results: dict[str, Any], clips: DemoClips) -> str:
    """The table of the results, and how they were measured."""
    settings, costs = results["settings"], results["costs"]
    lines = variants_table(TITLE, results, list(VARIANTS))
    lines += [
        "",
        describe_evaluation(settings, clips),
        "",
        f"Masks of the masked modelling: {settings['mask_type']}, {settings['mask_ratio']}; of the alignment: by "
        f"attention, 0.8. Training the image teacher took {costs['teacher']['cpu_seconds']:.0f} CPU seconds, the "
        f"video teacher {costs['video_teacher']['cpu_seconds']:.0f} more; neither is counted above.",
    ]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("co-teaching"), help="folder of the run, new or empty")
    options = parser.parse_args(arguments)
    run(DemoSettings(seeds=options.seeds, long_seeds=0, pretrain_steps=PRETRAIN_STEPS), options.output)


if __name__ == "__main__":
    main()
