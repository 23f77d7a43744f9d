"""Ablations of stage 1 at toy scale, with the clips and networks of `umt demo` (ablations of arXiv 2303.16058).

    python -m benchmarks.demo_ablations masking|masks|target [--seeds 3] [--output FOLDER]

One choice of stage 1 is varied, over several seeds. Teacher and unlabelled clips are shared; a seed determines
everything else: masks, initial weights of the student, order of the clips, labelled clips, head. All variants get the
same number of student views, except pixel reconstruction (VideoMAE, arXiv 2203.12602): it gets the CPU time of the
alignment, including the training of the teacher. Each variant uses the learning rate of fine-tuning (for `target` also
the layer-wise decay) that is best on validation clips with the first seed; test clips are used for the final
evaluation only.

Intervals are Student's 95 % intervals over seeds; with few seeds they are wide.
"""

import argparse
import itertools
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import TrainerCallback

from modeling_umt import UMTConfig, UMTForMaskedModeling
from umt_training.demo.arms import LAYER_DECAY, ArmRun, finetune, load_demo_teacher, pretrain
from umt_training.demo.data import DemoClips, demo_processor
from umt_training.demo.demo import DemoSettings, check_start, prepare_clips, train_teacher_step
from umt_training.demo.motion_clips import NUM_FRAMES
from umt_training.demo.tiny_runs import callbacks, pretraining_arguments, pretraining_trainer, student_config
from umt_training.demo.worker_pool import WorkerPool
from umt_training.trainers.masked_modeling import UMTMaskedModelingArguments, UMTMaskedModelingTrainer

from .harness import environment, write

PIXELS = "pixels"
# ablation → name of a variant → options of `pretraining_trainer`; `PIXELS` has its own trainer
ABLATIONS: dict[str, dict[str, dict[str, Any]]] = {
    "masking": {
        "attention": {"mask_type": "attention"},
        "random": {"mask_type": "random"},
        "tube": {"mask_type": "tube"},
        "motion": {"mask_type": "motion"},
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
    "masking": "Token selection of stage 1",
    "masks": "Masks per forward pass of the teacher, at equal student views",
    "target": "Teacher features of visible tokens, or pixels of masked tokens, at equal CPU time",
}
PRETRAIN_STEPS = 1000  # more than the demo's stage 1
MEASURED_STEPS = 30  # of which the later half counts
# 97.5 % quantiles of Student's t distribution, by degrees of freedom
T_QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


def run_ablation(ablation: str, settings: DemoSettings, folder: Path) -> dict[str, Any]:
    """Run an ablation in a new folder, print its table, and return the content of `results.json`.

    Args:
        ablation: A key of `ABLATIONS`.
        settings: `seeds` is the number of seeds of each variant. The teacher is trained and the clips are generated.

    Raises:
        ValueError: for less than one or more than ten seeds, or a folder that is not empty.
    """
    if not 1 <= settings.seeds <= len(T_QUANTILES) + 1:
        raise ValueError(f"The number of seeds is {settings.seeds}; expected 1 to {len(T_QUANTILES) + 1}.")
    check_start(settings, folder)
    with WorkerPool(folder / "logs") as pool:
        clips = prepare_clips(settings, folder, pool)
        teacher, costs = train_teacher_step(settings, folder, pool)
        steps = dict.fromkeys(ABLATIONS[ablation], settings.pretrain_steps)
        if PIXELS in steps:
            steps[PIXELS] = pixel_steps(teacher, costs["teacher"]["cpu_seconds"], settings.pretrain_steps, clips, pool)
        rows = run_variants(ABLATIONS[ablation], steps, teacher, settings, clips, folder, pool)
        seconds = pool.elapsed()
    clips.frames_file.unlink()
    results = {
        "ablation": ablation,
        "environment": environment(torch.device("cpu")),
        "settings": asdict(settings),
        "seconds": round(seconds),
        "runs": rows,
    }
    write(folder, "results", results, as_markdown(results, clips))
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
    """Stage 1 and fine-tuning of every variant and seed; returns the rows at the chosen learning rates.

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
    # the default decay was chosen for aligned layers; layers trained on pixels may need to change more
    decays = (LAYER_DECAY, 1.0) if PIXELS in variants else (LAYER_DECAY,)
    chosen: dict[str, tuple[float, float]] = {}
    rows = []
    for (name, seed), student in students.items():
        stage1 = student.result()
        start = folder / f"student-{name.replace(' ', '-')}-{seed}"
        choices = [chosen[name]] if name in chosen else list(itertools.product(settings.rates, decays))
        tried = [
            pool.submit(
                f"{name}, learning rate {rate:g}, layer decay {decay:g}, seed {seed}",
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
        pool.say(f"{name}, seed {seed}: stage-1 loss {stage1.value['loss']:.3f}, test top-1 {best['test']:.1f} %")
    return rows


# --- pixel reconstruction at equal CPU time --------------------------------------------------------------------------


def pixel_steps(teacher: str, teacher_seconds: float, alignment_steps: int, clips: DemoClips, pool: WorkerPool) -> int:
    """Steps of pixel reconstruction in the CPU time of the alignment and of the teacher's training."""
    measured = pool.submit("seconds per step", measure_steps, clips, teacher, alignment_steps).result()
    alignment, pixels = measured.value
    num_steps = max(1, round((alignment_steps * alignment + teacher_seconds) / pixels))
    pool.say(
        f"CPU seconds per step: alignment {alignment:.3f}, pixels {pixels:.3f}. Pixel reconstruction gets {num_steps} "
        f"steps, the time of {alignment_steps} steps of alignment and {teacher_seconds:.1f} s of teacher training"
    )
    return num_steps


def pixel_trainer(
    train_dataset: Dataset,
    config: UMTConfig,
    output_dir: Path,
    num_steps: int,
    *,
    seed: int = 0,
    on_step: Callable[..., None] | None = None,
) -> UMTMaskedModelingTrainer:
    """The counterpart of `pretraining_trainer`: the pixels of tokens hidden by a tube mask, as in VideoMAE, with as
    many views per step, one per clip, and the same learning rate and schedule."""
    torch.manual_seed(seed)
    fields = {
        "masked_targets": {PIXELS: config.num_channels * config.tubelet_size * config.patch_size**2},
        "masked_loss": "mse",
        "normalize_targets": True,
        # VideoMAE's decoder has half of the encoder's hidden size and a third of its blocks
        "decoder_hidden_size": config.hidden_size // 2,
        "decoder_num_attention_heads": config.num_attention_heads // 2,
        "decoder_num_hidden_layers": 2,
        "decoder_projection_bias": False,
    }
    model = UMTForMaskedModeling(UMTConfig.from_dict(config.to_dict(), **fields))
    model.set_attn_implementation("eager")
    args = pretraining_arguments(
        output_dir, num_steps, num_masks=1, seed=seed, arguments=UMTMaskedModelingArguments, mask_ratio=0.8
    )
    return UMTMaskedModelingTrainer(model, None, args, train_dataset=train_dataset, callbacks=callbacks(on_step))


def measure_steps(clips: DemoClips, teacher: str, num_steps: int, on_step: Callable[..., None]) -> tuple[float, float]:
    """CPU seconds per step of alignment and of pixel reconstruction, at the start of runs of `num_steps` steps; a task
    of a worker."""
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
    """Records the process's CPU time at the start and after each step, and ends the run after `MEASURED_STEPS`."""

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
    """Pixel reconstruction in place of `pretrain`; only the encoder is saved in `folder`.

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


def as_markdown(results: dict[str, Any], clips: DemoClips) -> str:
    """Markdown page of an ablation: environment, one row per variant, and how the figures were measured."""
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
    lines = [f"# {TITLES[results['ablation']]}", ""]
    lines += [", ".join(f"{key} {value}" for key, value in results["environment"].items()), ""]
    lines += [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    for name in ABLATIONS[results["ablation"]]:
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
    settings = results["settings"]
    lines += [
        "",
        f"Top-1 accuracy on {len(clips.splits['test'])} test clips, chance level {100 / len(clips.class_names):.1f}; "
        f"{settings['seeds']} seeds; {settings['finetune_steps']} steps of fine-tuning on "
        f"{len(clips.splits['labelled-0'])} labelled clips. Learning rate and layer decay are those of fine-tuning, "
        "chosen on validation clips with the first seed where there are several candidates.",
    ]
    if PIXELS in ABLATIONS[results["ablation"]]:
        lines += [
            "",
            "The two losses are not comparable. Batch size, learning rate and schedule of stage 1 were chosen for the "
            "alignment.",
        ]
    return "\n".join(lines) + "\n"


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Student's 95 % interval of a mean of percentages, clipped to 0 and 100."""
    mean = statistics.mean(values)
    if len(values) < 2:
        return mean, mean
    half = T_QUANTILES[len(values) - 2] * statistics.stdev(values) / math.sqrt(len(values))
    return max(0.0, mean - half), min(100.0, mean + half)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ablation", choices=ABLATIONS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="folder of the run, new or empty (default: ablation-<name>)")
    options = parser.parse_args(arguments)
    settings = DemoSettings(seeds=options.seeds, long_seeds=0, pretrain_steps=PRETRAIN_STEPS)
    run_ablation(options.ablation, settings, options.output or Path(f"ablation-{options.ablation}"))


if __name__ == "__main__":
    main()
