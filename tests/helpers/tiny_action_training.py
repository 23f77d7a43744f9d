"""A tiny action detection model, and folders of noise videos with annotated persons.

As a script of a launcher, `tiny_action_training.py VIDEOS MODEL FOLDER` trains and evaluates in every process.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
import yaml
from finetuning_tools import SIZES
from key_frame_files import write_metadata
from tiny_classifier import save_noise

from modeling_umt import UMTConfig, UMTForActionDetection
from processing_umt import UMTVideoProcessor
from umt_training.data.action_records import load_annotated_actions, training_key_frames
from umt_training.data.key_frame_dataset import KeyFrameDataset
from umt_training.data.movie_files import find_movies
from umt_training.evaluation.detection import evaluate_detection
from umt_training.evaluation.detection_set import DetectionSet, detection_set
from umt_training.runs.detection_run import DetectionRun, RunKeyFrames, load_training_clips
from umt_training.trainers.detection import UMTActionDetectionArguments, UMTActionDetectionTrainer

CLASSES = ("sit", "stand", "talk")
GLOBAL_BATCH = 4
BOXES = ([4, 4, 20, 30], [30, 5, 22, 40], [40, 20, 20, 20])


def save_key_frames(folder: Path, num_videos: int = 6, **options) -> Path:
    """Videos of two sizes with two key frames each, of one to three persons, and their `metadata.jsonl`."""
    rows = []
    for video in range(num_videos):
        save_noise(folder / f"{video}.mp4", video, num_frames=20, width=80 if video % 2 else 64, **options)
        for number, time in enumerate((0.5, 1.25)):
            count = 1 + (video + number) % 3
            categories = [[CLASSES[(video + person) % 3], CLASSES[person]] for person in range(count)]
            objects = {"bbox": list(BOXES[:count]), "categories": [sorted(set(names)) for names in categories]}
            rows.append({"file_name": f"{video}.mp4", "time": time, "objects": objects})
    write_metadata(folder / "metadata.jsonl", rows)
    return folder


def tiny_detector(**fields) -> UMTForActionDetection:
    """Seeded, with a head whose logits differ between boxes."""
    names = {"id2label": dict(enumerate(CLASSES)), "label2id": {name: i for i, name in enumerate(CLASSES)}}
    torch.manual_seed(0)
    model = UMTForActionDetection(UMTConfig(**{**SIZES, "position_grid": [2, 2, 2], **names, **fields}))
    torch.nn.init.normal_(model.classifier.weight, std=0.5)
    return model


def save_tiny_detector(folder: Path, **fields) -> Path:
    model = tiny_detector(**fields)
    model.save_pretrained(folder)
    UMTVideoProcessor.for_action_detection(model.config).save_pretrained(folder)
    return folder


def evaluation_set(videos: Path, **options) -> DetectionSet:
    return detection_set(load_annotated_actions(videos, class_names=CLASSES), videos, **options)


def tiny_scores(model: UMTForActionDetection, data: DetectionSet, **options):
    """Scores in the evaluating process, in batches of three."""
    processor = UMTVideoProcessor.for_action_detection(model.config)
    return evaluate_detection(model, processor, data, **{"batch_size": 3, "num_workers": 0} | options)


def key_frame_clips(videos: Path, model: UMTForActionDetection, seed: int = 0) -> KeyFrameDataset:
    key_frames, _ = training_key_frames(load_annotated_actions(videos, class_names=CLASSES))
    movies = find_movies([key_frame.video for key_frame in key_frames], videos)
    args = UMTActionDetectionArguments(output_dir="unused", seed=seed, use_cpu=True)
    clips = RunKeyFrames(key_frames, movies, list(CLASSES), None)
    processor = UMTVideoProcessor.for_action_detection(model.config)
    return load_training_clips(DetectionRun(), args, clips, processor, model.config.image_size)


def tiny_trainer(folder: Path, videos: Path, model=None, train_dataset=None, **options) -> UMTActionDetectionTrainer:
    """A trainer of a global batch of four key frames, with a constant high learning rate."""
    kwargs = {name: options.pop(name) for name in ("eval_dataset",) if name in options}
    model = model or tiny_detector()
    arguments = {
        "per_device_train_batch_size": GLOBAL_BATCH, "base_learning_rate": 0.64, "base_min_learning_rate": 0.64,
        "num_train_epochs": 1, "report_to": "none", "disable_tqdm": True, "save_strategy": "no", "logging_steps": 1,
        "use_cpu": True,
    }  # fmt: skip
    return UMTActionDetectionTrainer(
        model=model,
        args=UMTActionDetectionArguments(output_dir=str(folder), **arguments | options),
        processing_class=UMTVideoProcessor.for_action_detection(model.config),
        train_dataset=key_frame_clips(videos, model) if train_dataset is None else train_dataset,
        **kwargs,
    )


def write_recipe(path: Path, **keys) -> str:
    """An action detection recipe of two short epochs on a tiny model."""
    quick = {
        "task": "detection",
        "num_train_epochs": 2, "warmup_epochs": 1, "per_device_train_batch_size": 2, "base_learning_rate": 0.1,
        "logging_steps": 1, "dataloader_num_workers": 0, "report_to": "none", "disable_tqdm": True,
    }  # fmt: skip
    path.write_text(yaml.safe_dump({**quick, **keys}))
    return str(path)


def main(videos: str, model: str, folder: str) -> None:
    """Trains an epoch and evaluates, in each of two processes."""
    trainer = tiny_trainer(Path(folder), Path(videos), per_device_train_batch_size=GLOBAL_BATCH // 2)
    assert trainer.args.world_size == 2
    rank = trainer.args.process_index
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    torch.save(trainer.accelerator.unwrap_model(trainer.model).state_dict(), Path(folder, f"weights-{rank}.pt"))
    scores = tiny_scores(UMTForActionDetection.from_pretrained(model), evaluation_set(Path(videos)))
    np.savez(Path(folder, f"detections-{rank}.npz"), boxes=scores.detections.boxes, scores=scores.detections.scores)
    Path(folder, f"result-{rank}.json").write_text(json.dumps({"losses": losses, "map50": scores.result.map50}))


if __name__ == "__main__":
    main(*sys.argv[1:])
