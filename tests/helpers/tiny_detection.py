"""A tiny action detection model and a tiny object detector, both random, for the tests of `umt detect`."""

from pathlib import Path

import torch
from transformers import YolosConfig, YolosForObjectDetection, YolosImageProcessor

from modeling_umt import UMTConfig, UMTForActionDetection
from processing_umt import UMTVideoProcessor

ACTIONS = ("stand", "sit", "walk", "talk to (a person)", "listen to (a person)")
SIZES = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def tiny_action_detector(**options) -> UMTForActionDetection:
    """A seeded model of `ACTIONS` for frames of 32 pixels; its scores differ between clips and boxes."""
    names = {"id2label": dict(enumerate(ACTIONS)), "label2id": {name: i for i, name in enumerate(ACTIONS)}}
    config = UMTConfig(**{"image_size": 32, "num_frames": 4, "num_aligned_layers": 1, **SIZES, **names, **options})
    torch.manual_seed(0)
    model = UMTForActionDetection(config)
    torch.nn.init.normal_(model.classifier.weight)
    return model.eval()


def save_tiny_action_detector(folder: Path, **options) -> Path:
    model = tiny_action_detector(**options)
    model.save_pretrained(folder)
    UMTVideoProcessor.for_action_detection(model.config).save_pretrained(folder)
    return folder


def save_tiny_person_detector(
    folder: Path,
    labels: tuple[str, ...] = ("cat", "person", "dog"),
    boxes: tuple[tuple[float, float, float, float], ...] = ((0.3, 0.5, 0.4, 0.8), (0.75, 0.5, 0.3, 0.6)),
) -> Path:
    """Saves a random detector whose class bias always predicts "person" (or the first label), one for each query.

    On a grey picture the boxes are the given ones, (centre x, centre y, width, height) as fractions of the frame; on
    others they differ with the picture.
    """
    torch.manual_seed(0)
    names = {"id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}}
    config = YolosConfig(image_size=[32, 48], patch_size=16, num_detection_tokens=len(boxes), **SIZES, **names)
    model = YolosForObjectDetection(config).eval()
    with torch.no_grad():
        classes = model.class_labels_classifier.layers[-1]
        classes.weight.mul_(0.01)
        classes.bias.fill_(-8.0)  # also that of the last class, "no object"
        classes.bias[labels.index("person") if "person" in labels else 0] = 8.0
        torch.nn.init.normal_(model.vit.embeddings.detection_tokens)
        *hidden, last = model.bbox_predictor.layers
        features = model.vit(torch.zeros(1, 3, 32, 48)).last_hidden_state[0, -len(boxes) :]
        for layer in hidden:
            torch.nn.init.normal_(layer.weight, std=1.0)
            features = layer(features).relu()
        last.bias.zero_()
        last.weight.copy_(torch.linalg.lstsq(features, torch.tensor(boxes).logit()).solution.T)
    model.save_pretrained(folder)
    YolosImageProcessor(size={"height": 32, "width": 48}).save_pretrained(folder)
    return folder
