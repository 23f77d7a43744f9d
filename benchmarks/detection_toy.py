"""Action detection on generated scenes, from a motion classifier and from scratch, with true and shifted boxes.

A tiny classifier learns the direction of a single figure from many clips. Action detection is then trained on few
scenes of several figures that move differently (`benchmarks.detection_scenes`), each figure labelled with its
direction: once started from the classifier, once from random weights, by `umt finetune` with the same steps and
learning rate. Test scenes are evaluated as by `umt evaluate --task detection`:

- with the annotated boxes;
- with boxes shifted by a quarter of their width, left or right, whose IoU with the annotated ones is 0.6;
- with the annotated boxes, but every figure's label exchanged for that of another figure of its scene. A model that
  recognises the motions of a scene without telling whose they are would do as well as with the true labels.

The chance level is the mean over ten draws of random scores on the same boxes. Each figure has one of eight
directions, so that it is close to 12.5 %.

    python -m benchmarks.detection_toy [--seeds 2] [--detection-steps 1600] [--output FOLDER]

Runs of action detection take one process of one thread per core.
"""

import dataclasses
import multiprocessing
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modeling_umt import UMTConfig, UMTForActionDetection, UMTForVideoClassification, UMTModel
from processing_umt import UMTVideoProcessor
from processing_umt.detection_augmentation_umt import augment_for_detection
from umt_training import finetune
from umt_training.data.action_records import load_annotated_actions
from umt_training.data.ava_csv import ActionTable
from umt_training.data.key_frames import KeyFrame
from umt_training.demo.motion_clips import DIRECTIONS, NUM_FRAMES, MotionClipDataset
from umt_training.demo.tiny_runs import NO_MIXING, finetuning_trainer
from umt_training.evaluation.detection import evaluate_detection
from umt_training.evaluation.detection_metrics import frame_map
from umt_training.evaluation.detection_set import DetectionSet, detection_set

from .detection_scenes import FPS, SIDE, render_single_figures, write_scenes
from .experiment import in_worker, run_experiment

CROP = 40  # pixels; the processor's frames are 8/7 of it, the size of the scenes
SEEDS = {"classifier": 4000, "classifier test": 4001, "scenes": 4100, "test scenes": 4200}
STARTS = {"motion classifier": 0.75, "from scratch": 1.0}  # layer decay: nothing in random layers is to be kept
CLASSIFIER_RATE, CLASSIFIER_BATCH = 1e-3, 32  # with a batch of 16 the loss stays at that of chance for 500 steps
DETECTION_RATE = 1e-3  # peak learning rate of both starts
SHIFT = 0.25  # of the width of a box
NUM_DRAWS = 10  # of random scores


@dataclass(frozen=True)
class Settings:
    """Sizes of the experiment; the defaults are those of the committed table."""

    seeds: int = 2
    clips: int = 3000
    classifier_steps: int = 700
    scenes: int = 500
    figures: int = 3
    test_scenes: int = 150
    detection_steps: int = 1600


def tiny_config(**fields: Any) -> UMTConfig:
    side = CROP // 8
    return UMTConfig(
        image_size=CROP,
        patch_size=8,
        num_frames=NUM_FRAMES,
        tubelet_size=2,  # so that a token contains the motion between two frames
        hidden_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=256,
        position_grid=[NUM_FRAMES // 2, side, side],
        initializer_range=64**-0.5,  # 0.02 suits hidden sizes near 1000
        num_aligned_layers=1,
        **fields,
    )


# --- training -------------------------------------------------------------------------------------------------------


def single_view(frames: np.ndarray, generator: np.random.Generator, processor: UMTVideoProcessor) -> torch.Tensor:
    """The training transform of action detection, without boxes."""
    statistics = {"image_mean": processor.image_mean, "image_std": processor.image_std}
    no_boxes = torch.zeros(0, 4)
    clip, _ = augment_for_detection(frames, no_boxes, generator, size=CROP, short_side=SIDE, flip=False, **statistics)
    return clip


def train_classifier(settings: Settings, folder: Path) -> dict[str, float]:
    """Trains the motion classifier and saves it in `folder / "motion classifier"`, and a random encoder of its size in
    `folder / "from scratch"`; returns the accuracy on held-out clips, and the time."""
    started = time.perf_counter()
    torch.manual_seed(0)
    names = {"id2label": dict(enumerate(DIRECTIONS)), "label2id": {name: i for i, name in enumerate(DIRECTIONS)}}
    model = UMTForVideoClassification(tiny_config(**names))
    model.set_attn_implementation("eager")  # faster on a CPU at this size
    UMTModel(tiny_config()).save_pretrained(folder / "from scratch")
    transform = partial(single_view, processor=UMTVideoProcessor.for_action_detection(model.config))
    trainer = finetuning_trainer(
        model,
        MotionClipDataset(*render_single_figures(SEEDS["classifier"], settings.clips), transform),
        folder / "motion classifier",
        settings.classifier_steps,
        CLASSIFIER_RATE,
        batch_size=CLASSIFIER_BATCH,
        regularisation=NO_MIXING | {"label_smoothing_factor": 0.0, "layer_decay": 1.0},
    )
    trainer.train()
    held_out = render_single_figures(SEEDS["classifier test"], max(8, settings.clips // 10))
    accuracy = trainer.evaluate(MotionClipDataset(*held_out, transform, seed=1))["eval_top1"]
    trainer.save_model()
    return {"accuracy": accuracy, "seconds": round(time.perf_counter() - started, 1)}


def detect(run: tuple[str, int], settings: Settings, folder: Path) -> dict[str, Any]:
    """Trains action detection from a start with a seed and evaluates it on the test scenes."""
    start, seed = run
    started = time.perf_counter()
    output = folder / f"{start}-{seed}"
    batch = min(8, settings.scenes)
    recipe = {
        "task": "detection",
        "data": str(folder / f"scenes-{seed}"),
        "init_from": str(folder / start),
        "frame_stride": 1,
        "sampling_fps": float(FPS),
        "flip": False,
        "max_steps": settings.detection_steps,
        "warmup_steps": max(1, settings.detection_steps // 10),
        "per_device_train_batch_size": batch,
        "base_learning_rate": DETECTION_RATE * 256 / batch,
        "base_min_learning_rate": 0.0,
        "layer_decay": STARTS[start],
        "weight_decay": 0.05,
        "dataloader_num_workers": 0,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": seed,
    }
    trainer = finetune(recipe, ["--output_dir", str(output)])
    seconds = time.perf_counter() - started
    maps = evaluate(trainer.model, trainer.processing_class, folder / "test scenes")
    losses = [line["train_loss"] for line in trainer.state.log_history if "train_loss" in line]
    return {"start": start, "seed": seed, "seconds": round(seconds, 1), "train_loss": losses[-1], **maps}


# --- evaluation -----------------------------------------------------------------------------------------------------


def evaluate(model: UMTForActionDetection, processor: UMTVideoProcessor, scenes: Path) -> dict[str, float]:
    """mAP of a model on the test scenes, with true and shifted boxes and exchanged labels."""
    true, shifted = test_set(scenes), test_set(scenes, are_shifted=True)
    score = partial(evaluate_detection, model, processor, num_workers=0)
    with_true = score(true)
    exchanged = dataclasses.replace(true, annotations=exchange_labels(true.annotations))
    return {
        "true": with_true.result.map50,
        "shifted": score(shifted).result.map50,
        "exchanged": map_of(exchanged, with_true.detections),
    }


def test_set(scenes: Path, are_shifted: bool = False) -> DetectionSet:
    """The test scenes, with their annotated boxes or with shifted ones as detected persons."""
    actions = load_annotated_actions(scenes, class_names=DIRECTIONS)
    data = detection_set(actions, scenes)
    if not are_shifted:
        return data
    return detection_set(actions, scenes, detected=[shift(pair.annotated) for pair in data.persons])


def shift(key_frame: KeyFrame) -> KeyFrame:
    """The persons of a key frame with boxes shifted by a quarter of their width, alternately left and right."""
    boxes = key_frame.boxes.copy()
    signs = np.where(np.arange(len(boxes)) % 2, 1.0, -1.0)
    boxes[:, [0, 2]] += (SHIFT * signs * (boxes[:, 2] - boxes[:, 0]))[:, None]
    return dataclasses.replace(key_frame, boxes=boxes, scores=np.ones(len(boxes)))


def exchange_labels(annotations: ActionTable) -> ActionTable:
    """Annotations in which every figure has the action of the next figure of its scene."""
    actions = annotations.actions.copy()
    for video in range(len(annotations.videos)):
        rows = np.flatnonzero(annotations.video == video)
        actions[rows] = np.roll(actions[rows], 1)
    return dataclasses.replace(annotations, actions=actions)


def map_of(data: DetectionSet, detections: ActionTable) -> float:
    return frame_map(data.annotations, detections, data.label_map).map50


def chance_levels(folder: Path) -> dict[str, float]:
    """mAP of random scores on true and shifted boxes, and with exchanged labels; a mean over draws."""
    model = UMTForActionDetection(tiny_config(num_labels=len(DIRECTIONS)))
    processor = UMTVideoProcessor.for_action_detection(model.config)
    processor.frame_stride, processor.sampling_fps = 1, FPS
    levels = {}
    for name, are_shifted in (("true", False), ("shifted", True)):
        data = test_set(folder / "test scenes", are_shifted)
        table = evaluate_detection(model, processor, data, num_workers=0).detections
        generator = np.random.default_rng(0)
        draws = [dataclasses.replace(table, scores=generator.random(len(table))) for _ in range(NUM_DRAWS)]
        levels[name] = statistics.mean(map_of(data, draw) for draw in draws)
        if not are_shifted:
            exchanged = dataclasses.replace(data, annotations=exchange_labels(data.annotations))
            levels["exchanged"] = statistics.mean(map_of(exchanged, draw) for draw in draws)
    return levels


# --- the experiment -------------------------------------------------------------------------------------------------


def measure(settings: Settings, folder: Path, processes: int) -> dict[str, Any]:
    """The complete experiment: results of the classifier, a row for each run of action detection, chance levels."""
    started = time.perf_counter()
    results: dict[str, Any] = {"settings": asdict(settings)}
    results["classifier"] = train_classifier(settings, folder)
    print("classifier", results["classifier"], flush=True)
    write_scenes(folder / "test scenes", SEEDS["test scenes"], settings.test_scenes, settings.figures)
    for seed in range(settings.seeds):
        write_scenes(folder / f"scenes-{seed}", SEEDS["scenes"] + seed, settings.scenes, settings.figures)
    rows = []
    runs = [(start, seed) for seed in range(settings.seeds) for start in STARTS]
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), in_worker) as pool:
        for row in pool.map(partial(detect, settings=settings, folder=folder), runs):
            print(row, flush=True)
            rows.append(row)
    results |= {"runs": rows, "chance": chance_levels(folder)}
    return results | {"seconds": round(time.perf_counter() - started, 1)}


COLUMNS = {
    "true": "annotated boxes",
    "shifted": f"boxes shifted by {SHIFT:g} of their width",
    "exchanged": "labels of another figure",
}


def as_markdown(results: dict[str, Any]) -> str:
    settings, machine, classifier = Settings(**results["settings"]), results["environment"], results["classifier"]
    lines = [
        "# Action detection on generated scenes",
        "",
        f"`{results['command']}`, {results['date']}; " + ", ".join(f"{key} {value}" for key, value in machine.items()),
        "",
        f"Frame mAP at IoU 0.5 in percent on {settings.test_scenes} held-out scenes of {settings.figures} figures, "
        f"whose actions are {len(DIRECTIONS)} directions of motion; mean over {settings.seeds} seeds (each seed) of "
        f"training scenes, order and newly initialised weights. {settings.scenes} training scenes, "
        f"{settings.detection_steps} steps of {min(8, settings.scenes)}. The motion classifier, trained on "
        f"{settings.clips} clips of one figure, has a top-1 accuracy of {classifier['accuracy']:.1f} % (chance "
        f"{100 / len(DIRECTIONS):.1f}).",
        "",
        f"| start | {' | '.join(COLUMNS.values())} | seconds per run |",
        f"|---|{'---|' * len(COLUMNS)}---|",
    ]
    for start in STARTS:
        rows = [row for row in results["runs"] if row["start"] == start]
        cells = [
            f"{statistics.mean(row[name] for row in rows):.1f} ({' / '.join(f'{row[name]:.1f}' for row in rows)})"
            for name in COLUMNS
        ]
        seconds = statistics.mean(row["seconds"] for row in rows)
        lines.append(f"| {start} | {' | '.join(cells)} | {seconds:.0f} |")
    chance = [f"{results['chance'][name]:.1f}" for name in COLUMNS]
    lines.append(f"| chance | {' | '.join(chance)} | |")
    lines += ["", f"The whole command took {results['seconds']:.0f} s."]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> None:
    run_experiment("detection_toy", __doc__.splitlines()[0], Settings, measure, as_markdown, arguments)


if __name__ == "__main__":
    main()
