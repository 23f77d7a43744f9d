"""What `umt demo` says: what it is about to do, the table, the conclusion that follows from it, and the run's page.

Unusual: the conclusion is a function of the numbers and can say either. Pre-training wins if it is ahead of the better
scratch arm by more than the spread: the largest standard deviation over seeds, or, if that is more, twice the standard
error of the difference of two accuracies on so many test clips.
"""

import json
import math
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ..atomic_files import atomic_write
from ..pictures.confusion_plot import draw_confusion_matrix
from ..pictures.curves import draw_curves
from ..pictures.drawing import save_picture
from ..pictures.run_page import Code, Picture, Section, Table, Text, write_page
from ..pictures.run_pictures import MASKS
from .tiny_runs import GRID_SIDE

ARMS = {
    "umt": "UMT: aligned, then fine-tuned",
    "scratch": "from scratch, as many steps",
    "long": "from scratch, as much time",
}
HEAD = (
    'The head is a hidden layer over the means of the eight frames in their order, pooling="frames". It is not the '
    "paper's, which takes the mean of all tokens. All arms have it."
)
CAPTIONS = (
    "The teacher's captions name the object's shape and colour, the background, and the column and row of a 4 x 4 "
    "grid that the object is in. No caption says anything of motion, and the teacher sees single frames."
)
LIMITS = (
    "What this does not show: that stage 1 learns motion (position over time is motion, and the teacher knows "
    "positions), or that alignment beats other kinds of pre-training. The figures are of one teacher and one student; "
    "seeds are of labelled clips, head and order."
)


def describe_start(settings: Any, folder: Path) -> str:
    """The first lines of a run."""
    if settings.videos is None:
        clips = (
            "An object drifts over a background in one of eight directions, the class. Where it is in a frame says "
            "nothing of the class."
        )
    else:
        clips = (
            f"The clips are those of {settings.videos}, a class for each sub-folder; eight frames are read of each."
        )
    return f"Everything is written to {folder}.\n{clips}\n{describe_teacher(settings)}\n{HEAD}\n"


def describe_teacher(settings: Any) -> str:
    """Who teaches, and from what it learnt."""
    if settings.teacher is not None:
        return f"The teacher is {settings.teacher}, at {GRID_SIDE} x {GRID_SIDE} tokens a frame."
    if settings.videos is not None:
        return f"The teacher is a tiny CLIP that learns from generated frames, not from these clips. {CAPTIONS}"
    return CAPTIONS


def report(results: dict[str, Any], clips: Any, predictions: dict[str, Any], folder: Path) -> None:
    """Write results, pictures and page into the folder, and print the table, the conclusion and what to do next."""
    text = json.dumps(results | {"conclusion": conclusion(results, clips)}, indent=1, default=str)
    with atomic_write(folder / "results.json") as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
    save_picture(
        draw_confusion_matrix(
            predictions["matrix"], clips.class_names, f"UMT on test files, top-1 {predictions['top1']:.1f} %"
        ),
        folder / "confusion.png",
    )
    curves = {ARMS[row["arm"]]: as_log(row["curve"]) for row in results["runs"] if row["chosen"] and row["seed"] == 0}
    save_picture(draw_curves(curves, "Fine-tuning"), folder / "fine-tuning.png")
    save_picture(
        draw_curves({"student": as_log(results["costs"]["student"]["curve"])}, "Stage 1: alignment with the teacher"),
        folder / "stage1.png",
    )
    header, rows = table_rows(results, clips)
    page = write_page(folder / "index.html", "umt demo", page_sections(results, clips, predictions, folder))
    print()
    print(as_text_table(header, rows))
    print()
    for sentence in conclusion(results, clips):
        print(sentence)
    print(f"\nIt took {minutes(results['seconds'])}. Everything is in {folder}: look at {page}.\n{next_steps(folder)}")


# --- the table and what follows from it ------------------------------------------------------------------------------


def accuracies(results: dict[str, Any], arm: str, measure: str = "test") -> list[float]:
    """Top-1 in percent of the runs of an arm at the rate that was chosen, by seed."""
    rows = [row for row in results["runs"] if row["arm"] == arm and row["chosen"]]
    return [row[measure] for row in sorted(rows, key=lambda row: row["seed"])]


def table_rows(results: dict[str, Any], clips: Any) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the one table of a run."""
    header = ["", "top-1, %", "each seed", "steps", "rate", "CPU s a run"]
    rows = []
    for arm, name in ARMS.items():
        runs = [row for row in results["runs"] if row["arm"] == arm and row["chosen"]]
        rows.append(
            [
                name,
                *mean_and_each(accuracies(results, arm)),
                f"{runs[0]['steps']:,}",
                f"{runs[0]['rate']:g}",
                f"{seconds_of_a_run(results, arm):.0f}"
                + (f" + {before(results['costs']):.0f} before" if arm == "umt" else ""),
            ]
        )
    for measure, name in (("one_frame", "control: UMT, one frame repeated"), ("shuffled", "control: UMT, shuffled")):
        rows.append([name, *mean_and_each(accuracies(results, "umt", measure)), "", "", ""])
    rows.append(["chance", f"{100 / len(clips.class_names):.1f}", "", "", "", ""])
    return header, rows


def before(costs: dict[str, Any]) -> float:
    """CPU seconds of teacher and stage 1."""
    return sum(step["cpu_seconds"] for step in costs.values())


def seconds_of_a_run(results: dict[str, Any], arm: str) -> float:
    """CPU seconds, the mean of the arm's runs at the rate that was chosen."""
    return statistics.mean(row["cpu_seconds"] for row in results["runs"] if row["arm"] == arm and row["chosen"])


def mean_and_each(values: Sequence[float]) -> tuple[str, str]:
    """`93.1 ± 2.0`, the standard deviation over seeds, and `91.1 / 95.1`."""
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}", " / ".join(f"{value:.1f}" for value in values)


def conclusion(results: dict[str, Any], clips: Any) -> list[str]:
    """The sentences that follow from the numbers."""
    num_test, chance = len(clips.splits["test"]), 100 / len(clips.class_names)
    arms = [accuracies(results, arm) for arm in ARMS]
    ours, theirs = before(results["costs"]) + seconds_of_a_run(results, "umt"), seconds_of_a_run(results, "long")
    sentences = [
        conclude(*arms, num_test),
        f"In CPU seconds: teacher, stage 1 and fine-tuning took {ours:.0f}, the longer training from scratch "
        f"{theirs:.0f}.",
    ]
    frame = statistics.mean(accuracies(results, "umt", "one_frame"))
    shuffled = statistics.mean(accuracies(results, "umt", "shuffled"))
    sentences.append(judge_control(frame, shuffled, chance, num_test))
    return [*sentences, LIMITS]


def conclude(umt: Sequence[float], scratch: Sequence[float], long: Sequence[float], num_test: int) -> str:
    """Whether pre-training won, in words.

    Args:
        umt, scratch, long: Top-1 in percent on test clips of each arm's seeds.
        num_test: Number of test clips.
    """
    ours, best = statistics.mean(umt), max(statistics.mean(scratch), statistics.mean(long))
    spread = max([statistics.stdev(arm) for arm in (umt, scratch, long) if len(arm) > 1], default=0.0)
    sampling = 2 * math.sqrt((ours * (100 - ours) + best * (100 - best)) / num_test)
    margin, lead = max(spread, sampling), ours - best
    numbers = (
        f"{ours:.1f} % with it, {statistics.mean(scratch):.1f} % from scratch, {statistics.mean(long):.1f} % from "
        "scratch in as much time"
    )
    if lead > margin:
        return f"Pre-training wins: {numbers}. It is {lead:.1f} points ahead, more than the spread of {margin:.1f}."
    if lead >= -margin:
        return (
            f"Pre-training does not win: {numbers}. The difference of {lead:+.1f} points is within the spread of "
            f"{margin:.1f}."
        )
    return f"Pre-training loses: {numbers}. It is {-lead:.1f} points behind, more than the spread of {margin:.1f}."


def judge_control(frame: float, shuffled: float, chance: float, num_test: int) -> str:
    """What a single frame, and the frames without their order, give away, in words."""
    margin = 2 * math.sqrt(chance * (100 - chance) / num_test)
    tells = "no more than chance" if frame <= chance + margin else "more than chance"
    return (
        f"Controls: from one frame, repeated, UMT is right in {frame:.1f} %, {tells} ({chance:.1f} ± {margin:.1f}); "
        f"from the frames in another order in {shuffled:.1f} %."
    )


def as_text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of columns that are as wide as their widest cell; the first one is set to the left."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = []
    for row in [header, *rows]:
        cells = [
            cell.ljust(width) if not column else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


# --- the page --------------------------------------------------------------------------------------------------------


def page_sections(results: dict[str, Any], clips: Any, predictions: dict[str, Any], folder: Path) -> list[Section]:
    header, rows = table_rows(results, clips)
    machine = ", ".join(f"{key} {value}" for key, value in results["machine"].items())
    num_test, settings = len(clips.splits["test"]), results["settings"]
    caption = (
        f"Top-1 on {num_test} test clips; ± is the standard deviation over seeds. "
        f"{len(clips.splits['labelled-0'])} labelled clips in {len(clips.class_names)} classes, "
        f"{len(clips.splits['unlabelled'])} clips without labels. Rates were chosen of "
        f"{', '.join(f'{rate:g}' for rate in settings['rates'])} on {len(clips.splits['validation'])} other clips."
    )
    examples = [
        [os.path.relpath(path, folder), name, answer, f"{score:.2f}"]
        for path, name, answer, score in predictions["examples"]
    ]
    about = [Text(HEAD), Text(describe_teacher(SimpleNamespace(**settings)))]
    return [
        Section(
            "What pre-training buys",
            [Table(header, rows, caption), *(Text(sentence) for sentence in conclusion(results, clips)), *about],
        ),
        Section(
            "Unmasked teaching",
            [
                Picture(folder / "student" / MASKS, "What the student sees of a clip, and where the teacher looks."),
                Picture(folder / "stage1.png", "Distance of student and teacher features at visible tokens."),
            ],
        ),
        Section("Fine-tuning", [Picture(folder / "fine-tuning.png", "The chosen runs of seed 0.")]),
        Section(
            "Predictions",
            [
                Picture(folder / "confusion.png", "Test files through pipeline, classes by truth and prediction."),
                Table(["file", "class", "prediction", "score"], examples),
            ],
        ),
        Section(
            "What is in this folder",
            [
                Table(
                    ["folder or file", "what it is"],
                    [[name, what] for name, what in CONTENTS if (folder / name).exists()],
                ),
                Text(f"Made in {minutes(results['seconds'])} on {machine}."),
                Code(next_steps(folder)),
            ],
        ),
    ]


CONTENTS = (
    ("umt", "the classifier that started from the student"),
    ("scratch", "the same network from scratch"),
    ("long", "the same, with the time that teacher, student and classifier took"),
    ("student", "the student after stage 1"),
    ("teacher", "the teacher; clip is the whole of it, text tower too"),
    ("runs", "the other rates and seeds"),
    ("videos", "the video files"),
    ("splits.json", "which file is for what"),
    ("logs", "what the trainers printed"),
    ("results.json", "all numbers"),
)


def next_steps(folder: Path) -> str:
    """Commands to go on with."""
    return (
        "What to try next:\n"
        f"  umt classify VIDEO --model {folder}/umt\n"
        f"  umt evaluate --model {folder}/umt --data {folder}/videos/test --clips 1 --crops 1\n"
        "  umt demo --seeds 3 --output another-demo        # three seeds of every arm\n"
        "  umt demo --videos DIR --output my-demo          # clips of your own, a sub-folder for each class\n"
        "  umt demo --ablate masking --output ablation     # attention, random or tube masking; also masks, target"
    )


def minutes(seconds: float) -> str:
    whole, rest = divmod(round(seconds), 60)
    return f"{whole} min {rest} s"


def as_log(curve: Sequence[tuple[int, float]]) -> list[dict[str, float]]:
    return [{"step": step, "loss": loss} for step, loss in curve]
