"""Accuracy and time of a classifier against the fraction of the tokens that it encodes, on generated motion clips.

A classifier encodes all tokens of a clip, or those with the most motion (`UMTConfig.motion_drop_ratio`; EVEREST, arXiv
2211.10636), over the clip or in groups of two time steps (`motion_groups`; FluxViT, arXiv 2503.14237), or as many at
random. Each of these is a fine-tuning run with its own fraction. In addition the classifier that was fine-tuned on all
tokens is evaluated with each selection.

The clips are those of `umt demo` (`umt_training.demo.motion_clips`): a tiny CLIP is trained on their frames and
captions, a student of four layers is aligned with it without labels and then fine-tuned on labelled clips. Teacher and
student are shared; a seed determines the labelled clips, the newly initialised weights, the order of the clips and the
random tokens. The head is attention pooling, because the demo's own, which reads whole frames, requires all tokens.

    python -m benchmarks.tokens_kept [--folder FOLDER] [--seeds 3] [--output FOLDER]

With `--folder` an interrupted experiment resumes: every finished run is kept there. Times are those of a forward pass
of UMT-B/16 with random weights, in turns in one process. Intervals are Student's 95 % intervals over seeds.
"""

import multiprocessing
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch

from modeling_umt import UMTConfig, UMTForVideoClassification
from modeling_umt.video_embeddings_umt import UMTEmbeddings
from umt_training.demo.motion_clips import DIRECTIONS, MotionClipDataset, render_motion_clips
from umt_training.demo.tiny_runs import NO_MIXING, classifier, finetuning_trainer, labelled_motion_clips
from umt_training.pictures.curves import draw_curves
from umt_training.pictures.drawing import save_picture

from . import sizes
from .demo_variants import interval
from .experiment import in_worker, remembered, run_experiment
from .finetuning_presets import LABELLED, TEST, pretrain, train_motion_teacher
from .harness import Contender
from .harness import measure as measure_times

KEPT = (80, 60, 40, 20)  # percent of the tokens, beside all
GROUPS = 4  # of two time steps each
CHOICES = {"motion": "most motion", "groups": "most motion in groups", "random": "random"}
LEARNING_RATE, LAYER_DECAY = 1e-3, 0.5
POOLING = "attention"
TIMED, ROUNDS = "b16", 5  # the model that is timed, and the passes of each fraction
PICTURE = Path(__file__).parents[1] / "docs/images/tokens_kept.png"


@dataclass(frozen=True)
class Settings:
    """Sizes of the experiment; the defaults are those of the committed table."""

    seeds: int = 3
    unlabelled: int = 6000
    labelled: int = 1024
    test: int = 800
    teacher_steps: int = 500
    pretrain_steps: int = 1200
    finetune_steps: int = 400


@dataclass(frozen=True)
class Selection:
    """The tokens that a classifier encodes: `kept` percent of them, by a key of `CHOICES`."""

    choice: str
    kept: int

    @property
    def fields(self) -> dict[str, float | int]:
        """The fields of `UMTConfig`."""
        return {
            "motion_drop_ratio": (100 - self.kept) / 100,
            "motion_groups": GROUPS if self.choice == "groups" else 1,
        }

    @property
    def name(self) -> str:
        return f"{self.choice}-{self.kept}"


ALL = Selection("motion", 100)
SELECTIONS = [Selection(choice, kept) for choice in CHOICES for kept in KEPT]


class RandomTokenEmbeddings(UMTEmbeddings):
    """Embeddings of as many tokens as by motion, chosen uniformly at random for every clip."""

    generator: torch.Generator

    def importance_of(self, embeddings: torch.Tensor, pixel_values_videos: torch.Tensor, groups: int) -> torch.Tensor:
        frames, rows, columns = self.token_grid(pixel_values_videos)
        return torch.rand(len(embeddings), frames, rows * columns, generator=self.generator)


def select_tokens(model: UMTForVideoClassification, selection: Selection, seed: int) -> None:
    """Make a classifier encode the tokens of a selection; the seed is that of random tokens."""
    for name, value in selection.fields.items():
        setattr(model.config, name, value)
    embeddings = model.umt.embeddings
    embeddings.__class__ = RandomTokenEmbeddings if selection.choice == "random" else UMTEmbeddings
    embeddings.generator = torch.Generator().manual_seed(seed)


# --- the runs --------------------------------------------------------------------------------------------------------


def finetune(cell: tuple[Selection, int], settings: Settings, folder: Path) -> dict[str, object]:
    """Fine-tune and evaluate a cell of the table, a selection and a seed, unless its result is in the folder.

    Returns:
        Top-1 accuracy in percent and CPU seconds; of a classifier on all tokens the accuracy with each selection too.
    """
    selection, seed = cell
    return remembered(folder / "cells" / f"{selection.name}-{seed}.json", partial(run_cell, cell, settings, folder))


def run_cell(cell: tuple[Selection, int], settings: Settings, folder: Path) -> dict[str, object]:
    selection, seed = cell
    model = classifier(folder / "student", DIRECTIONS, seed, pooling=POOLING, drop_path_rate=0.1)
    select_tokens(model, selection, seed)
    trainer = finetuning_trainer(
        model,
        labelled_motion_clips(*render_motion_clips(LABELLED + seed, settings.labelled), seed),
        folder / "runs" / f"{selection.name}-{seed}",
        settings.finetune_steps,
        LEARNING_RATE,
        regularisation=NO_MIXING | {"layer_decay": LAYER_DECAY},
        seed=seed,
    )
    started = time.process_time()
    train_loss = trainer.train().training_loss
    seconds = time.process_time() - started
    test = MotionClipDataset(*render_motion_clips(TEST, settings.test))
    row = {"choice": selection.choice, "kept": selection.kept, "seed": seed, "train_loss": train_loss}
    row |= {"test": trainer.evaluate(test)["eval_top1"], "train_cpu_seconds": round(seconds, 1)}
    if selection == ALL:
        row["applied"] = {}
        for other in SELECTIONS:
            select_tokens(model, other, seed)
            row["applied"][other.name] = trainer.evaluate(test)["eval_top1"]
    return row


def forward_times() -> dict[str, float]:
    """Median seconds of a forward pass of one clip for each fraction by motion."""
    torch.manual_seed(0)
    config = UMTConfig(**sizes.ENCODERS[TIMED] | {"num_frames": 8, "num_labels": 400})
    model = UMTForVideoClassification(config).eval()
    clip = torch.randn(1, config.num_frames, 3, *config.image_height_width)

    @torch.inference_mode()
    def encode(kept: int) -> torch.Tensor:
        model.config.motion_drop_ratio = (100 - kept) / 100
        return model(clip).logits

    contenders = {f"{kept} %": Contender(partial(encode, kept)) for kept in (100, *KEPT)}
    rows = measure_times(contenders, torch.device("cpu"), rounds=ROUNDS, warmup=1)
    return {name: rows[name]["median_seconds"] for name in contenders}


def measure(settings: Settings, folder: Path, processes: int) -> dict[str, object]:
    """The complete experiment: results of teacher and student, times, and a row for each fine-tuning run."""
    results: dict[str, object] = {"settings": asdict(settings)}
    results["seconds"] = remembered(folder / "times.json", forward_times)
    for name, train in (("teacher", train_motion_teacher), ("student", pretrain)):
        results[name] = remembered(folder / f"{name}.json", partial(train_and_time, train, settings, folder))
        print(name, results[name], flush=True)
    cells = [(selection, seed) for seed in range(settings.seeds) for selection in (ALL, *SELECTIONS)]
    rows = []
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), in_worker) as pool:
        for row in pool.map(partial(finetune, settings=settings, folder=folder), cells):
            print({key: value for key, value in row.items() if key != "applied"}, flush=True)
            rows.append(row)
    return results | {"runs": rows}


def train_and_time(train: Callable[[Settings, Path], float], settings: Settings, folder: Path) -> dict[str, float]:
    started = time.process_time()
    loss = train(settings, folder)
    return {"last_loss": round(loss, 4), "cpu_seconds": round(time.process_time() - started, 1)}


# --- the page --------------------------------------------------------------------------------------------------------


def accuracies(results: dict, choice: str, kept: int) -> dict[str, list[float]]:
    """Test accuracies by seed: fine-tuned with the selection, and applied to the classifier on all tokens."""
    full = [row for row in results["runs"] if row["kept"] == 100]
    if kept == 100:
        return {way: [row["test"] for row in full] for way in ("fine-tuned", "applied")}
    runs = [row for row in results["runs"] if (row["choice"], row["kept"]) == (choice, kept)]
    return {
        "fine-tuned": [row["test"] for row in runs],
        "applied": [row["applied"][f"{choice}-{kept}"] for row in full],
    }


def accuracy_cell(values: list[float]) -> str:
    low, high = interval(values)
    spread = f" ({low:.1f} to {high:.1f})" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


def as_markdown(results: dict) -> str:
    settings, machine = Settings(**results["settings"]), results["environment"]
    seconds, kept_rows = results["seconds"], (100, *KEPT)
    lines = [
        "# Accuracy and time against tokens kept",
        "",
        f"`{results['command']}`, {results['date']}; " + ", ".join(f"{key} {value}" for key, value in machine.items()),
        "",
        f"Top-1 accuracy in percent on {settings.test} generated motion clips of {len(DIRECTIONS)} directions, chance "
        f"level {100 / len(DIRECTIONS):.1f}; mean and 95 % interval over {settings.seeds} seeds. "
        f"{settings.finetune_steps} steps of fine-tuning on {settings.labelled} labelled clips, from one student of "
        f"four layers after {settings.pretrain_steps} steps of stage 1; {POOLING} pooling.",
    ]
    for way, text in (
        ("fine-tuned", "Fine-tuned with the selection"),
        ("applied", "Fine-tuned on all tokens, evaluated with the selection"),
    ):
        header = ["tokens kept", *CHOICES.values()]
        lines += ["", f"{text}:", "", f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
        for kept in kept_rows:
            cells = [accuracy_cell(accuracies(results, choice, kept)[way]) for choice in CHOICES]
            lines.append(f"| {' | '.join([f'{kept} %', *cells])} |")
    lines += [
        "",
        "Seconds of a forward pass on one clip of 8 frames of 224 x 224 pixels, UMT-B/16 with random weights, "
        "selection by motion, median in turns; CPU seconds of a fine-tuning run above, mean:",
        "",
        "| tokens kept | seconds | of all tokens | CPU seconds of fine-tuning |",
        "|---|---|---|---|",
    ]
    for kept in kept_rows:
        runs = [
            row["train_cpu_seconds"] for row in results["runs"] if (row["choice"], row["kept"]) == ("motion", kept)
        ]
        value = seconds[f"{kept} %"]
        lines.append(f"| {kept} % | {value:.3f} | {value / seconds['100 %']:.2f} | {statistics.mean(runs):.0f} |")
    return "\n".join(lines) + "\n"


def draw(results: dict, path: Path) -> None:
    """Draw the mean accuracies against the fraction of the tokens."""
    series = {
        f"{text}, {way}": [
            {"step": kept, "eval_top1": statistics.mean(accuracies(results, choice, kept)[way])}
            for kept in (*reversed(KEPT), 100)
        ]
        for way in ("fine-tuned", "applied")
        for choice, text in CHOICES.items()
    }
    save_picture(draw_curves(series, "Accuracy against tokens kept", axis="tokens kept, %"), path)


def main(arguments: list[str] | None = None) -> None:
    def measure_and_draw(settings: Settings, folder: Path, processes: int) -> dict[str, object]:
        results = measure(settings, folder, processes)
        if settings == Settings():
            draw(results, PICTURE)
        return results

    description = __doc__.splitlines()[0]
    run_experiment("tokens_kept", description, Settings, measure_and_draw, as_markdown, arguments)


if __name__ == "__main__":
    main()
