"""`index.html` in the folder of a run: results, curves, pictures, settings and the next command."""

from collections.abc import Sequence
from pathlib import Path

from ..cards.trainer_card import evaluations_of_weights, settings
from ..pictures.run_page import Code, Link, Picture, Section, Table, Text, write_page
from ..pictures.run_pictures import CURVES, MASKS, PREDICTIONS
from ..trainers.base_trainer import UMTTrainer

PAGE = "index.html"
CAPTIONS = {
    CURVES: "Logged values over the optimiser steps.",
    MASKS: "The first training clip, and the tokens that the student sees.",
    PREDICTIONS: "Targets in the first training clip, and the student's predictions.",
}
FILES = {
    "README.md": "model card",
    "run.json": "settings of the run",
    "trainer_state.json": "all logged values",
    "broken_videos.jsonl": "videos that could not be read",
}


def write_run_page(trainer: UMTTrainer, next_command: str, sections: Sequence[Section] = ()) -> Path:
    """Writes the page into `output_dir`.

    Args:
        trainer: The trainer of a run that has ended and is saved.
        next_command: A command that uses the model.
        sections: Sections about the evaluation.
    """
    folder = Path(trainer.args.output_dir)
    pictures = [Picture(folder / name, caption) for name, caption in CAPTIONS.items() if (folder / name).is_file()]
    files = [(Link(name, folder / name), what) for name, what in FILES.items() if (folder / name).is_file()]
    parts = [
        Section("Result", [result(trainer)]),
        Section("Training", pictures or [Text("The run has not logged a loss.")]),
        *sections,
        Section("Settings", [Table(("setting", "value"), settings(trainer, trainer.card_sections()))]),
        Section("Files", [Table(("file", "content"), files)]),
        Section("Next", [Code(next_command)]),
    ]
    return write_page(folder / PAGE, f"{folder.name}: {type(trainer.model).__name__}", parts)


def result(trainer: UMTTrainer) -> Table:
    """The last logged loss, the time, and the evaluation of the saved weights."""
    history = trainer.state.log_history
    rows = [("optimiser steps", trainer.state.global_step)]
    rows += [("training loss, last logged", f"{entry['loss']:.4g}") for entry in history if "loss" in entry][-1:]
    rows += [("seconds", f"{entry['train_runtime']:.0f}") for entry in history if "train_runtime" in entry][-1:]
    for entry in evaluations_of_weights(trainer):
        rows += [
            (f"{name.removeprefix('eval_').replace('_', ' ')}, evaluation after step {entry['step']}", f"{value:.4g}")
            for name, value in entry.items()
            if name.startswith("eval_") and not name.endswith(("runtime", "per_second"))
        ]
    return Table(("", "value"), rows)
