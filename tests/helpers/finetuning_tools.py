"""Tiny models, clips and class folders for the tests of classification."""

from pathlib import Path

import numpy as np
import torch
import yaml
from video_files import write_video

from modeling_umt import UMTConfig, UMTForPreTraining, UMTForVideoClassification
from umt_training.trainers.finetuning import UMTFineTuningArguments, UMTFineTuningTrainer

SIZES = {
    "image_size": 32, "num_frames": 2, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2,
    "intermediate_size": 32, "num_aligned_layers": 2, "target_dim": 8,
}  # fmt: skip

# keeps a test fast and its output short
QUIET = {"report_to": "none", "disable_tqdm": True, "save_strategy": "no", "logging_steps": 1}


def tiny_classifier(num_labels: int = 3, **fields) -> UMTForVideoClassification:
    """Seeded, with a head whose logits differ between clips."""
    torch.manual_seed(0)
    model = UMTForVideoClassification(UMTConfig(**{**SIZES, "num_labels": num_labels, **fields}))
    torch.nn.init.normal_(model.classifier.weight, std=0.5)
    return model


def tiny_clips(number: int = 8, num_labels: int = 3, seed: int = 0) -> list[dict]:
    """Normalised clips (2, 3, 32, 32) with labels 0, 1, 2, 0 ..., which are their brightness."""
    generator = torch.Generator().manual_seed(seed)
    labels = [index % num_labels for index in range(number)]
    return [
        {"pixel_values_videos": torch.randn(2, 3, 32, 32, generator=generator) + label - 1, "labels": label}
        for label in labels
    ]


def tiny_trainer(folder: Path, model=None, clips: list[dict] | None = None, **options) -> UMTFineTuningTrainer:
    """A trainer on clips in memory: 4 per step, one view, no mixing, a constant high learning rate."""
    kwargs = {name: options.pop(name) for name in ("eval_dataset", "callbacks") if name in options}
    plain = {"views_per_video": 1, "mixup_alpha": 0.0, "cutmix_alpha": 0.0, "label_smoothing_factor": 0.0}
    plain |= {"per_device_train_batch_size": 4, "base_learning_rate": 0.64, "base_min_learning_rate": 0.64}
    args = UMTFineTuningArguments(output_dir=str(folder), **{**QUIET, **plain, **options})
    model = tiny_classifier() if model is None else model
    return UMTFineTuningTrainer(model=model, args=args, train_dataset=clips or tiny_clips(), **kwargs)


def losses(trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def save_stage1(folder: Path) -> Path:
    """A pre-trained model to start from."""
    torch.manual_seed(1)
    UMTForPreTraining(UMTConfig(**SIZES, position_grid=[2, 2, 2])).save_pretrained(folder)
    return folder


def save_clips_of_classes(folder: Path, classes=("jump", "run"), number: int = 4) -> Path:
    """`number` videos in a folder for each class; colours differ between classes."""
    for index, name in enumerate(classes):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for video in range(number):
            write_video(folder / name / f"{video}.mp4", num_frames=6 + video, colour=80 * index + 10 * video)
    return folder


def write_recipe(path: Path, **keys) -> str:
    """A classification recipe of three short epochs on a tiny model."""
    quick = {
        "task": "classification",
        "num_train_epochs": 3, "warmup_epochs": 1, "per_device_train_batch_size": 2, "base_learning_rate": 0.1,
        "logging_steps": 1, "dataloader_num_workers": 0, "report_to": "none", "disable_tqdm": True,
    }  # fmt: skip
    path.write_text(yaml.safe_dump({**quick, **keys}))
    return str(path)


def state_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    """Names of the tensors that are not bit-equal."""
    assert before.keys() == after.keys()
    return {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}


def random_clip(batch: int = 2, frames: int = 2, size: int = 32, seed: int = 5) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(batch, frames, 3, size, size))).float()
