"""`umt demo`: the whole method in small, on a CPU in minutes, and what it buys (arXiv 2303.16058).

Clips are made (or the user's are read), a tiny CLIP learns from frames and captions, a student is aligned with it
without labels, and the same network is fine-tuned on few labels three times: from the student, from nothing, and from
nothing with the time of teacher, stage 1 and fine-tuning spent on it. Learning rates are chosen on validation
clips; test clips choose nothing.

Unusual: the conclusion is computed (`report.conclude`), so that the demo can say that pre-training does not win.
The runs that do not wait for one another share the cores as processes (`worker_pool`).
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
    deal_out,
    list_real_clips,
    make_clips,
    new_frames_file,
    plan_motion_clips,
    read_clips,
    write_splits,
)
from .motion_clips import DIRECTIONS, NUM_FRAMES, SIZE
from .report import before, describe_start, report
from .tiny_runs import fast_bf16
from .worker_pool import WorkerPool

LONG_RATE = 5e-4  # of the long arm: the best of 5e-4, 1e-3 and 2e-3 in trials of about its length


@dataclass(frozen=True)
class DemoSettings:
    """How much of everything; the defaults take minutes on two cores.

    Args:
        seeds: Fine-tuning runs of each arm, with other labelled clips, fresh weights and order.
        unlabelled, labelled, validation, test: Generated clips; `labelled` is for each class.
        teacher_clips: Generated clips whose frames and captions the teacher learns from.
        teacher_steps, pretrain_steps, finetune_steps: Optimiser steps.
        long_factor: Fine-tuning steps of the long arm, as a multiple of the others': what teacher, stage 1 and
            fine-tuning cost. With a `teacher` the multiple is measured.
        rates: Peak learning rates to choose from.
        videos: Folder of the user's class folders instead of generated clips.
        teacher: Folder or Hub id of a CLIP instead of a tiny one.
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
    """The demo, into a new folder; prints what happens and returns what `results.json` holds.

    Raises:
        ValueError: if the folder holds something, the videos do not do, or the teacher can't be loaded.
    """
    check_start(settings, folder)
    print(describe_start(settings, folder), flush=True)
    with WorkerPool(folder / "logs") as pool, ThreadPoolExecutor(1) as chains:
        clips = prepare_clips(settings, folder, pool)
        # two chains of runs, each with one process at work until the other one is done
        from_student = chains.submit(student_chain, settings, clips, folder, pool)  # the longer one, so it goes first
        from_nothing = scratch_chain(settings, clips, folder, pool, from_student)
        rows, costs = from_student.result()
        rows += from_nothing
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
    """Make the run's folder; a ValueError if it holds something, or teacher or videos can't be had."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        page = folder / "index.html"
        holds = f"an earlier run; look at {page}" if page.exists() else "something, perhaps a run that did not end"
        raise ValueError(f"{folder} holds {holds}. Give --output another folder, or remove this one first.")
    if settings.videos is not None:
        list_real_clips(settings.videos)
    if settings.teacher is not None:
        load_demo_teacher(settings.teacher)
    folder.mkdir(parents=True, exist_ok=True)


def prepare_clips(settings: DemoSettings, folder: Path, pool: WorkerPool) -> DemoClips:
    """Write or list the videos, read them once, and deal them out."""
    seeds = range(max(settings.seeds, settings.long_seeds))
    frames_file = folder / "frames.npy"
    if settings.videos is None:
        sizes = {"unlabelled": (UNLABELLED, settings.unlabelled)}
        sizes |= {f"labelled-{seed}": (LABELLED + seed, settings.labelled * len(DIRECTIONS)) for seed in seeds}
        sizes |= {"validation": (VALIDATION, settings.validation), "test": (TEST, settings.test)}
        plan, splits = plan_motion_clips(sizes)
        new_frames_file(frames_file, len(plan), SIZE)
        parts = share_out(len(plan), pool.num_processes)
        made = [
            pool.submit(f"videos {part}", make_clips, plan[first:last], first, folder / "videos", frames_file)
            for part, (first, last) in enumerate(parts, 1)
        ]
        paths = [path for part in made for path in part.result().value]
        labels = np.array([index % len(DIRECTIONS) for _, _, index in plan])
        clips = DemoClips(list(DIRECTIONS), paths, labels, splits, frames_file, generated=True)
        pool.say(f"videos: {len(paths):,} files written and read, {NUM_FRAMES} frames of {SIZE} x {SIZE} pixels each")
    else:
        paths, labels, class_names = list_real_clips(settings.videos)
        new_frames_file(frames_file, len(paths), REAL_SIZE)
        reading = [
            pool.submit(f"videos {part}", read_clips, paths[first:last], first, frames_file, REAL_SIZE)
            for part, (first, last) in enumerate(share_out(len(paths), pool.num_processes), 1)
        ]
        broken = dict(row for part in reading for row in part.result().value)
        for message in broken.values():
            pool.say(f"left out: {message}")
        labels, readable = np.array(labels), [index for index in range(len(paths)) if index not in broken]
        splits = deal_out(labels, readable, class_names, settings.labelled, seeds)
        clips = DemoClips(class_names, paths, labels, splits, frames_file, generated=False)
        pool.say(f"videos: {len(readable):,} files of {len(class_names)} classes read from {settings.videos}")
    write_splits(clips, folder / "splits.json")
    return clips


def share_out(number: int, parts: int) -> list[tuple[int, int]]:
    """(first, last) of nearly equal parts, none of them empty."""
    bounds = np.linspace(0, number, min(parts, number) + 1).astype(int).tolist()
    return list(itertools.pairwise(bounds))


# --- the arms --------------------------------------------------------------------------------------------------------


def train_teacher_step(settings: DemoSettings, folder: Path, pool: WorkerPool) -> tuple[str, dict[str, Any]]:
    """Folder or Hub id of the teacher, trained now unless one was given, and what that took."""
    if settings.teacher is not None:
        return settings.teacher, {}
    done = pool.submit("teacher", train_demo_teacher, settings.teacher_clips, settings.teacher_steps, folder).result()
    pool.say(
        f"teacher: a CLIP of {done.value['parameters'] / 1e6:.1f} million weights, {settings.teacher_steps} steps on "
        f"frames and captions, loss {done.value['loss']:.2f} ({done.seconds:.0f} s)"
    )
    return str(folder / "teacher"), {"teacher": done.value | {"cpu_seconds": done.cpu_seconds}}


def student_chain(
    settings: DemoSettings, clips: DemoClips, folder: Path, pool: WorkerPool
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Teacher, stage 1, and the fine-tuning runs that start from the student: their rows, and what came before."""
    teacher, costs = train_teacher_step(settings, folder, pool)
    options = {"num_masks": 1}  # as many views of more clips: at this size the teacher costs little (docs/demo.md)
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
    """Rows of the two arms from nothing.

    The long arm has the rate that did best in trials of its length, on other clips. Its steps take the time of
    teacher, stage 1 and fine-tuning: a multiple that was measured beforehand, so that it need not wait, or, with a
    teacher of the user's, what `from_student`'s runs took.
    """
    plan = ArmRun("scratch", None, settings.finetune_steps, settings.rates[0], 0)
    rows, best = choose_rate(plan, settings.rates, clips, folder, pool)
    factor = settings.long_factor
    if settings.teacher is not None:
        theirs, costs = from_student.result()
        factor = math.ceil((before(costs) + theirs[0]["cpu_seconds"]) / rows[0]["cpu_seconds"])
    long = replace(plan, arm="long", num_steps=factor * settings.finetune_steps, learning_rate=LONG_RATE)
    long_runs = [replace(long, seed=seed) for seed in range(settings.long_seeds)]
    rows += run_all(long_runs + other_seeds(best, settings.seeds), clips, folder, pool)  # the longest run first
    if long_runs:
        keep(long_runs[0], folder)
    return rows


def choose_rate(
    plan: ArmRun, rates: Sequence[float], clips: DemoClips, folder: Path, pool: WorkerPool
) -> tuple[list[dict[str, Any]], ArmRun]:
    """Rows of an arm's first seed at every rate, and the run that did best on validation clips; its model is kept."""
    plans = [replace(plan, learning_rate=rate) for rate in rates]
    rows = run_all(plans, clips, folder, pool)
    best = max(rows, key=lambda row: row["validation"])
    chosen = replace(plan, learning_rate=best["rate"])
    keep(chosen, folder)
    return [row | {"chosen": row is best} for row in rows], chosen


def other_seeds(chosen: ArmRun, num_seeds: int) -> list[ArmRun]:
    return [replace(chosen, seed=seed) for seed in range(1, num_seeds)]


def run_all(plans: list[ArmRun], clips: DemoClips, folder: Path, pool: WorkerPool) -> list[dict[str, Any]]:
    """Fine-tune side by side; a line when a run ends, and the rows in the order of the plans."""
    runs = {}
    for plan in plans:
        name = f"{plan.arm}, rate {plan.learning_rate:g}, seed {plan.seed}"
        runs[pool.submit(name, finetune, plan, clips, folder / run_folder(plan))] = name
    for run in as_completed(runs):
        done = run.result()
        pool.say(f"{runs[run]}: {done.value['validation']:.1f} % of validation clips ({done.seconds:.0f} s)")
    done = [run.result() for run in runs]
    return [one.value | {"cpu_seconds": round(one.cpu_seconds, 1), "chosen": True} for one in done]


def keep(plan: ArmRun, folder: Path) -> None:
    """Move the model of a run to where the arm's is looked for."""
    os.replace(folder / run_folder(plan), folder / plan.arm)


def run_folder(plan: ArmRun) -> Path:
    """Where a run leaves its model: its card names the model by the last part, which stays when the best one moves."""
    return Path("runs", f"rate-{plan.learning_rate:g}-seed-{plan.seed}", plan.arm)


# --- held-out files through the pipeline -----------------------------------------------------------------------------


def predict_files(model: Path, clips: DemoClips, pool: WorkerPool) -> dict[str, Any]:
    """What `pipeline` says of every test file.

    Returns:
        `matrix`, int64 `(classes, classes)`, `top1` in percent, and `examples`: (file, class, prediction, score) of
        one file for each class.
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
    pool.say(f'pipeline("video-classification", model="{model}"): {top1:.1f} % of {matrix.sum()} test files')
    return {"matrix": matrix, "top1": top1, "examples": [examples[label] for label in sorted(examples)]}


def machine() -> dict[str, str | int]:
    """What the times depend on."""
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count() or 1,
        "precision": "bfloat16" if fast_bf16() else "float32",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "date": date.today().isoformat(),
    }


def cpu_name() -> str:
    """The processor's name where Linux tells it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
