"""The pipeline of two models, against the processor and the models called by hand."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_classifier import save_noise, save_tiny_classifier
from tiny_detection import ACTIONS, save_tiny_action_detector, save_tiny_person_detector, tiny_action_detector
from transformers import AutoVideoProcessor

from processing_umt import UMTVideoProcessor, VideoDecodeError
from processing_umt.video_decoding_umt import VideoReader
from umt_training import UMTActionDetectionPipeline
from umt_training.detection.actions import ActionRecognizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline")
    save_tiny_action_detector(folder / "model")
    save_tiny_person_detector(folder / "detector")
    save_tiny_classifier(folder / "classifier")
    save_noise(folder / "clip.mp4", 0, num_frames=33)
    save_noise(folder / "other.mp4", 1, num_frames=12, height=80, width=48)
    return folder


@pytest.fixture(scope="module")
def detect(folder):
    return UMTActionDetectionPipeline(str(folder / "model"), str(folder / "detector"), device="cpu")


def test_actions_are_those_of_the_model_for_the_boxes_of_the_detector(folder, detect):
    result = detect(folder / "clip.mp4", threshold=0.0)
    assert [(key_frame["time"], key_frame["frame"]) for key_frame in result] == [(0.5, 5), (1.5, 15), (2.5, 25)]
    processor = AutoVideoProcessor.from_pretrained(folder / "model")
    model = tiny_action_detector()
    with VideoReader(folder / "clip.mp4") as reader:
        images = reader.read([key_frame["frame"] for key_frame in result])
    seen = set()
    for image, key_frame in zip(images, result, strict=True):
        persons = key_frame["persons"]
        found = detect.detector(Image.fromarray(image), threshold=0.8)
        boxes = [[box[side] for side in ("xmin", "ymin", "xmax", "ymax")] for box in (one["box"] for one in found)]
        limits = [image.shape[1], image.shape[0]] * 2
        assert [person["box"] for person in persons] == [tuple(np.clip(box, 0, limits).tolist()) for box in boxes]
        assert [person["score"] for person in persons] == [one["score"] for one in found]
        inclusive = [[x1, y1, x2 - 1, y2 - 1] for x1, y1, x2, y2 in (person["box"] for person in persons)]
        inputs = processor(
            str(folder / "clip.mp4"), key_frames=[key_frame["frame"]], boxes=[inclusive], return_tensors="pt"
        )
        with torch.no_grad():
            logits = model(**inputs).logits[0]
        for person, row in zip(persons, logits.sigmoid().tolist(), strict=True):
            scores = {action["label"]: action["score"] for action in person["actions"]}
            assert scores == pytest.approx(
                {label: score * person["score"] for label, score in zip(ACTIONS, row, strict=True)}, abs=1e-5
            )
            assert list(scores.values()) == sorted(scores.values(), reverse=True)
            seen.add(tuple(scores.values()))
    assert len(seen) > 1


def test_only_actions_above_the_threshold_are_listed(folder, detect):
    every = detect(str(folder / "clip.mp4"), threshold=0.0)
    some = detect(str(folder / "clip.mp4"), threshold=0.6)
    for all_persons, persons in zip(every, some, strict=True):
        for one, other in zip(all_persons["persons"], persons["persons"], strict=True):
            assert other["actions"] == [action for action in one["actions"] if action["score"] >= 0.6]
    assert sum(len(p["actions"]) for k in some for p in k["persons"]) < 5 * sum(len(k["persons"]) for k in every)


def test_a_list_of_videos_gives_a_list_of_results_in_any_form(folder, detect):
    data = (folder / "other.mp4").read_bytes()
    first, second = detect([folder / "clip.mp4", data], every=0.5)
    assert [key_frame["time"] for key_frame in first] == [0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.25]
    assert second == detect(str(folder / "other.mp4"), every=0.5)


def test_loaded_models_and_the_processor_of_the_configuration_give_the_same_result(folder, detect):
    detect_loaded = UMTActionDetectionPipeline(tiny_action_detector(), detect.detector)
    assert detect_loaded(folder / "other.mp4") == detect(folder / "other.mp4")


def test_a_picture_without_persons_has_no_actions(folder, detect):
    result = detect(folder / "other.mp4", detector_threshold=1.0)
    assert result == [{"time": 0.5, "frame": 5, "persons": []}]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "expected more than 0 seconds"),
        ({"threshold": 2}, "expected a score from 0 to 1"),
        ({"detector_threshold": -1}, "expected a score from 0 to 1"),
    ],
)
def test_options_out_of_range_are_refused(options, message, folder, detect):
    with pytest.raises(ValueError, match=message):
        detect(folder / "clip.mp4", **options)


def test_a_model_of_another_kind_is_refused(folder):
    for name, kind in (("classifier", "classifier"), ("detector", "Yolos")):
        with pytest.raises(ValueError, match=f"cannot detect actions: it is a {kind}"):
            UMTActionDetectionPipeline(folder / name, folder / "detector")


def test_a_processor_of_classification_is_refused(folder):
    with pytest.raises(ValueError, match="its sampling is 'sparse'"):
        ActionRecognizer(tiny_action_detector(), UMTVideoProcessor())


def test_a_broken_video_is_an_error(tmp_path, detect):
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(VideoDecodeError, match="empty"):
        detect(tmp_path / "empty.mp4")


def test_scores_that_are_not_finite_are_an_error(folder, detect):
    model = tiny_action_detector()
    torch.nn.init.constant_(model.classifier.bias, torch.nan)
    with pytest.raises(ValueError, match="are not finite in"):
        UMTActionDetectionPipeline(model, detect.detector)(folder / "clip.mp4")
