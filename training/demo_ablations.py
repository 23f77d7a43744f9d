"""`umt demo --ablate`: stage 1 over again with one thing changed, over seeds, into one table with intervals.

Findings of the paper (arXiv 2303.16058, its ablations) in small, whatever they turn out to be.

A seed stands for everything random after the teacher: masks, the student's first weights, the order of the clips, the
labelled clips, the head. All variants get equally many student views. Each takes the learning rate that did best on
validation clips with the first seed; test clips choose nothing.

Intervals are Student's, of 95 %, over seeds, and wide: there are few of them.
"""

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .demo import DemoSettings, check_start, machine, prepare_clips, train_teacher_step
from .demo_arms import ArmRun, finetune, pretrain
from .demo_data import DemoClips
from .demo_report import CAPTIONS, HEAD, as_text_table, minutes, replace_file
from .run_page import Section, Table, Text, write_page
from .worker_pool import WorkerPool

# what is changed → name of a variant → options of `pretraining_trainer`
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
}
TITLES = {
    "masking": "How visible tokens are chosen",
    "masks": "Masks for one pass of the teacher, at equal student views",
}
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
    print(f"Everything is written to {folder}.\n{CAPTIONS}\n{HEAD}\n", flush=True)
    with WorkerPool(folder / "logs") as pool:
        clips = prepare_clips(settings, folder, pool)
        teacher, _ = train_teacher_step(settings, folder, pool)
        rows = run_variants(ABLATIONS[what], teacher, settings, clips, folder, pool)
        seconds = pool.elapsed()
    clips.frames_file.unlink()
    results = {
        "ablation": what,
        "settings": asdict(settings),
        "machine": machine(),
        "seconds": round(seconds),
        "runs": rows,
    }
    replace_file(folder / "results.json", json.dumps(results, indent=1, default=str) + "\n")
    header, table = ablation_table(what, rows)
    caption = describe(settings, clips)
    page = write_page(
        folder / "index.html",
        f"umt demo --ablate {what}",
        [Section(TITLES[what], [Table(header, table, caption), Text(HEAD), Text(CAPTIONS)])],
    )
    print(f"\n{as_text_table(header, table)}\n\n{caption}\nIt took {minutes(seconds)}. The page is {page}.")
    return results


def run_variants(
    variants: dict[str, dict[str, Any]],
    teacher: str,
    settings: DemoSettings,
    clips: DemoClips,
    folder: Path,
    pool: WorkerPool,
) -> list[dict[str, Any]]:
    """Stage 1 of every variant and seed, then fine-tuning from it; the rows of the chosen rates."""
    students = {
        (name, seed): pool.submit(
            f"{name}, stage 1, seed {seed}",
            pretrain,
            clips,
            teacher,
            settings.pretrain_steps,
            folder / f"student-{name.replace(' ', '-')}-{seed}",
            options | {"seed": seed},
        )
        for seed in range(settings.seeds)
        for name, options in variants.items()
    }
    rates: dict[str, float] = {}
    rows = []
    for (name, seed), student in students.items():
        stage1 = student.result()
        start = folder / f"student-{name.replace(' ', '-')}-{seed}"
        tried = [
            pool.submit(
                f"{name}, rate {rate:g}, seed {seed}",
                finetune,
                ArmRun(name, start, settings.finetune_steps, rate, seed),
                clips,
                folder / "runs" / f"{start.name}-rate-{rate:g}",
            )
            for rate in ([rates[name]] if name in rates else settings.rates)
        ]
        best = max((run.result().value for run in tried), key=lambda row: row["validation"])
        rates.setdefault(name, best["rate"])
        cost = {"stage1_loss": stage1.value["loss"], "stage1_cpu_seconds": round(stage1.cpu_seconds, 1)}
        rows.append({key: value for key, value in best.items() if key != "curve"} | cost)
        pool.say(f"{name}, seed {seed}: stage-1 loss {stage1.value['loss']:.3f}, {best['test']:.1f} % of test clips")
    return rows


def ablation_table(what: str, rows: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Header and a row for each variant: mean top-1 with its interval, and what went before."""
    header = ["", "top-1, %", "95 % interval", "each seed", "stage-1 loss", "stage-1 CPU s", "rate"]
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
                f"{statistics.mean(row['stage1_cpu_seconds'] for row in runs):.0f}",
                f"{runs[0]['rate']:g}",
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


def describe(settings: DemoSettings, clips: DemoClips) -> str:
    """What the table's figures are."""
    return (
        f"Top-1 on {len(clips.splits['test'])} test clips, chance {100 / len(clips.class_names):.1f}; "
        f"{settings.seeds} seeds of everything but clips without labels and teacher. {settings.pretrain_steps} steps "
        f"of stage 1, then {settings.finetune_steps} of fine-tuning on {len(clips.splits['labelled-0'])} labelled "
        "clips. Rates were chosen on validation clips with the first seed."
    )
