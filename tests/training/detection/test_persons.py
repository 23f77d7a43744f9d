"""Persons by an object detector of Transformers."""

import numpy as np
import pytest
import torch
from tiny_classifier import save_tiny_classifier
from tiny_detection import save_tiny_action_detector, save_tiny_person_detector
from transformers import RTDetrConfig, RTDetrForObjectDetection, RTDetrImageProcessor, RTDetrResNetConfig, pipeline

from umt_training.detection.persons import PersonDetector, load_detector

PICTURE = np.full((40, 60, 3), 128, np.uint8)


class FakePipeline:
    """A detector that returns the given boxes."""

    def __init__(self, model, *found):
        self.model, self.found = model, found

    def __call__(self, image, threshold):
        return [
            {"label": label, "score": score, "box": dict(zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))}
            for label, score, box in self.found
            if score > threshold
        ]


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    return save_tiny_person_detector(tmp_path_factory.mktemp("detector"))


def test_any_object_detection_pipeline_finds_persons(detector):
    by_name, by_pipeline = load_detector(str(detector)), pipeline("object-detection", model=str(detector))
    first, second = (PersonDetector(found).find(PICTURE) for found in (by_name, by_pipeline))
    assert first == second and len(first) == 2
    for person in first:
        assert 0.8 < person.score <= 1
        assert 0 <= person.box[0] < person.box[2] <= 60 and 0 <= person.box[1] < person.box[3] <= 40


def test_detectors_of_the_family_of_the_default_one_find_persons(tmp_path):
    torch.manual_seed(0)
    backbone = RTDetrResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 16, 16], depths=[1, 1, 1, 1], layer_type="basic", out_indices=[2, 3, 4]
    )
    sizes = dict.fromkeys(("d_model", "encoder_hidden_dim", "encoder_ffn_dim", "decoder_ffn_dim"), 32)
    heads = dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads", "decoder_layers"), 2)
    channels = {"encoder_in_channels": [16] * 3, "decoder_in_channels": [32] * 3}
    config = RTDetrConfig(backbone_config=backbone, num_queries=5, num_denoising=0, **sizes, **heads, **channels)
    config.id2label, config.label2id = {0: "person", 1: "car"}, {"person": 0, "car": 1}
    model = RTDetrForObjectDetection(config)
    for head in model.model.decoder.class_embed:
        torch.nn.init.zeros_(head.weight)
        head.bias.data = torch.tensor([5.0, -5.0])
    model.save_pretrained(tmp_path)
    RTDetrImageProcessor(size={"height": 64, "width": 64}).save_pretrained(tmp_path)
    detector = load_detector(str(tmp_path))
    persons = PersonDetector(detector).find(PICTURE.repeat(8, axis=0).repeat(8, axis=1))
    assert 0 < len(persons) <= 5
    assert all(person.score == pytest.approx(1 / (1 + np.exp(-5.0)), abs=1e-4) for person in persons)


def test_boxes_are_clipped_and_other_classes_and_tiny_boxes_left_out(detector):
    fake = FakePipeline(
        load_detector(str(detector)).model,
        ("person", 0.9, (-5, 3, 20, 45)),
        ("cat", 0.99, (5, 3, 20, 40)),
        ("person", 0.85, (58, 3, 70, 40)),
        ("person", 0.7, (5, 3, 20, 40)),
    )
    assert [(person.box, person.score) for person in PersonDetector(fake).find(PICTURE)] == [((0, 3, 20, 40), 0.9)]
    assert len(PersonDetector(fake, threshold=0.5).find(PICTURE)) == 2


def test_the_class_is_found_in_any_case(tmp_path):
    folder = save_tiny_person_detector(tmp_path, labels=("Person", "Car"))
    assert PersonDetector(load_detector(str(folder))).person_labels == {"Person"}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda folder: save_tiny_person_detector(folder, labels=("cat", "dog")),
            "has no class 'person', but cat, dog;",
        ),
        (save_tiny_action_detector, "cannot find persons: it is an action detection model"),
        (save_tiny_classifier, "cannot find persons: it is a classifier"),
        (lambda folder: folder, "does not contain a detector: it has no config.json"),
    ],
)
def test_other_models_are_refused(make, message, tmp_path):
    with pytest.raises(ValueError, match=message) as error:
        PersonDetector(load_detector(str(make(tmp_path))))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("options", [{"threshold": 1.5}, {"threshold": -0.1}, {"every": 0}, {"every": float("inf")}])
def test_options_out_of_range_are_refused(options, detector):
    with pytest.raises(ValueError, match="expected"):
        PersonDetector(load_detector(str(detector)), **options)
