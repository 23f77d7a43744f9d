"""Persons by an object detector of Transformers."""

import numpy as np
import pytest
from tiny_classifier import save_tiny_classifier
from tiny_detection import save_tiny_action_detector, save_tiny_person_detector
from transformers import pipeline

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
