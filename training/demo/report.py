"""Console output and HTML page of `umt demo`: the setup, the table of results, the conclusion, and the pictures.

The conclusion is a function of the results. Pre-training wins if its accuracy exceeds that of the better arm from
scratch by more than the spread: the larger of the largest standard deviation over seeds, and twice the standard error
of the difference between two accuracies on the test clips.
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
    'All arms use the head pooling="frames": an MLP on the mean features of the eight frames, in temporal order. The '
    "paper's head uses the mean of all tokens."
)
CAPTIONS = (
    "The teacher is a tiny CLIP, trained on single frames. Its captions give the object's shape and colour, the "
    "background, and the object's column and row in a 4 x 4 grid, but nothing about motion."
)
LIMITS = (
    "Not shown: that stage 1 learns motion (position over time is motion, and the teacher knows positions), or that "
    "alignment beats other kinds of pre-training. There is one teacher and one student; seeds vary labelled clips, "
    "head and order."
)


def describe_start(settings: Any, folder: Path) -> str:
    """The first lines of a run: folder, clips, teacher and head."""
    if settings.videos is None:
        clips = (
            "Each clip shows an object drifting in one of eight directions, the class. Its position in a single frame "
            "is independent of the class."
        )
    else:
        clips = f"Clips: {settings.videos}, one class per sub-folder, eight frames of each video."
    return f"Output folder: {folder}\n{clips}\n{describe_teacher(settings)}\n{HEAD}\n"


def describe_teacher(settings: Any) -> str:
    """The teacher and its training data."""
    if settings.teacher is not None:
        return f"The teacher is {settings.teacher}, with {GRID_SIDE} x {GRID_SIDE} tokens per frame."
    if settings.videos is not None:
        return f"{CAPTIONS} Its frames are generated ones, not those of these clips."
    return CAPTIONS


def report(results: dict[str, Any], clips: Any, predictions: dict[str, Any], folder: Path) -> None:
    """Write results, pictures and page to the folder; print the table, the conclusion and suggested commands."""
    text = json.dumps(results | {"conclusion": conclusion(results, clips)}, indent=1, default=str)
    with atomic_write(folder / "results.json") as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
    save_picture(
        draw_confusion_matrix(
            predictions["matrix"], clips.class_names, f"UMT on the test files, top-1 {predictions['top1']:.1f} %"
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
    print(f"\nFinished in {minutes(results['seconds'])}. Open {page} for the report.\n{next_steps(folder)}")


# --- the table and the conclusion ------------------------------------------------------------------------------------


def accuracies(results: dict[str, Any], arm: str, measure: str = "test") -> list[float]:
    """Top-1 accuracy in percent of an arm's runs at the chosen learning rate, by seed."""
    rows = [row for row in results["runs"] if row["arm"] == arm and row["chosen"]]
    return [row[measure] for row in sorted(rows, key=lambda row: row["seed"])]


def table_rows(results: dict[str, Any], clips: Any) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of results."""
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
                + (f" + {cpu_seconds_before(results['costs']):.0f} before" if arm == "umt" else ""),
            ]
        )
    for measure, name in (("one_frame", "control: UMT, one frame repeated"), ("shuffled", "control: UMT, shuffled")):
        rows.append([name, *mean_and_each(accuracies(results, "umt", measure)), "", "", ""])
    rows.append(["chance", f"{100 / len(clips.class_names):.1f}", "", "", "", ""])
    return header, rows


def cpu_seconds_before(costs: dict[str, Any]) -> float:
    """CPU seconds of the stages before fine-tuning: teacher and stage 1."""
    return sum(stage["cpu_seconds"] for stage in costs.values())


def seconds_of_a_run(results: dict[str, Any], arm: str) -> float:
    """Mean CPU seconds of an arm's runs at the chosen learning rate."""
    return statistics.mean(row["cpu_seconds"] for row in results["runs"] if row["arm"] == arm and row["chosen"])


def mean_and_each(values: Sequence[float]) -> tuple[str, str]:
    """Mean and standard deviation over seeds as `93.1 ± 2.0`, and the single values as `91.1 / 95.1`."""
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}", " / ".join(f"{value:.1f}" for value in values)


def conclusion(results: dict[str, Any], clips: Any) -> list[str]:
    """The conclusions drawn from the results, as sentences."""
    num_test, chance = len(clips.splits["test"]), 100 / len(clips.class_names)
    arms = [accuracies(results, arm) for arm in ARMS]
    ours = cpu_seconds_before(results["costs"]) + seconds_of_a_run(results, "umt")
    theirs = seconds_of_a_run(results, "long")
    sentences = [
        conclude(*arms, num_test),
        f"CPU seconds: teacher, stage 1 and fine-tuning took {ours:.0f}, the long training from scratch {theirs:.0f}.",
    ]
    frame = statistics.mean(accuracies(results, "umt", "one_frame"))
    shuffled = statistics.mean(accuracies(results, "umt", "shuffled"))
    sentences.append(judge_controls(frame, shuffled, chance, num_test))
    return [*sentences, LIMITS]


def conclude(umt: Sequence[float], scratch: Sequence[float], long: Sequence[float], num_test: int) -> str:
    """Whether pre-training won, in one sentence.

    Args:
        umt, scratch, long: Top-1 accuracies in percent on the test clips, one per seed of the arm.
        num_test: Number of test clips.
    """
    ours, best = statistics.mean(umt), max(statistics.mean(scratch), statistics.mean(long))
    spread = max([statistics.stdev(arm) for arm in (umt, scratch, long) if len(arm) > 1], default=0.0)
    sampling = 2 * math.sqrt((ours * (100 - ours) + best * (100 - best)) / num_test)
    margin, lead = max(spread, sampling), ours - best
    figures = (
        f"{ours:.1f} % with it, {statistics.mean(scratch):.1f} % from scratch, {statistics.mean(long):.1f} % from "
        "scratch in as much time"
    )
    if lead > margin:
        return f"Pre-training wins: {figures}. It is {lead:.1f} points ahead, more than the spread of {margin:.1f}."
    if lead >= -margin:
        return (
            f"Pre-training does not win: {figures}. The difference of {lead:+.1f} points is within the spread of "
            f"{margin:.1f}."
        )
    return f"Pre-training loses: {figures}. It is {-lead:.1f} points behind, more than the spread of {margin:.1f}."


def judge_controls(frame: float, shuffled: float, chance: float, num_test: int) -> str:
    """The accuracy with a single frame, compared with the chance level, and with shuffled frames, in one sentence."""
    margin = 2 * math.sqrt(chance * (100 - chance) / num_test)
    verdict = "not above" if frame <= chance + margin else "above"
    return (
        f"Controls: UMT has top-1 {frame:.1f} % with one frame repeated, {verdict} the chance level "
        f"({chance:.1f} ± {margin:.1f}), and {shuffled:.1f} % with shuffled frames."
    )


def as_text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A plain-text table; the first column is left-aligned, the others right-aligned."""
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
        f"Top-1 accuracy on {num_test} test clips; ± is the standard deviation over seeds. "
        f"{len(clips.splits['labelled-0'])} labelled clips in {len(clips.class_names)} classes, "
        f"{len(clips.splits['unlabelled'])} clips without labels. Learning rates were "
        f"chosen from {', '.join(f'{rate:g}' for rate in settings['rates'])} on {len(clips.splits['validation'])} "
        "validation clips."
    )
    examples = [
        [os.path.relpath(path, folder), name, answer, f"{score:.2f}"]
        for path, name, answer, score in predictions["examples"]
    ]
    about = [Text(HEAD), Text(describe_teacher(SimpleNamespace(**settings)))]
    return [
        Section(
            "Gain from pre-training",
            [Table(header, rows, caption), *(Text(sentence) for sentence in conclusion(results, clips)), *about],
        ),
        Section(
            "Stage 1",
            [
                Picture(folder / "student" / MASKS, "A clip, the tokens visible to the student, the attention map."),
                Picture(folder / "stage1.png", "Distance between student and teacher features at visible tokens."),
            ],
        ),
        Section("Fine-tuning", [Picture(folder / "fine-tuning.png", "The chosen runs of seed 0.")]),
        Section(
            "Predictions",
            [
                Picture(folder / "confusion.png", "Confusion matrix of the test files, predicted by pipeline."),
                Table(["file", "class", "prediction", "score"], examples),
            ],
        ),
        Section(
            "Files",
            [
                Table(
                    ["folder or file", "content"],
                    [[name, content] for name, content in CONTENTS if (folder / name).exists()],
                ),
                Text(f"Created in {minutes(results['seconds'])} on {machine}."),
                Code(next_steps(folder)),
            ],
        ),
    ]


CONTENTS = (
    ("umt", "classifier fine-tuned from the student"),
    ("scratch", "the same network from scratch"),
    ("long", "from scratch, for the time of teacher, stage 1 and fine-tuning"),
    ("student", "student after stage 1"),
    ("teacher", "teacher; the folder clip also has its text tower"),
    ("runs", "the other learning rates and seeds"),
    ("videos", "video files"),
    ("splits.json", "files of each split"),
    ("logs", "output of the trainers"),
    ("results.json", "all results"),
)


def next_steps(folder: Path) -> str:
    """Suggested commands."""
    return (
        "Next steps:\n"
        f"  umt classify VIDEO --model {folder}/umt\n"
        f"  umt evaluate --model {folder}/umt --data {folder}/videos/test --clips 1 --crops 1\n"
        "  umt demo --seeds 3 --output another-demo     # three seeds of every arm\n"
        "  umt demo --videos DIR --output my-demo       # your own clips, one sub-folder per class"
    )


def minutes(seconds: float) -> str:
    whole, rest = divmod(round(seconds), 60)
    return f"{whole} min {rest} s"


def as_log(curve: Sequence[tuple[int, float]]) -> list[dict[str, float]]:
    return [{"step": step, "loss": loss} for step, loss in curve]
