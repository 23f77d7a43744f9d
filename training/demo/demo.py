"""`umt demo`: all stages of the method at toy scale, in minutes on a CPU, and a measurement of what pre-training gains
(arXiv 2303.16058).

Clips are generated (or the user's are read), a tiny CLIP is trained on frames and captions, and a student is aligned
with it without labels. The same network is then fine-tuned on few labels in three ways: from the student, from
scratch for as many steps, and from scratch for the time of teacher, stage 1 and fine-tuning together. Learning rates
are chosen on validation clips; test clips are used for the final evaluation only.

The conclusion is computed from the results (`report.conclude`), so the demo can report that pre-training does not win.
Independent runs share the cores as processes (`worker_pool`).
"""

import itertools
import math
import os
import platform
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tqdm import tqdm
from transformers import pipeline
from transformers.utils import logging

from .arms import ArmRun, finetune, load_demo_teacher, pretrain, train_demo_teacher
from .data import (
    LABELLED,
    REAL_SIZE,
    TEST,
    UNLABELLED,
    VALIDATION,
    DemoClips,
    list_real_clips,
    make_clips,
    new_frames_file,
    plan_motion_clips,
    read_clips,
    split_real_clips,
    write_splits,
)
from .motion_clips import DIRECTIONS, NUM_FRAMES, SIZE
from .report import cpu_seconds_before, describe_start, report
from .tiny_runs import fast_bf16
from .worker_pool import WorkerPool

LONG_RATE = 5e-4  # learning rate of the long arm: the best of 5e-4, 1e-3 and 2e-3 in trials of about its length


@dataclass(frozen=True)
class DemoSettings:
    """Sizes of the demo; the defaults take minutes on two cores.

    Args:
        seeds: Fine-tuning runs of the arms `umt` and `scratch`; each seed has its own labelled clips, newly
            initialised weights and order.
        long_seeds: Runs of the arm `long`.
        unlabelled, labelled, validation, test: Number of generated clips; `labelled` is per class.
        teacher_clips: Generated clips whose frames and captions the teacher is trained on.
        teacher_steps, pretrain_steps, finetune_steps: Optimiser steps.
        long_factor: Fine-tuning steps of the long arm, as a multiple of the others'. It covers the cost of teacher,
            stage 1 and fine-tuning. With a given `teacher` the multiple is measured instead.
        rates: Candidate peak learning rates.
        videos: Folder with a sub-folder of videos per class, instead of generated clips.
        teacher: Folder or Hub id of a CLIP, instead of a tiny one.
    """

    seeds: int = 2
    long_seeds: int = 1
    unlabelled: int = 4000
    labelled: int = 50
    validation: int = 400
    test: int = 800
    teacher_clips: int = 4000
    teacher_steps: int = 500
    pretrain_steps: int = 800
    finetune_steps: int = 300
    long_factor: int = 8
    rates: tuple[float, ...] = (5e-4, 1e-3)
    videos: Path | None = None
    teacher: str | None = None


def run_demo(settings: DemoSettings, folder: Path) -> dict[str, Any]:
    """Run the demo in a new folder, print its progress, and return the content of `results.json`.

    Raises:
        ValueError: if the folder is not empty, the videos are not suitable, or the teacher can't be loaded.
    """
    check_start(settings, folder)
    print(describe_start(settings, folder), flush=True)
    with WorkerPool(folder / "logs") as pool, ThreadPoolExecutor(1) as chains:
        clips = prepare_clips(settings, folder, pool)
        # two chains of runs, each with one process at work until the other has finished
        from_student = chains.submit(student_chain, settings, clips, folder, pool)  # the longer one first
        from_scratch = scratch_chain(settings, clips, folder, pool, from_student)
        rows, costs = from_student.result()
        rows += from_scratch
        predictions = predict_files(folder / "umt", clips, pool)
        seconds = pool.elapsed()
    clips.frames_file.unlink()
    results = {
        "settings": asdict(settings),
        "machine": machine(),
        "seconds": round(seconds),
        "costs": costs,
        "runs": rows,
        "predictions": predictions["top1"],
    }
    report(results, clips, predictions, folder)
    return results


def check_start(settings: DemoSettings, folder: Path) -> None:
    """Create the run's folder.

    Raises:
        ValueError: if the folder is not empty, or teacher or videos can't be used.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        page = folder / "index.html"
        content = f"an earlier run, see {page}" if page.exists() else "other files, perhaps of an interrupted run"
        raise ValueError(f"{folder} contains {content}. Give another --output, or remove this one first.")
    if settings.videos is not None:
        list_real_clips(settings.videos)
    if settings.teacher is not None:
        load_demo_teacher(settings.teacher)
    folder.mkdir(parents=True, exist_ok=True)


def prepare_clips(settings: DemoSettings, folder: Path, pool: WorkerPool) -> DemoClips:
    """Write or list the videos, read them once, and split them."""
    seeds = range(max(settings.seeds, settings.long_seeds))
    frames_file = folder / "frames.npy"
    if settings.videos is None:
        sizes = {"unlabelled": (UNLABELLED, settings.unlabelled)}
        sizes |= {f"labelled-{seed}": (LABELLED + seed, settings.labelled * len(DIRECTIONS)) for seed in seeds}
        sizes |= {"validation": (VALIDATION, settings.validation), "test": (TEST, settings.test)}
        plan, splits = plan_motion_clips(sizes)
        new_frames_file(frames_file, len(plan), SIZE)
        tasks = [
            pool.submit(f"videos {part}", make_clips, plan[first:last], first, folder / "videos", frames_file)
            for part, (first, last) in enumerate(equal_parts(len(plan), pool.num_processes), 1)
        ]
        paths = [path for task in tasks for path in task.result().value]
        labels = np.array([index % len(DIRECTIONS) for _, _, index in plan])
        clips = DemoClips(list(DIRECTIONS), paths, labels, splits, frames_file, generated=True)
        pool.say(f"videos: {len(paths):,} files written and read, {NUM_FRAMES} frames of {SIZE} x {SIZE} pixels each")
    else:
        paths, labels, class_names = list_real_clips(settings.videos)
        new_frames_file(frames_file, len(paths), REAL_SIZE)
        tasks = [
            pool.submit(f"videos {part}", read_clips, paths[first:last], first, frames_file, REAL_SIZE)
            for part, (first, last) in enumerate(equal_parts(len(paths), pool.num_processes), 1)
        ]
        broken = dict(row for task in tasks for row in task.result().value)
        for message in broken.values():
            pool.say(f"skipped: {message}")
        labels, readable = np.array(labels), [index for index in range(len(paths)) if index not in broken]
        splits = split_real_clips(labels, readable, class_names, settings.labelled, seeds)
        clips = DemoClips(class_names, paths, labels, splits, frames_file, generated=False)
        pool.say(f"videos: {len(readable):,} files of {len(class_names)} classes read from {settings.videos}")
    write_splits(clips, folder / "splits.json")
    return clips


def equal_parts(number: int, parts: int) -> list[tuple[int, int]]:
    """(first, last) of nearly equal parts of `number` items; no part is empty."""
    bounds = np.linspace(0, number, min(parts, number) + 1).astype(int).tolist()
    return list(itertools.pairwise(bounds))


# --- the arms --------------------------------------------------------------------------------------------------------


def train_teacher_step(settings: DemoSettings, folder: Path, pool: WorkerPool) -> tuple[str, dict[str, Any]]:
    """Folder or Hub id of the teacher, which is trained unless one was given, and the cost of its training."""
    if settings.teacher is not None:
        return settings.teacher, {}
    done = pool.submit("teacher", train_demo_teacher, settings.teacher_clips, settings.teacher_steps, folder).result()
    pool.say(
        f"teacher: a CLIP of {done.value['parameters'] / 1e6:.1f} million parameters, {settings.teacher_steps} steps "
        f"on frames and captions, loss {done.value['loss']:.2f} ({done.seconds:.0f} s)"
    )
    return str(folder / "teacher"), {"teacher": done.value | {"cpu_seconds": done.cpu_seconds}}


def student_chain(
    settings: DemoSettings, clips: DemoClips, folder: Path, pool: WorkerPool
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Teacher, stage 1, and the fine-tuning runs from the student: the rows of the latter, and the costs before."""
    teacher, costs = train_teacher_step(settings, folder, pool)
    options = {"num_masks": 1}  # the same number of views, of more clips: the teacher is cheap here (docs/demo.md)
    done = pool.submit(
        "student", pretrain, clips, teacher, settings.pretrain_steps, folder / "student", options
    ).result()
    costs["student"] = done.value | {"cpu_seconds": done.cpu_seconds}
    pool.say(
        f"student: {settings.pretrain_steps} steps of unmasked-token alignment without labels, loss "
        f"{done.value['loss']:.3f} ({done.seconds:.0f} s)"
    )
    plan = ArmRun("umt", folder / "student", settings.finetune_steps, settings.rates[0], 0)
    rows, best = choose_rate(plan, settings.rates, clips, folder, pool)
    return rows + run_all(other_seeds(best, settings.seeds), clips, folder, pool), costs


def scratch_chain(
    settings: DemoSettings, clips: DemoClips, folder: Path, pool: WorkerPool, from_student: "Future[Any]"
) -> list[dict[str, Any]]:
    """Rows of the two arms from scratch.

    The learning rate of the long arm is the best one in trials of its length, on other clips. Its number of steps
    takes the time of teacher, stage 1 and fine-tuning. That multiple was measured beforehand, so that this chain need
    not wait; with a given teacher it is measured on the runs of `from_student`.
    """
    plan = ArmRun("scratch", None, settings.finetune_steps, settings.rates[0], 0)
    rows, best = choose_rate(plan, settings.rates, clips, folder, pool)
    factor = settings.long_factor
    if settings.teacher is not None:
        student_rows, costs = from_student.result()
        total = cpu_seconds_before(costs) + student_rows[0]["cpu_seconds"]
        factor = math.ceil(total / rows[0]["cpu_seconds"])
    long = replace(plan, arm="long", num_steps=factor * settings.finetune_steps, learning_rate=LONG_RATE)
    long_runs = [replace(long, seed=seed) for seed in range(settings.long_seeds)]
    rows += run_all(long_runs + other_seeds(best, settings.seeds), clips, folder, pool)  # the longest run first
    if long_runs:
        keep(long_runs[0], folder)
    return rows


def choose_rate(
    plan: ArmRun, rates: Sequence[float], clips: DemoClips, folder: Path, pool: WorkerPool
) -> tuple[list[dict[str, Any]], ArmRun]:
    """Rows of an arm's first seed at every learning rate, and the run with the best validation accuracy; its model is
    kept."""
    plans = [replace(plan, learning_rate=rate) for rate in rates]
    rows = run_all(plans, clips, folder, pool)
    best = max(rows, key=lambda row: row["validation"])
    chosen = replace(plan, learning_rate=best["rate"])
    keep(chosen, folder)
    return [row | {"chosen": row is best} for row in rows], chosen


def other_seeds(chosen: ArmRun, num_seeds: int) -> list[ArmRun]:
    return [replace(chosen, seed=seed) for seed in range(1, num_seeds)]


def run_all(plans: list[ArmRun], clips: DemoClips, folder: Path, pool: WorkerPool) -> list[dict[str, Any]]:
    """Fine-tune in parallel and print a line per finished run; rows in the order of the plans."""
    runs = {}
    for plan in plans:
        name = f"{plan.arm}, learning rate {plan.learning_rate:g}, seed {plan.seed}"
        runs[pool.submit(name, finetune, plan, clips, folder / run_folder(plan))] = name
    for run in as_completed(runs):
        done = run.result()
        pool.say(f"{runs[run]}: validation top-1 {done.value['validation']:.1f} % ({done.seconds:.0f} s)")
    finished = [run.result() for run in runs]
    return [done.value | {"cpu_seconds": round(done.cpu_seconds, 1), "chosen": True} for done in finished]


def keep(plan: ArmRun, folder: Path) -> None:
    """Move the model of a run to the folder of its arm."""
    os.replace(folder / run_folder(plan), folder / plan.arm)


def run_folder(plan: ArmRun) -> Path:
    """Folder of a run's model. The card names the model by the last component, which `keep` leaves unchanged."""
    return Path("runs", f"rate-{plan.learning_rate:g}-seed-{plan.seed}", plan.arm)


# --- held-out files through the pipeline -----------------------------------------------------------------------------


def predict_files(model: Path, clips: DemoClips, pool: WorkerPool) -> dict[str, Any]:
    """Predict the class of every test file with `pipeline`.

    Returns:
        `matrix`, int64 `(classes, classes)`, `top1` in percent, and `examples`: (file, class, prediction, score) of
        one file per class.
    """
    logging.disable_progress_bar()
    classify = pipeline("video-classification", model=str(model))
    logging.enable_progress_bar()
    matrix = np.zeros((len(clips.class_names),) * 2, np.int64)
    examples: dict[int, tuple[str, str, str, float]] = {}
    for index in tqdm(clips.splits["test"], desc="predict", unit=" files", leave=False, disable=None):
        path, label = clips.paths[index], int(clips.labels[index])
        best = classify(path, top_k=1)[0]
        matrix[label, clips.class_names.index(best["label"])] += 1
        examples.setdefault(label, (path, clips.class_names[label], best["label"], best["score"]))
    top1 = 100 * float(matrix.trace() / matrix.sum())
    pool.say(f'pipeline("video-classification", model="{model}"): top-1 {top1:.1f} % on {matrix.sum()} test files')
    return {"matrix": matrix, "top1": top1, "examples": [examples[label] for label in sorted(examples)]}


def machine() -> dict[str, str | int]:
    """Hardware and versions that the times depend on."""
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count() or 1,
        "precision": "bfloat16" if fast_bf16() else "float32",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "date": date.today().isoformat(),
    }


def cpu_name() -> str:
    """The processor's name, where Linux reports it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
