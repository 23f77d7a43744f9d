"""Co-teaching at toy scale: masked modelling with a tiny image teacher, a tiny video teacher and both (MVD, arXiv
2212.04500, table 4), and UMT's alignment in the same CPU time.

    python -m benchmarks.co_teaching [--seeds 3] [--output FOLDER]

Clips, networks and fine-tuning are those of `umt demo`: the class of a clip is the direction of its object, which no
single frame shows. The image teacher is the demo's CLIP, which encodes frames; the video teacher is a student that was
aligned with it, which encodes clips. Both are shared; a seed determines everything else: masks, initial weights, order
of the clips, labelled clips, head. Every variant gets the CPU time of the alignment, without that of training the
teachers, which is reported. Each variant uses the learning rate and the layer-wise decay of fine-tuning that are best
on validation clips with the first seed; test clips are used for the final evaluation only.

Unusual: teachers trained by masked modelling, as those of MVD are, stay at chance in minutes (`demo_ablations
target`), hence a CLIP and an aligned student.
"""

import argparse
import itertools
import statistics
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from modeling_umt import UMTForMaskedModeling, UMTModel, UMTTeacherModel
from umt_training.demo.arms import LAYER_DECAY, ArmRun, finetune, load_demo_teacher, pretrain
from umt_training.demo.data import DemoClips, demo_processor
from umt_training.demo.demo import DemoSettings, check_start, prepare_clips, train_teacher_step
from umt_training.demo.motion_clips import NUM_FRAMES
from umt_training.demo.tiny_runs import (
    PRETRAIN_BATCH,
    QUIET,
    OnStep,
    callbacks,
    fast_bf16,
    pretraining_trainer,
    student_config,
)
from umt_training.demo.worker_pool import WorkerPool
from umt_training.trainers.masked_modeling import UMTMaskedModelingArguments, UMTMaskedModelingTrainer

from .demo_ablations import T_QUANTILES, StopWatch, interval
from .harness import environment, write

# name of a variant → the names of its teachers; the alignment has its own trainer
ALIGNMENT = "alignment (UMT)"
VARIANTS: dict[str, tuple[str, ...]] = {
    ALIGNMENT: (),
    "image teacher": ("image",),
    "video teacher": ("video",),
    "both (MVD)": ("image", "video"),
}
# tube masks of 0.9, as published, leave two places of a frame's sixteen
MASK_TYPE, MASK_RATIO = "random", 0.75
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
    teachers: dict[str, nn.Module],
    clips: DemoClips,
    output_dir: Path,
    num_steps: int,
    *,
    mask_type: str = MASK_TYPE,
    mask_ratio: float = MASK_RATIO,
    seed: int = 0,
    on_step: OnStep | None = None,
    **options: Any,
) -> UMTMaskedModelingTrainer:
    """The counterpart of `tiny_runs.pretraining_trainer` with one mask for a clip: as many views per step, with the
    same learning rate and schedule.

    Args:
        options: More arguments of the trainer.
    """
    torch.manual_seed(seed)
    targets = {name: teacher.config.hidden_size for name, teacher in teachers.items()}
    config = student_config(clips.side, NUM_FRAMES, 1, masked_targets=targets, normalize_targets=True, **DECODER)
    student = UMTForMaskedModeling(config)
    student.set_attn_implementation("eager")
    args = UMTMaskedModelingArguments(
        output_dir=output_dir,
        max_steps=num_steps,
        per_device_train_batch_size=2 * PRETRAIN_BATCH,
        mask_type=mask_type,
        mask_ratio=mask_ratio,
        base_learning_rate=2e-3 * 256 / (2 * PRETRAIN_BATCH),
        base_min_learning_rate=0.0,
        warmup_steps=max(1, num_steps // 10),
        bf16=fast_bf16(),
        seed=seed,
        **QUIET,
    )
    return UMTMaskedModelingTrainer(
        student,
        teachers,
        args,
        train_dataset=clips.for_pretraining(seed),
        callbacks=callbacks(on_step),
        processing_class=demo_processor(clips.side),
        **options,
    )


def load_teachers(names: tuple[str, ...], frame_teacher: str, video_teacher: Path) -> dict[str, nn.Module]:
    """The teachers of a variant: of frames, and an encoder of clips that teaches with its raw tokens."""
    teachers = {}
    if "image" in names:
        teachers["image"] = FrameTeacher(load_demo_teacher(frame_teacher))
    if "video" in names:
        teachers["video"] = UMTModel.from_pretrained(video_teacher, final_norm="none", attn_implementation="eager")
    return teachers


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
        options: `seed`, `mask_type` or `mask_ratio` of `co_teaching_trainer`.
    """
    teachers = load_teachers(names, frame_teacher, video_teacher)
    trainer = co_teaching_trainer(teachers, clips, folder, num_steps, on_step=on_step, **options)
    trainer.train()
    trainer.save_model()
    curve = [(line["step"], line["loss"]) for line in trainer.state.log_history if "loss" in line]
    return {"curve": curve, "loss": curve[-1][1]}


# --- equal CPU time --------------------------------------------------------------------------------------------------


def steps_of_variants(
    settings: DemoSettings, clips: DemoClips, frame_teacher: str, video_teacher: Path, pool: WorkerPool
) -> dict[str, int]:
    """Steps of every variant in the CPU time of the alignment's `pretrain_steps`."""
    done = pool.submit("seconds per step", measure_steps, clips, frame_teacher, video_teacher).result()
    seconds = done.value
    steps = {name: max(1, round(settings.pretrain_steps * seconds[ALIGNMENT] / seconds[name])) for name in VARIANTS}
    measured = ", ".join(f"{name} {seconds[name]:.3f} ({steps[name]} steps)" for name in VARIANTS)
    pool.say(f"CPU seconds per step: {measured}")
    return steps


def measure_steps(
    clips: DemoClips, frame_teacher: str, video_teacher: Path, on_step: Callable[..., None]
) -> dict[str, float]:
    """CPU seconds per step of every variant, at the start of runs; a task of a worker."""
    seconds = {}
    for done, (name, teachers) in enumerate(VARIANTS.items(), 1):
        watch = StopWatch()
        with TemporaryDirectory() as folder:
            if name == ALIGNMENT:
                teacher = load_demo_teacher(frame_teacher)
                config = student_config(clips.side, NUM_FRAMES, teacher.config.projection_dim)
                dataset = clips.for_pretraining(0)
                trainer = pretraining_trainer(teacher, dataset, config, Path(folder), MOST_STEPS, num_masks=1)
            else:
                loaded = load_teachers(teachers, frame_teacher, video_teacher)
                trainer = co_teaching_trainer(loaded, clips, Path(folder), MOST_STEPS)
            trainer.add_callback(watch)
            trainer.train()
        steps = [later - earlier for earlier, later in itertools.pairwise(watch.times)]
        seconds[name] = statistics.median(steps[len(steps) // 2 :])
        on_step(done, len(VARIANTS))
    return seconds


# --- the runs and their table ----------------------------------------------------------------------------------------


def run_variants(
    settings: DemoSettings, clips: DemoClips, frame_teacher: str, video_teacher: Path, folder: Path, pool: WorkerPool
) -> list[dict[str, Any]]:
    """Pre-training and fine-tuning of every variant and seed: a row each, at the rates chosen with the first seed."""
    steps = steps_of_variants(settings, clips, frame_teacher, video_teacher, pool)
    starts, students = {}, {}
    for seed, (name, teachers) in itertools.product(range(settings.seeds), VARIANTS.items()):
        task = partial(pretrain, clips, frame_teacher)
        options: dict[str, Any] = {"seed": seed, "num_masks": 1}
        if name != ALIGNMENT:
            task = partial(co_teach, clips, frame_teacher, video_teacher, teachers)
            options = {"seed": seed}
        starts[name, seed] = folder / f"student-{name.split()[0]}-{seed}"
        students[name, seed] = pool.submit(f"{name}, seed {seed}", task, steps[name], starts[name, seed], options)
    chosen: dict[str, tuple[float, float]] = {}
    rows = []
    for (name, seed), student in students.items():
        pretraining = student.result()
        # the default decay was chosen for the alignment's layers
        choices = [chosen[name]] if name in chosen else itertools.product(settings.rates, (LAYER_DECAY, 1.0))
        tried = []
        for rate, decay in choices:
            run = ArmRun(name, starts[name, seed], settings.finetune_steps, rate, seed, decay)
            output = folder / "runs" / f"{starts[name, seed].name}-rate-{rate:g}-decay-{decay:g}"
            title = f"{name}, learning rate {rate:g}, layer decay {decay:g}, seed {seed}"
            tried.append((decay, pool.submit(title, finetune, run, clips, output)))
        results = [run.result().value | {"layer_decay": decay} for decay, run in tried]
        best = max(results, key=lambda row: row["validation"])
        chosen.setdefault(name, (best["rate"], best["layer_decay"]))
        cost = {
            "pretraining_steps": steps[name],
            "pretraining_loss": pretraining.value["loss"],
            "pretraining_cpu_seconds": round(pretraining.cpu_seconds, 1),
        }
        rows.append({key: value for key, value in best.items() if key != "curve"} | cost)
        pool.say(f"{name}, seed {seed}: test top-1 {best['test']:.1f} %")
    return rows


def run(settings: DemoSettings, folder: Path) -> dict[str, Any]:
    """Run all variants in a new folder, print the table, and return the content of `results.json`.

    Args:
        settings: `seeds` is the number of seeds of each variant; `pretrain_steps` are those of the alignment.

    Raises:
        ValueError: for less than one or more than ten seeds, or a folder that is not empty.
    """
    if not 1 <= settings.seeds <= len(T_QUANTILES) + 1:
        raise ValueError(f"The number of seeds is {settings.seeds}; expected 1 to {len(T_QUANTILES) + 1}.")
    check_start(settings, folder)
    with WorkerPool(folder / "logs") as pool:
        clips = prepare_clips(settings, folder, pool)
        frame_teacher, costs = train_teacher_step(settings, folder, pool)
        video_teacher = folder / "video-teacher"
        options = {"seed": settings.seeds, "num_masks": 1}  # a seed that no student has
        done = pool.submit(
            "video teacher", pretrain, clips, frame_teacher, settings.pretrain_steps, video_teacher, options
        ).result()
        costs["video_teacher"] = {"loss": done.value["loss"], "cpu_seconds": done.cpu_seconds}
        rows = run_variants(settings, clips, frame_teacher, video_teacher, folder, pool)
        seconds = pool.elapsed()
    clips.frames_file.unlink()
    results = {
        "environment": environment(torch.device("cpu")),
        "settings": asdict(settings) | {"mask_type": MASK_TYPE, "mask_ratio": MASK_RATIO},
        "seconds": round(seconds),
        "costs": costs,
        "runs": rows,
    }
    write(folder, "results", results, as_markdown(results))
    return results


def as_markdown(results: dict[str, Any]) -> str:
    """The table of the results, and how they were measured."""
    header = ("variant", "top-1, %", "95 % interval", "each seed", "steps", "CPU seconds", "learning rate", "decay")
    lines = ["# Co-teaching: an image teacher, a video teacher, both, and alignment, in equal CPU time", ""]
    lines += [", ".join(f"{key} {value}" for key, value in results["environment"].items()), ""]
    lines += [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    for name in VARIANTS:
        runs = [row for row in results["runs"] if row["arm"] == name]
        tests = [row["test"] for row in runs]
        low, high = interval(tests)
        cells = (
            name,
            f"{statistics.mean(tests):.1f}",
            f"{low:.1f} to {high:.1f}" if len(tests) > 1 else "",
            " / ".join(f"{test:.1f}" for test in tests),
            f"{runs[0]['pretraining_steps']}",
            f"{statistics.mean(row['pretraining_cpu_seconds'] for row in runs):.0f}",
            f"{runs[0]['rate']:g}",
            f"{runs[0]['layer_decay']:g}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    settings, costs = results["settings"], results["costs"]
    lines += [
        "",
        f"Top-1 accuracy on {settings['test']} test clips, chance level 12.5; {settings['seeds']} seeds. Masks of the "
        f"masked modelling: {settings['mask_type']}, {settings['mask_ratio']}; of the alignment: by attention, 0.8. "
        f"Training the image teacher took {costs['teacher']['cpu_seconds']:.0f} CPU seconds, the video teacher "
        f"{costs['video_teacher']['cpu_seconds']:.0f} more; neither is counted above.",
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
