"""Evaluation of action detection: scores on any batch size and after an interruption, persons, and the two mAP."""

from unittest import mock

import numpy as np
import pytest
import torch
from key_frame_files import metadata_row, write_lines, write_metadata
from tiny_action_training import BOXES, CLASSES, evaluation_set, save_key_frames, tiny_detector, tiny_scores
from tiny_classifier import save_noise

from processing_umt import UMTVideoProcessor
from umt_training.data.action_records import load_annotated_actions, load_detected_persons
from umt_training.data.ava_csv import read_detections, write_detections
from umt_training.data.key_frame_clips import KeyFrameClips
from umt_training.evaluation.detection import evaluate_detection
from umt_training.evaluation.detection_metrics import frame_map
from umt_training.evaluation.detection_set import detection_set


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return save_key_frames(tmp_path_factory.mktemp("videos"))


@pytest.fixture(scope="module")
def shifted(videos, tmp_path_factory):
    """Detected persons: the annotated boxes, moved by three pixels, with scores, and a person who is nobody."""
    path = tmp_path_factory.mktemp("persons") / "metadata.jsonl"
    rows = []
    for video in range(6):
        for time in (0.5, 1.25):
            boxes = [[x + 3, y + 3, w, h] for x, y, w, h in BOXES]
            objects = {"bbox": boxes, "scores": [0.95, 0.9, 0.7]}
            rows.append({"file_name": f"{video}.mp4", "time": time, "objects": objects})
    write_metadata(path, rows)
    return load_detected_persons(path)[0]


def values(scores):
    table = scores.detections
    names = [table.videos[video] for video in table.video]
    boxes = map(tuple, table.boxes.tolist())
    keys = zip(names, table.times.tolist(), table.actions.tolist(), boxes, strict=True)
    return dict(zip(keys, table.scores.tolist(), strict=True))


def test_probabilities_are_those_of_the_processor_and_the_model(videos, shifted):
    """One key frame at a time, by the public calls; a score is the probability times the person's score."""
    model = tiny_detector()
    scores = tiny_scores(model, evaluation_set(videos, detected=shifted), batch_size=5)
    processor, found = UMTVideoProcessor.for_action_detection(model.config), values(scores)
    assert len(found) == 12 * 2 * 3 == len(scores.detections)
    for video, width in (("0.mp4", 64), ("3.mp4", 80)):
        boxes = [[x + 3, y + 3, x + w + 2, y + h + 2] for x, y, w, h in BOXES[:2]]
        inputs = processor(videos / video, key_times=[1.25], boxes=[boxes], return_tensors="pt")
        with torch.no_grad():
            probabilities = model.eval()(**inputs).logits[0].sigmoid()
        for person, factor in enumerate((0.95, 0.9)):
            x1, y1, x2, y2 = boxes[person]
            corners = (x1 / width, y1 / 48, min((x2 + 1) / width, 1), min((y2 + 1) / 48, 1))
            for action in range(3):
                key = (video, 1.25, action + 1, tuple(np.round(corners, 5).tolist()))
                assert found[key] == pytest.approx(factor * probabilities[person, action].item(), abs=1.1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 4, 12])
def test_scores_do_not_depend_on_the_batch_size(batch_size, videos, shifted):
    """Videos of two widths: a batch of both would pad the smaller."""
    data = evaluation_set(videos, detected=shifted)
    expected = tiny_scores(tiny_detector(), data, batch_size=3)
    scores = tiny_scores(tiny_detector(), data, batch_size=batch_size)
    assert values(scores) == pytest.approx(values(expected), abs=1.1e-5)
    assert scores.result.map50 == pytest.approx(expected.result.map50, abs=1e-6)


def test_annotated_boxes_beside_detected_ones_are_those_alone(videos, shifted):
    """Both kinds share a forward pass; detected persons on other key frames change only the detected mAP."""
    alone = tiny_scores(tiny_detector(), evaluation_set(videos))
    both = tiny_scores(tiny_detector(), evaluation_set(videos, detected=shifted))
    assert alone.annotated_result is None and both.annotated_result.map50 == pytest.approx(alone.result.map50)
    assert alone.num_persons == 24 and both.num_persons == 24 and both.result.map50 != alone.result.map50
    assert (alone.protocol["boxes"], both.protocol["boxes"]) == ("annotated", "detected")
    few = tiny_scores(tiny_detector(), evaluation_set(videos, detected=shifted[:1]))
    assert few.annotated_result.map50 == pytest.approx(alone.result.map50) and few.num_persons == 2
    assert few.result.map50 < both.result.map50


def test_a_perfect_model_has_the_map_of_its_boxes(tmp_path):
    """Logits that are the annotations: 100 % with the annotated boxes, less where the detector missed a person."""
    videos = save_key_frames(tmp_path, 2)
    data = evaluation_set(videos)
    model, key_frames = tiny_detector(), iter(data.persons)

    def annotated(pixel_values_videos, boxes, box_mask):
        logits = torch.full((*boxes.shape[:2], 3), -9.0)
        for row in range(len(boxes)):
            for person, labels in enumerate(next(key_frames).annotated.labels):
                logits[row, person, list(labels)] = 9.0
        return mock.Mock(logits=logits)

    with mock.patch.object(model, "forward", annotated):
        scores = tiny_scores(model, data, batch_size=2)
    assert scores.result.map50 == 100 and all(value == 100 for value in scores.result.ap50.values())


def test_the_map_is_that_of_the_written_file(videos, shifted, tmp_path):
    """Rounding comes before the metric, so that `--detections` gives the same figure."""
    data = evaluation_set(videos, detected=shifted)
    scores = tiny_scores(tiny_detector(), data)
    write_detections(tmp_path / "detections.csv", scores.detections)
    again = frame_map(data.annotations, read_detections(tmp_path / "detections.csv"), data.label_map)
    assert again == scores.result


def test_an_interrupted_evaluation_resumes_bit_for_bit(videos, shifted, tmp_path):
    data, reads = evaluation_set(videos, detected=shifted), []
    real = KeyFrameClips.read

    def stop(clips, key_frame):
        if len(reads) == 7:
            raise KeyboardInterrupt
        reads.append(key_frame)
        return real(clips, key_frame)

    options = {"partial_folder": tmp_path / "partial", "batch_size": 1}
    with mock.patch.object(KeyFrameClips, "read", stop), pytest.raises(KeyboardInterrupt):
        tiny_scores(tiny_detector(), data, **options)
    resumed = tiny_scores(tiny_detector(), data, **options)
    assert resumed.num_resumed == 7 and values(resumed) == values(tiny_scores(tiny_detector(), data, batch_size=1))
    # other persons have other scores
    assert tiny_scores(tiny_detector(), evaluation_set(videos), **options).num_resumed == 0
    with torch.no_grad():
        other = tiny_detector()
        other.classifier.bias += 1
    assert tiny_scores(other, data, **options).num_resumed == 0


def test_broken_and_missing_videos_are_missed_and_counted(tmp_path):
    videos = save_key_frames(tmp_path)
    complete = tiny_scores(tiny_detector(), evaluation_set(videos))
    (videos / "1.mp4").write_bytes(b"no video")
    (videos / "4.mp4").unlink()
    data = evaluation_set(videos)
    scores = tiny_scores(tiny_detector(), data)
    assert data.missing == {"4.mp4": 2} and scores.num_unread == 4 and len(data) == 10
    assert [(video.video.endswith("1.mp4"), video.reason) for video in scores.skipped] == [(True, "not_a_video")]
    assert scores.result.num_annotated == complete.result.num_annotated  # they are not left out
    assert not {"1.mp4", "4.mp4"} & {name for name, *_ in values(scores)}
    for path in videos.glob("*.mp4"):
        path.write_bytes(b"no video")
    with pytest.raises(ValueError, match="None of the 5 videos can be read"):
        tiny_scores(tiny_detector(), evaluation_set(videos))


def test_persons_outside_the_frame_or_without_area_have_no_detections(tmp_path):
    save_noise(tmp_path / "a.mp4", 0, num_frames=20, width=64)
    boxes = [[5, 6, 10, 20], [5, 6, 0, 20], [60, 40, 30, 30]]
    write_metadata(tmp_path / "metadata.jsonl", [metadata_row(bbox=boxes, categories=[["sit"]] * 3)])
    scores = tiny_scores(tiny_detector(), evaluation_set(tmp_path))
    corners = np.unique(scores.detections.boxes, axis=0)
    np.testing.assert_allclose(corners, [[5 / 64, 6 / 48, 15 / 64, 26 / 48], [60 / 64, 40 / 48, 1, 1]], atol=1e-5)


def test_fractions_and_pixels_of_the_same_boxes_are_the_same(videos, tmp_path):
    """AVA's csv beside own data, with movies that begin at second 900."""
    own = evaluation_set(videos)
    rows = []
    for pair in own.persons:
        width = 80 if int(pair.key_frame.video[0]) % 2 else 64
        for person, box in enumerate(pair.annotated.boxes / [width, 48, width, 48]):
            corners = ",".join(f"{corner:.9f}" for corner in box)
            for label in pair.annotated.labels[person]:
                time = 900 + pair.key_frame.time
                rows.append(f"{pair.key_frame.video[:-4]},{time},{corners},{label + 1},{person}")
    csv = write_lines(tmp_path / "val.csv", *rows)
    actions = load_annotated_actions(csv, class_names=CLASSES)
    scores = tiny_scores(tiny_detector(), detection_set(actions, videos, start=900))
    expected = tiny_scores(tiny_detector(), own)
    assert scores.result.map50 == pytest.approx(expected.result.map50, abs=1e-6)
    np.testing.assert_allclose(scores.detections.boxes, expected.detections.boxes, atol=1.1e-5)
    np.testing.assert_allclose(scores.detections.scores, expected.detections.scores, atol=2e-4)


def test_protocols_select_key_frames(videos, tmp_path):
    rows = ["0,0.5,0.1,0.1,0.5,0.9,1", "1,0.5", "2,0.5,0.1,0.1,0.5,0.9,2"]
    actions = load_annotated_actions(write_lines(tmp_path / "k.csv", *rows), class_names=CLASSES)
    persons = write_lines(tmp_path / "p.csv", *(f"{video},0.5,0.1,0.1,0.5,0.9,,0.9" for video in range(4)))
    detected, _ = load_detected_persons(persons)
    data = detection_set(actions, videos, detected=detected, protocol="ava-kinetics")
    assert [pair.key_frame.video for pair in data.persons] == ["0", "1", "2"]  # 3 is not listed
    assert data.persons[1].annotated is None
    assert tiny_scores(tiny_detector(), data).num_persons == 3
    rows = [rows[0], rows[2]]
    actions = load_annotated_actions(write_lines(tmp_path / "a.csv", *rows), class_names=CLASSES)
    data = detection_set(actions, videos, detected=detected, excluded={("2", 0.5)})
    assert [pair.key_frame.video for pair in data.persons] == ["0", "1", "3"]


def test_other_processors_and_label_maps_are_refused(videos):
    data = evaluation_set(videos)
    with pytest.raises(ValueError, match="is not one of action detection: its sampling is 'sparse'"):
        evaluate_detection(tiny_detector(), UMTVideoProcessor(num_frames=2), data)
    actions = load_annotated_actions(videos, class_names=[*CLASSES, "walk"])
    with pytest.raises(ValueError, match=r"has the id 4 \(walk\), but the model has 3 classes"):
        tiny_scores(tiny_detector(), detection_set(actions, videos))
    model = tiny_detector()
    model.classifier.bias.data[:] = float("nan")
    with pytest.raises(ValueError, match=r"0\.mp4 at 0\.5 s: the model's scores are not finite"):
        tiny_scores(model, data)
