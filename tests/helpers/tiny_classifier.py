"""A tiny classifier with its processor, and noise videos, for the tests of evaluation."""

from pathlib import Path

import av
import numpy as np
import torch

from modeling_umt import UMTConfig, UMTForVideoClassification
from processing_umt import UMTVideoProcessor

CLASSES = ("juggling", "archery", "zumba", "bowling", "marching", "drumming", "knitting")


def tiny_classifier(**options) -> UMTForVideoClassification:
    """A seeded classifier of `CLASSES`, which are not in alphabetical order; its scores differ between clips."""
    names = {"id2label": dict(enumerate(CLASSES)), "label2id": {name: i for i, name in enumerate(CLASSES)}}
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = UMTConfig(**{"image_size": 32, "num_frames": 4, "num_aligned_layers": 1, **sizes, **names, **options})
    torch.manual_seed(0)
    model = UMTForVideoClassification(config)
    torch.nn.init.normal_(model.classifier.weight)
    return model


def tiny_processor(**options) -> UMTVideoProcessor:
    return UMTVideoProcessor(**{"size": {"shortest_edge": 32}, "crop_size": 32, "num_frames": 4, **options})


def save_tiny_classifier(folder: Path, **options) -> Path:
    tiny_classifier(**options).save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    return folder


def save_noise(path: Path, seed: int, num_frames: int = 14, height: int = 48, width: int = 80) -> Path:
    """Write a video of coloured tiles that change in every frame."""
    generator = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for _ in range(num_frames):
            tiles = generator.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
            picture = tiles.repeat(16, axis=0).repeat(16, axis=1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def save_class_folders(folder: Path, num_videos: int) -> Path:
    """Write `num_videos` videos, two for each class, to folders named by class, the last class first: the classifier
    predicts that class for all videos."""
    for number in range(num_videos):
        save_noise(folder / CLASSES[-1 - number // 2] / f"clip{number}.mp4", number)
    return folder
