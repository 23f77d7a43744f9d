"""Comparison of the fine-tuning presets, and of the regularisation of `small_data`, on generated motion clips.

One command generates the clips (`umt_training.demo.motion_clips`: eight directions of motion, which a single frame
does not show), trains a tiny CLIP on their frames and captions, pre-trains a tiny UMT on clips without labels with the
CLIP as teacher (arXiv 2303.16058, section 3), and fine-tunes it with every preset on few labelled clips. All steps use
the package's public classes.

All runs share the teacher and the pre-trained student; a seed determines the labelled clips, the newly initialised
head and the order of the clips. Each preset uses the learning rate of `RATES` with the best validation accuracy for
the first seed; test clips are used for the final evaluation only. `full` and `lora` use the head that reads frames in
temporal order (`pooling="frames"`), `linear` the paper's head, which averages the tokens, and `attentive` attention
pooling.

Layer decay, mixing, label smoothing, weight decay and drop path are those of the recipe `small_data`. A second table
changes one of them at a time (`CHANGES`), for `full` at its chosen learning rate.

    python -m benchmarks.finetuning_presets [--seeds 3] [--finetune-steps 200] [--output FOLDER]

Fine-tuning uses one process of one thread per core, which at this size is faster than one process of many threads.
"""

import multiprocessing
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from modeling_umt import UMTTeacherModel
from umt_training.demo.motion_clips import (
    DIRECTIONS,
    NUM_FRAMES,
    SIZE,
    MotionClipDataset,
    draw_motion_clip,
    render_motion_clips,
    roll_and_jitter,
)
from umt_training.demo.tiny_runs import (
    FINETUNE_BATCH,
    classifier,
    finetuning_trainer,
    labelled_motion_clips,
    pretraining_trainer,
    student_config,
    train_teacher,
)
from umt_training.runs.recipes import read_recipe
from umt_training.trainers.presets import FROZEN_ENCODER, PRESETS, apply_preset, preset_config

from .experiment import in_worker, run_experiment

RATES = {  # candidate peak learning rates
    "full": (5e-4, 1e-3),
    "lora": (1e-3, 3e-3),
    "attentive": (1e-3, 3e-3),
    "linear": (3e-3, 3e-2),
}
RECIPE = read_recipe("small_data")
REGULARISATION = {
    key: RECIPE[key]
    for key in ("layer_decay", "mixup_alpha", "cutmix_alpha", "label_smoothing_factor", "weight_decay")
}
CHANGES: dict[str, dict[str, float]] = {
    "layer_decay 1": {"layer_decay": 1.0},
    "layer_decay 0.5": {"layer_decay": 0.5},
    "mixup_alpha 0.8, cutmix_alpha 1": {"mixup_alpha": 0.8, "cutmix_alpha": 1.0},
    "label_smoothing_factor 0": {"label_smoothing_factor": 0.0},
    "drop_path_rate 0": {"drop_path_rate": 0.0},
}
# Seeds of the splits; labelled clips use `LABELLED` plus the run's seed. They differ from those on which heads,
# learning rates and layer decay were chosen (0 and 1001).
UNLABELLED, VALIDATION, TEST, LABELLED = 1000, 2001, 2002, 3000


@dataclass(frozen=True)
class Settings:
    """Sizes of the experiment; the defaults are those of the committed table."""

    seeds: int = 3
    unlabelled: int = 6000
    labelled: int = 64
    validation: int = 400
    test: int = 800
    teacher_steps: int = 500
    pretrain_steps: int = 1000
    finetune_steps: int = 200


def train_motion_teacher(settings: Settings, folder: Path) -> float:
    """Train a teacher on frames and captions and save it in `folder / "teacher"`; returns the last loss."""
    frames, _ = render_motion_clips(UNLABELLED, settings.unlabelled)
    clips = [draw_motion_clip(UNLABELLED, index) for index in range(settings.unlabelled)]
    captions = [clip.caption(frame) for clip in clips for frame in range(NUM_FRAMES)]
    return train_teacher(frames.reshape(-1, SIZE, SIZE, 3), captions, settings.teacher_steps, folder)


def pretrain(settings: Settings, folder: Path) -> float:
    """Align a student with the teacher and save it in `folder / "student"`; returns the last logged loss."""
    teacher = UMTTeacherModel.from_pretrained(folder / "teacher", attn_implementation="eager")
    frames, _ = render_motion_clips(UNLABELLED, settings.unlabelled)
    trainer = pretraining_trainer(
        teacher,
        MotionClipDataset(frames, transform=roll_and_jitter),
        student_config(SIZE, NUM_FRAMES, teacher.config.projection_dim),
        folder / "student",
        settings.pretrain_steps,
    )
    trainer.train()
    trainer.save_model()
    return [line["loss"] for line in trainer.state.log_history if "loss" in line][-1]


def finetune(run: tuple[str, str | None, float, int], settings: Settings, folder: Path) -> dict[str, object]:
    """Fine-tune the student with a preset; returns accuracies in percent, and the cost.

    Args:
        run: Preset, key of `CHANGES` or None, peak learning rate, seed.
    """
    preset, change, rate, seed = run
    changed = dict(CHANGES[change]) if change else {}
    fields = {"drop_path_rate": changed.pop("drop_path_rate", RECIPE["model"]["drop_path_rate"]), "pooling": "frames"}
    fields |= preset_config(preset)
    # with a frozen encoder only the head is trained, at the peak learning rate
    regularisation = REGULARISATION | ({"layer_decay": 1.0} if preset in FROZEN_ENCODER else {}) | changed
    model = classifier(folder / "student", DIRECTIONS, seed, **fields)
    trainer = finetuning_trainer(
        apply_preset(model, preset),
        labelled_motion_clips(*render_motion_clips(LABELLED + seed, settings.labelled), seed),
        folder / "-".join(map(str, run)),
        settings.finetune_steps,
        rate,
        regularisation=regularisation,
        seed=seed,
    )
    started = time.perf_counter()
    train_loss = trainer.train().training_loss
    seconds = time.perf_counter() - started
    validation, test = (
        trainer.evaluate(MotionClipDataset(*render_motion_clips(split, num_clips)))["eval_top1"]
        for split, num_clips in ((VALIDATION, settings.validation), (TEST, settings.test))
    )
    trainable = sum(parameter.numel() for parameter in trainer.model.parameters() if parameter.requires_grad)
    return {
        "preset": preset,
        "change": change,
        "rate": rate,
        "seed": seed,
        "validation": validation,
        "test": test,
        "train_loss": train_loss,
        "trainable": trainable,
        "seconds": round(seconds, 1),
    }


def measure(settings: Settings, folder: Path, processes: int) -> dict[str, object]:
    """The complete experiment: results of teacher and pre-training, and a row for each fine-tuning run."""
    results: dict[str, object] = {"settings": asdict(settings)}
    for name, train in (("teacher", train_motion_teacher), ("pretraining", pretrain)):
        started = time.perf_counter()
        loss = train(settings, folder)
        results[name] = {"last_loss": round(loss, 4), "seconds": round(time.perf_counter() - started, 1)}
        print(name, results[name], flush=True)

    def finetune_all(runs: list[tuple[str, str | None, float, int]]) -> list[dict[str, object]]:
        rows = []
        for row in pool.map(partial(finetune, settings=settings, folder=folder), runs):
            print(row, flush=True)
            rows.append(row)
        return rows

    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), in_worker) as pool:
        rows = finetune_all([(preset, None, rate, 0) for preset in PRESETS for rate in RATES[preset]])
        chosen = {}
        for preset in PRESETS:
            best = max((row for row in rows if row["preset"] == preset), key=lambda row: row["validation"])
            chosen[preset] = best["rate"]
        seeds = range(settings.seeds)
        rows += finetune_all([(preset, None, chosen[preset], seed) for seed in seeds[1:] for preset in PRESETS])
        rows += finetune_all([("full", change, chosen["full"], seed) for seed in seeds for change in CHANGES])
    return results | {"chosen_rates": chosen, "runs": rows}


def as_markdown(results: dict) -> str:
    settings, machine = Settings(**results["settings"]), results["environment"]
    lines = [
        "# Fine-tuning presets on generated motion clips",
        "",
        f"`{results['command']}`, {results['date']}; " + ", ".join(f"{key} {value}" for key, value in machine.items()),
        "",
        f"Top-1 accuracy in percent on {settings.test} held-out clips of {len(DIRECTIONS)} directions, chance "
        f"{100 / len(DIRECTIONS):.1f}; mean ± standard deviation over {settings.seeds} seeds of labelled clips, newly "
        f"initialised weights and order. {settings.labelled // len(DIRECTIONS)} labelled clips per class, "
        f"{settings.finetune_steps} steps of {FINETUNE_BATCH}; one student of four layers with hidden size 128, after "
        f"{settings.pretrain_steps} steps of alignment on {settings.unlabelled} clips without labels. Learning rates "
        f"were chosen on {settings.validation} validation clips with the first seed.",
        "",
        "| preset | head | trainable parameters | learning rate | top-1 | each seed | validation | seconds per run |",
        "|---|---|---|---|---|---|---|---|",
    ]

    def rows_of(preset: str, change: str | None) -> list[dict]:
        chosen = (preset, change, results["chosen_rates"][preset])
        return [row for row in results["runs"] if (row["preset"], row["change"], row["rate"]) == chosen]

    for preset in PRESETS:
        rows = rows_of(preset, None)
        cells = [
            preset,
            FROZEN_ENCODER.get(preset, "frames"),
            f"{rows[0]['trainable']:,}",
            f"{rows[0]['rate']:g}",
            *accuracy_cells(rows),
            f"{statistics.mean(row['seconds'] for row in rows):.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        f"`full` with learning rate {results['chosen_rates']['full']:g} and one value of the recipe `small_data` "
        "changed. The recipe has "
        f"{', '.join(f'{key} {value:g}' for key, value in (REGULARISATION | RECIPE['model']).items())}.",
        "",
        "| changed | top-1 | each seed | validation |",
        "|---|---|---|---|",
    ]
    for change in (None, *CHANGES):
        lines.append(f"| {change or 'nothing'} | {' | '.join(accuracy_cells(rows_of('full', change)))} |")
    teacher, student = results["teacher"], results["pretraining"]
    lines += [
        "",
        f"The teacher reached a contrastive loss of {teacher['last_loss']:.2f} in {teacher['seconds']:.0f} s. "
        f"Pre-training reduced the alignment loss from 2 to {student['last_loss']:.3f} in {student['seconds']:.0f} s.",
    ]
    return "\n".join(lines) + "\n"


def accuracy_cells(rows: list[dict]) -> list[str]:
    """Mean and standard deviation of the test accuracy, its value for each seed, and the mean validation accuracy."""
    tests = [row["test"] for row in sorted(rows, key=lambda row: row["seed"])]
    spread = f" ± {statistics.stdev(tests):.1f}" if len(tests) > 1 else ""
    return [
        f"{statistics.mean(tests):.1f}{spread}",
        " / ".join(f"{test:.1f}" for test in tests),
        f"{statistics.mean(row['validation'] for row in rows):.1f}",
    ]


def main(arguments: list[str] | None = None) -> None:
    run_experiment("finetuning_presets", __doc__.splitlines()[0], Settings, measure, as_markdown, arguments)


if __name__ == "__main__":
    main()
