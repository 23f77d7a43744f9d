"""Variants of pre-training with the clips and networks of `umt demo`, each pre-trained and fine-tuned over several
seeds; `demo_ablations` defines them. `co_teaching` shares the trainer of masked modelling, the steps in equal time and
the intervals.

Clips and teachers are shared; a seed determines everything else: masks, initial weights of the student, order of the
clips, labelled clips, head. Each variant uses the learning rate and the layer-wise decay of fine-tuning that are best
on validation clips with the first seed; test clips are used for the final evaluation only.

Intervals are Student's 95 % intervals over seeds; with few seeds they are wide.
"""

import itertools
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback

from modeling_umt import UMTConfig, UMTForMaskedModeling
from umt_training.demo.arms import ArmRun, finetune
from umt_training.demo.data import DemoClips
from umt_training.demo.demo import DemoSettings, check_start
from umt_training.demo.tiny_runs import OnStep, callbacks, pretraining_arguments
from umt_training.demo.worker_pool import WorkerPool
from umt_training.trainers.masked_modeling import UMTMaskedModelingArguments, UMTMaskedModelingTrainer

MEASURED_STEPS = 30  # of which the later half counts
# 97.5 % quantiles of Student's t distribution, by degrees of freedom
T_QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


@dataclass(frozen=True)
class Variant:
    """One way of pre-training.

    Args:
        task: A task of a worker, from steps, folder and options to the result of `arms.pretrain`.
        steps: Optimiser steps.
        options: Options of the task beside `seed`.
    """

    task: Callable[..., dict[str, Any]]
    steps: int
    options: dict[str, Any] = field(default_factory=dict)


def start(settings: DemoSettings, folder: Path) -> None:
    """Create the folder of a run.

    Raises:
        ValueError: for less than one or more than ten seeds, or a folder that is not empty.
    """
    if not 1 <= settings.seeds <= len(T_QUANTILES) + 1:
        raise ValueError(f"The number of seeds is {settings.seeds}; expected 1 to {len(T_QUANTILES) + 1}.")
    check_start(settings, folder)


def run_variants(
    variants: Mapping[str, Variant],
    decays: Sequence[float],
    settings: DemoSettings,
    clips: DemoClips,
    folder: Path,
    pool: WorkerPool,
) -> list[dict[str, Any]]:
    """Pre-training and fine-tuning of every variant and seed; returns the rows at the chosen learning rates.

    Args:
        variants: By name.
        decays: Candidate layer-wise decays of fine-tuning; the candidate rates are those of `settings`.
    """
    students = {
        (name, seed): pool.submit(
            f"{name}, stage 1, seed {seed}",
            variant.task,
            variant.steps,
            folder / f"student-{name.replace(' ', '-')}-{seed}",
            variant.options | {"seed": seed},
        )
        for seed in range(settings.seeds)
        for name, variant in variants.items()
    }
    chosen: dict[str, tuple[float, float]] = {}
    rows = []
    for (name, seed), student in students.items():
        stage1 = student.result()
        source = folder / f"student-{name.replace(' ', '-')}-{seed}"
        choices = [chosen[name]] if name in chosen else list(itertools.product(settings.rates, decays))
        tried = [
            pool.submit(
                f"{name}, learning rate {rate:g}, layer decay {decay:g}, seed {seed}",
                finetune,
                ArmRun(name, source, settings.finetune_steps, rate, seed, decay),
                clips,
                folder / "runs" / f"{source.name}-rate-{rate:g}-decay-{decay:g}",
            )
            for rate, decay in choices
        ]
        results = [run.result().value | {"layer_decay": decay} for run, (_, decay) in zip(tried, choices, strict=True)]
        best = max(results, key=lambda row: row["validation"])
        chosen.setdefault(name, (best["rate"], best["layer_decay"]))
        cost = {
            "stage1_steps": variants[name].steps,
            "stage1_loss": stage1.value["loss"],
            "stage1_cpu_seconds": round(stage1.cpu_seconds, 1),
        }
        rows.append({key: value for key, value in best.items() if key != "curve"} | cost)
        pool.say(f"{name}, seed {seed}: stage-1 loss {stage1.value['loss']:.3f}, test top-1 {best['test']:.1f} %")
    return rows


# --- masked modelling, and steps in equal CPU time -------------------------------------------------------------------


def masked_trainer(
    config: UMTConfig,
    teachers: Mapping[str, nn.Module] | None,
    train_dataset: Dataset,
    output_dir: Path,
    num_steps: int,
    *,
    seed: int = 0,
    on_step: OnStep | None = None,
    divisor: int = 1,
    **masks: Any,
) -> UMTMaskedModelingTrainer:
    """The counterpart of `tiny_runs.pretraining_trainer` for masked modelling: as many views per step, one per clip,
    with the same learning rate and schedule.

    Args:
        config: Of the student, with its `masked_targets`.
        divisor: Of the batch size, and with it of the learning rate.
        masks: `mask_type` and `mask_ratio` of the arguments.
    """
    torch.manual_seed(seed)
    student = UMTForMaskedModeling(config)
    student.set_attn_implementation("eager")
    args = pretraining_arguments(
        output_dir, num_steps, num_masks=divisor, seed=seed, arguments=UMTMaskedModelingArguments, **masks
    )
    return UMTMaskedModelingTrainer(student, teachers, args, train_dataset=train_dataset, callbacks=callbacks(on_step))


def seconds_per_step(makers: Sequence[Callable[[Path], Trainer]], on_step: Callable[..., None]) -> tuple[float, ...]:
    """CPU seconds per step at the start of runs; called in a worker.

    Args:
        makers: Each makes a trainer that writes to a folder.
    """
    seconds = []
    for done, make_trainer in enumerate(makers, 1):
        watch = StopWatch()
        with TemporaryDirectory() as folder:
            trainer = make_trainer(Path(folder))
            trainer.add_callback(watch)
            trainer.train()
        steps = [later - earlier for earlier, later in itertools.pairwise(watch.times)]
        seconds.append(statistics.median(steps[len(steps) // 2 :]))
        on_step(done, len(makers))
    return tuple(seconds)


class StopWatch(TrainerCallback):
    """Records the process's CPU time at the start and after each step, and ends the run after `MEASURED_STEPS`."""

    def __init__(self):
        self.times: list[float] = []

    def on_train_begin(self, args, state, control, **kwargs):
        self.times.append(time.process_time())

    def on_step_end(self, args, state, control, **kwargs):
        self.times.append(time.process_time())
        control.should_training_stop |= state.global_step >= MEASURED_STEPS


# --- the table -------------------------------------------------------------------------------------------------------


def variants_table(title: str, results: dict[str, Any], names: Sequence[str]) -> list[str]:
    """Lines of a Markdown page: title, environment, and a row per variant.

    Args:
        results: `environment`, and the rows of `run_variants` as `runs`.
        names: The variants.
    """
    header = (
        "variant",
        "top-1, %",
        "95 % interval",
        "each seed",
        "stage-1 loss",
        "stage-1 steps",
        "stage-1 CPU seconds",
        "learning rate",
        "layer decay",
    )
    lines = [f"# {title}", "", ", ".join(f"{key} {value}" for key, value in results["environment"].items()), ""]
    lines += [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    for name in names:
        runs = [row for row in results["runs"] if row["arm"] == name]
        tests = [row["test"] for row in runs]
        low, high = interval(tests)
        cells = (
            name,
            f"{statistics.mean(tests):.1f}",
            f"{low:.1f} to {high:.1f}" if len(tests) > 1 else "",
            " / ".join(f"{test:.1f}" for test in tests),
            f"{statistics.mean(row['stage1_loss'] for row in runs):.3f}",
            f"{runs[0]['stage1_steps']}",
            f"{statistics.mean(row['stage1_cpu_seconds'] for row in runs):.0f}",
            f"{runs[0]['rate']:g}",
            f"{runs[0]['layer_decay']:g}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def describe_evaluation(settings: Mapping[str, Any], clips: DemoClips) -> str:
    """How the figures of `variants_table` were measured."""
    return (
        f"Top-1 accuracy on {len(clips.splits['test'])} test clips, chance level {100 / len(clips.class_names):.1f}; "
        f"{settings['seeds']} seeds; {settings['finetune_steps']} steps of fine-tuning on "
        f"{len(clips.splits['labelled-0'])} labelled clips. Learning rate and layer decay are those of fine-tuning, "
        "chosen on validation clips with the first seed where there are several candidates."
    )


def interval(values: Sequence[float], lowest: float = 0.0, highest: float = 100.0) -> tuple[float, float]:
    """Student's 95 % interval of a mean, clipped to the range of the values; by default that of percentages."""
    mean = statistics.mean(values)
    if len(values) < 2:
        return mean, mean
    half = T_QUANTILES[len(values) - 2] * statistics.stdev(values) / math.sqrt(len(values))
    return max(lowest, mean - half), min(highest, mean + half)
