"""`umt demo --ablate`: stage 1 over again with one thing changed, over seeds, into one table with intervals.

Findings of the paper (arXiv 2303.16058, its ablations) in small, whatever they turn out to be.

A seed stands for everything random after the teacher: masks, the student's first weights, the order of the clips, the
labelled clips, the head. All variants get equally many student views, but for pixel reconstruction: it gets the time
that the alignment takes, the training of the demo's own teacher included. Each takes the learning rate of fine-tuning
(against pixels, also the layer-wise decay of that rate) that did best on validation clips with the first seed; test
clips choose nothing.

Intervals are Student's, of 95 %, over seeds, and wide: there are few of them.
"""

import itertools
import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import TrainerCallback

from ..atomic_files import atomic_write
from ..pictures.run_page import Section, Table, Text, write_page
from .arms import LAYER_DECAY, ArmRun, finetune, load_demo_teacher, pretrain
from .data import DemoClips, demo_processor
from .demo import DemoSettings, check_start, machine, prepare_clips, train_teacher_step
from .motion_clips import NUM_FRAMES
from .pixel_reconstruction import pixel_trainer
from .report import HEAD, as_text_table, describe_teacher, minutes
from .tiny_runs import pretraining_trainer, student_config
from .worker_pool import WorkerPool

PIXELS = "pixels"
# what is changed → name of a variant → options of `pretraining_trainer`; `PIXELS` has a trainer of its own
ABLATIONS: dict[str, dict[str, dict[str, Any]]] = {
    "masking": {
        "attention": {"mask_type": "attention"},
        "random": {"mask_type": "random"},
        "tube": {"mask_type": "tube"},
    },
    "masks": {
        "1 mask": {"num_masks": 1},
        "2 masks": {"num_masks": 2},
        "4 masks": {"num_masks": 4},
    },
    "target": {
        "alignment": {},
        PIXELS: {},
    },
}
TITLES = {
    "masking": "How visible tokens are chosen",
    "masks": "Masks for one pass of the teacher, at equal student views",
    "target": "The teacher's features of visible tokens, or pixels of hidden ones, at equal time",
}
ABLATION_STEPS = 1000  # of stage 1, where the demo takes fewer
MEASURED_STEPS = 30  # the later half counts
# 97.5 % quantiles of Student's t by degrees of freedom
T_QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


def run_ablation(what: str, settings: DemoSettings, folder: Path) -> dict[str, Any]:
    """An ablation into a new folder; prints the table and returns what `results.json` holds.

    Args:
        what: A key of `ABLATIONS`.
        settings: `seeds` is the number of seeds of each variant.

    Raises:
        ValueError: for another `what`, more than ten seeds, or a folder that holds something.
    """
    if what not in ABLATIONS:
        raise ValueError(f"There is no ablation {what!r}; choose one of {', '.join(ABLATIONS)}.")
    if settings.seeds > len(T_QUANTILES) + 1:
        raise ValueError(f"{settings.seeds} seeds were asked for; at most {len(T_QUANTILES) + 1} are supported.")
    check_start(settings, folder)
    print(f"Everything is written to {folder}.\n{describe_teacher(settings)}\n{HEAD}\n", flush=True)
    with WorkerPool(folder / "logs") as pool:
        clips = prepare_clips(settings, folder, pool)
        teacher, costs = train_teacher_step(settings, folder, pool)
        steps = dict.fromkeys(ABLATIONS[what], settings.pretrain_steps)
        if PIXELS in steps:
            teacher_seconds = costs["teacher"]["cpu_seconds"] if costs else 0.0
            steps[PIXELS] = pixel_steps(teacher, teacher_seconds, settings, clips, pool)
        rows = run_variants(ABLATIONS[what], steps, teacher, settings, clips, folder, pool)
        seconds = pool.elapsed()
    clips.frames_file.unlink()
    results = {
        "ablation": what,
        "settings": asdict(settings),
        "machine": machine(),
        "seconds": round(seconds),
        "runs": rows,
    }
    with atomic_write(folder / "results.json") as temporary:
        temporary.write_text(json.dumps(results, indent=1, default=str) + "\n", encoding="utf-8")
    header, table = ablation_table(what, rows)
    caption = describe(what, settings, clips)
    page = write_page(
        folder / "index.html",
        f"umt demo --ablate {what}",
        [Section(TITLES[what], [Table(header, table, caption), Text(HEAD), Text(describe_teacher(settings))])],
    )
    print(f"\n{as_text_table(header, table)}\n\n{caption}\nIt took {minutes(seconds)}. The page is {page}.")
    return results


def run_variants(
    variants: dict[str, dict[str, Any]],
    steps: dict[str, int],
    teacher: str,
    settings: DemoSettings,
    clips: DemoClips,
    folder: Path,
    pool: WorkerPool,
) -> list[dict[str, Any]]:
    """Stage 1 of every variant and seed, then fine-tuning from it; the rows of the chosen rates.

    Args:
        variants: Name → options.
        steps: Name → steps of stage 1.
    """
    students = {
        (name, seed): pool.submit(
            f"{name}, stage 1, seed {seed}",
            partial(reconstruct, clips) if name == PIXELS else partial(pretrain, clips, teacher),
            steps[name],
            folder / f"student-{name.replace(' ', '-')}-{seed}",
            options | {"seed": seed},
        )
        for seed in range(settings.seeds)
        for name, options in variants.items()
    }
    # layers that have learnt to see pixels may be held back by the decay that was chosen for aligned ones
    decays = (LAYER_DECAY, 1.0) if PIXELS in variants else (LAYER_DECAY,)
    chosen: dict[str, tuple[float, float]] = {}
    rows = []
    for (name, seed), student in students.items():
        stage1 = student.result()
        start = folder / f"student-{name.replace(' ', '-')}-{seed}"
        choices = [chosen[name]] if name in chosen else list(itertools.product(settings.rates, decays))
        tried = [
            pool.submit(
                f"{name}, rate {rate:g}, layer decay {decay:g}, seed {seed}",
                finetune,
                ArmRun(name, start, settings.finetune_steps, rate, seed, decay),
                clips,
                folder / "runs" / f"{start.name}-rate-{rate:g}-decay-{decay:g}",
            )
            for rate, decay in choices
        ]
        results = [run.result().value | {"layer_decay": decay} for run, (_, decay) in zip(tried, choices, strict=True)]
        best = max(results, key=lambda row: row["validation"])
        chosen.setdefault(name, (best["rate"], best["layer_decay"]))
        cost = {
            "stage1_steps": steps[name],
            "stage1_loss": stage1.value["loss"],
            "stage1_cpu_seconds": round(stage1.cpu_seconds, 1),
        }
        rows.append({key: value for key, value in best.items() if key != "curve"} | cost)
        pool.say(f"{name}, seed {seed}: stage-1 loss {stage1.value['loss']:.3f}, {best['test']:.1f} % of test clips")
    return rows


# --- pixel reconstruction at equal time ------------------------------------------------------------------------------


def pixel_steps(
    teacher: str, teacher_seconds: float, settings: DemoSettings, clips: DemoClips, pool: WorkerPool
) -> int:
    """Steps of pixel reconstruction in the CPU time of the alignment and `teacher_seconds`, the same for all seeds."""
    alignment, pixels = (
        pool.submit("seconds a step", measure_steps, clips, teacher, settings.pretrain_steps).result().value
    )
    num_steps = max(1, round((settings.pretrain_steps * alignment + teacher_seconds) / pixels))
    pool.say(
        f"CPU seconds a step: alignment {alignment:.3f}, pixels {pixels:.3f}. Pixels get {num_steps} steps, the "
        f"time of {settings.pretrain_steps} steps of alignment and {teacher_seconds:.0f} s of the teacher's training"
    )
    return num_steps


def measure_steps(clips: DemoClips, teacher: str, num_steps: int, on_step: Callable[..., None]) -> tuple[float, float]:
    """CPU seconds a step of alignment and of pixel reconstruction, at the start of runs of `num_steps`; a task."""
    dataset, model = clips.for_pretraining(0), load_demo_teacher(teacher)
    config = student_config(clips.side, NUM_FRAMES, model.config.projection_dim)
    seconds = []
    for done, make_trainer in enumerate((partial(pretraining_trainer, model), pixel_trainer), 1):
        watch = StopWatch()
        with TemporaryDirectory() as folder:
            trainer = make_trainer(dataset, config, Path(folder), num_steps)
            trainer.add_callback(watch)
            trainer.train()
        steps = [later - earlier for earlier, later in itertools.pairwise(watch.times)]
        seconds.append(statistics.median(steps[len(steps) // 2 :]))
        on_step(done, 2)
    return seconds[0], seconds[1]


class StopWatch(TrainerCallback):
    """The process's CPU time at the start and after each step; ends the run after `MEASURED_STEPS`."""

    def __init__(self):
        self.times: list[float] = []

    def on_train_begin(self, args, state, control, **kwargs):
        self.times.append(time.process_time())

    def on_step_end(self, args, state, control, **kwargs):
        self.times.append(time.process_time())
        control.should_training_stop |= state.global_step >= MEASURED_STEPS


def reconstruct(
    clips: DemoClips, num_steps: int, folder: Path, options: dict[str, Any], on_step: Callable[..., None]
) -> dict[str, Any]:
    """Pixel reconstruction in place of `pretrain`; the encoder alone ends in `folder`.

    Args:
        options: `seed` of `pixel_trainer`.
    """
    dataset, config = clips.for_pretraining(options["seed"]), student_config(clips.side, NUM_FRAMES, 1)
    trainer = pixel_trainer(dataset, config, folder, num_steps, on_step=on_step, **options)
    trainer.train()
    trainer.model.umt.save_pretrained(folder)
    demo_processor(clips.side).save_pretrained(folder)
    curve = [(line["step"], line["loss"]) for line in trainer.state.log_history if "loss" in line]
    return {"curve": curve, "loss": curve[-1][1]}


# --- the table -------------------------------------------------------------------------------------------------------


def ablation_table(what: str, rows: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Header and a row for each variant: mean top-1 with its interval, and what went before."""
    header = ["", "top-1, %", "95 % interval", "each seed", "stage-1 loss", "steps", "CPU s", "rate", "layer decay"]
    table = []
    for name in ABLATIONS[what]:
        runs = [row for row in rows if row["arm"] == name]
        tests = [row["test"] for row in runs]
        low, high = interval(tests)
        table.append(
            [
                name,
                f"{statistics.mean(tests):.1f}",
                f"{low:.1f} to {high:.1f}" if len(tests) > 1 else "",
                " / ".join(f"{test:.1f}" for test in tests),
                f"{statistics.mean(row['stage1_loss'] for row in runs):.3f}",
                f"{runs[0]['stage1_steps']}",
                f"{statistics.mean(row['stage1_cpu_seconds'] for row in runs):.0f}",
                f"{runs[0]['rate']:g}",
                f"{runs[0]['layer_decay']:g}",
            ]
        )
    return header, table


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Student's 95 % interval of the mean of percentages, within 0 and 100."""
    mean = statistics.mean(values)
    if len(values) < 2:
        return mean, mean
    half = T_QUANTILES[len(values) - 2] * statistics.stdev(values) / math.sqrt(len(values))
    return max(0.0, mean - half), min(100.0, mean + half)


def describe(what: str, settings: DemoSettings, clips: DemoClips) -> str:
    """What the table's figures are."""
    text = (
        f"Top-1 on {len(clips.splits['test'])} test clips, chance {100 / len(clips.class_names):.1f}; "
        f"{settings.seeds} seeds of everything but clips without labels and teacher. Steps and CPU seconds are of "
        f"stage 1; {settings.finetune_steps} steps of fine-tuning on {len(clips.splits['labelled-0'])} labelled "
        "clips follow. Rate and layer decay are of fine-tuning; where several were tried, validation clips chose with "
        "the first seed."
    )
    if what == "target":
        teacher = (
            "the training of the teacher" if settings.teacher is None else "nothing for the teacher, which was given"
        )
        text += (
            " Pixels of hidden patches, normalised in each, are reconstructed under tube masks of 0.8 without a "
            f"teacher, for the CPU time that the alignment's steps were measured to take, plus {teacher}. The two "
            "losses are different measures. Stage 1's batch, rate and schedule were chosen for the alignment."
        )
    return text
