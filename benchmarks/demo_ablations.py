"""Ablations of stage 1 at toy scale, with the clips and networks of `umt demo` (ablations of arXiv 2303.16058).

    python -m benchmarks.demo_ablations masking|masks|target [--seeds 3] [--output FOLDER]

One choice of stage 1 is varied, over several seeds (`demo_variants`). All variants get the same number of student
views, except pixel reconstruction: it gets the CPU time of the alignment, including the training of the teacher. Rates
of fine-tuning are chosen for each variant, for `target` also the layer-wise decay.
"""

import argparse
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from modeling_umt import UMTConfig
from umt_training.demo.arms import LAYER_DECAY, load_demo_teacher, pretrain
from umt_training.demo.data import DemoClips, demo_processor
from umt_training.demo.demo import DemoSettings, prepare_clips, train_teacher_step
from umt_training.demo.motion_clips import NUM_FRAMES
from umt_training.demo.tiny_runs import loss_curve, pretraining_trainer, student_config
from umt_training.demo.worker_pool import WorkerPool
from umt_training.trainers.masked_modeling import UMTMaskedModelingTrainer

from .demo_variants import (
    Variant,
    describe_evaluation,
    masked_trainer,
    run_variants,
    seconds_per_step,
    start,
    variants_table,
)
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


def run_ablation(ablation: str, settings: DemoSettings, folder: Path) -> dict[str, Any]:
    """Run an ablation in a new folder, print its table, and return the content of `results.json`.

    Args:
        ablation: A key of `ABLATIONS`.
        settings: `seeds` is the number of seeds of each variant. The teacher is trained and the clips are generated.

    Raises:
        ValueError: for less than one or more than ten seeds, or a folder that is not empty.
    """
    start(settings, folder)
    with WorkerPool(folder / "logs") as pool:
        clips = prepare_clips(settings, folder, pool)
        teacher, costs = train_teacher_step(settings, folder, pool)
        steps = dict.fromkeys(ABLATIONS[ablation], settings.pretrain_steps)
        if PIXELS in steps:
            steps[PIXELS] = pixel_steps(teacher, costs["teacher"]["cpu_seconds"], settings.pretrain_steps, clips, pool)
        variants = {
            name: Variant(
                partial(reconstruct, clips) if name == PIXELS else partial(pretrain, clips, teacher),
                steps[name],
                options,
            )
            for name, options in ABLATIONS[ablation].items()
        }
        # the default decay was chosen for aligned layers; layers trained on pixels may need to change more
        decays = (LAYER_DECAY, 1.0) if PIXELS in variants else (LAYER_DECAY,)
        rows = run_variants(variants, decays, settings, clips, folder, pool)
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
    return masked_trainer(
        UMTConfig.from_dict(config.to_dict(), **fields),
        None,
        train_dataset,
        output_dir,
        num_steps,
        seed=seed,
        on_step=on_step,
        mask_ratio=0.8,
    )


def measure_steps(clips: DemoClips, teacher: str, num_steps: int, on_step: Callable[..., None]) -> tuple[float, float]:
    """CPU seconds per step of alignment and of pixel reconstruction, at the start of runs of `num_steps` steps; a task
    of a worker."""
    dataset, model = clips.for_pretraining(0), load_demo_teacher(teacher)
    config = student_config(clips.side, NUM_FRAMES, model.config.projection_dim)
    makers = [
        lambda folder: pretraining_trainer(model, dataset, config, folder, num_steps),
        lambda folder: pixel_trainer(dataset, config, folder, num_steps),
    ]
    return seconds_per_step(makers, on_step)


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
    return loss_curve(trainer)


# --- the table -------------------------------------------------------------------------------------------------------


def as_markdown(results: dict[str, Any], clips: DemoClips) -> str:
    """Markdown page of an ablation: environment, one row per variant, and how the figures were measured."""
    names = list(ABLATIONS[results["ablation"]])
    lines = variants_table(TITLES[results["ablation"]], results, names)
    lines += ["", describe_evaluation(results["settings"], clips)]
    if PIXELS in names:
        lines += [
            "",
            "The two losses are not comparable. Batch size, learning rate and schedule of stage 1 were chosen for the "
            "alignment.",
        ]
    return "\n".join(lines) + "\n"


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
