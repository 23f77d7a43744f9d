"""Frame mAP: recorded values of the official programs, a plain implementation, AVA's files, and refusals."""

import dataclasses
import math

import evaluate
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded import find_shared, load_recorded

from umt_training.data.ava_csv import ActionTable, read_annotations, read_detections, read_excluded, write_detections
from umt_training.data.label_map import read_label_map
from umt_training.evaluation.detection_metrics import FrameMeanAveragePrecision, frame_map

AP = "PascalBoxes_PerformanceByCategory/AP@0.5IOU/"
RECORDED = [
    ("ava_eval", "", "metrics", "ava"),
    ("ava_eval_large", "", "metrics", "ava"),
    ("ava_eval_large", "_kinetics", "kinetics_metrics", "ava-kinetics"),
]


@pytest.fixture(autouse=True)
def evaluate_cache(tmp_path, monkeypatch):
    """`evaluate` creates a folder for every metric: here in the test's temporary folder."""
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", str(tmp_path / "metrics"))


def recorded_files(name, part=""):
    """Annotations, detections and label map of a recording."""
    return (
        read_annotations(find_shared("fixtures", f"{name}{part}_ground_truth.csv")),
        read_detections(find_shared("fixtures", f"{name}{part}_detections.csv")),
        read_label_map(find_shared("fixtures", f"{name}_labelmap.pbtxt")),
    )


def table(videos, times, boxes, actions, scores=None):
    names = sorted(set(videos))
    return ActionTable(
        names,
        np.array([names.index(video) for video in videos], dtype=np.int32),
        np.array(times, dtype=float),
        np.array(boxes, dtype=float).reshape(-1, 4),
        np.array(actions, dtype=np.int32),
        None if scores is None else np.array(scores, dtype=float),
    )


@pytest.mark.parametrize(("name", "part", "key", "protocol"), RECORDED)
def test_every_class_and_the_mean_are_those_of_the_official_program(name, part, key, protocol):
    annotations, detections, label_map = recorded_files(name, part)
    excluded = read_excluded(find_shared("fixtures", f"{name}_excluded.csv")) if protocol == "ava" else ()
    expected = load_recorded(name)[0][key]
    result = frame_map(annotations, detections, label_map, protocol, excluded)
    assert result.map50 / 100 == pytest.approx(expected.pop("PascalBoxes_Precision/mAP@0.5IOU"), abs=1e-9)
    assert {AP + label_map[number]: ap and ap / 100 for number, ap in result.ap50.items()} == {
        AP + label_map[number]: pytest.approx(expected.get(AP + label_map[number]), abs=1e-9) for number in label_map
    }
    assert expected.keys() <= {AP + name for name in label_map.values()}
    assert result.num_detections + result.num_ignored == len(detections)


def test_the_file_of_detections_follows_from_recorded_predictions(tmp_path):
    """Boxes back in the size of the original frame, + 1, as fractions, with five decimals."""
    description, _ = load_recorded("ava_eval")
    rows = []
    for clip, predicted in zip(description["clips"], description["predictions"], strict=True):
        size = np.array([clip["width"], clip["height"]] * 2)
        for box, scores in zip(predicted["boxes"], predicted["scores"], strict=True):
            corners = np.array(box) * size / np.array(predicted["frame_size"] * 2) + [0, 0, 1, 1]
            corners = np.clip(corners / size, 0, 1)
            kept = [(action, score) for action, score in enumerate(scores, 1) if score >= description["action_thresh"]]
            rows += [(clip["movie"], clip["timestamp"], corners, action, score) for action, score in kept]
    write_detections(tmp_path / "detections.csv", table(*zip(*rows, strict=True)))
    expected = find_shared("fixtures", "ava_eval_detections.csv").read_text().split()
    assert sorted((tmp_path / "detections.csv").read_text().split()) == sorted(expected)


def test_written_detections_are_read_back_with_five_decimals(tmp_path):
    names = ["a", 'b, "c"']
    detections = table(names, [3, 12.5], [[0.1234567, 0, 1, 1], [0, 0, 0.5, 0.5]], [7, 80], [0.9876543, 0])
    write_detections(tmp_path / "d.csv", detections)
    read = read_detections(tmp_path / "d.csv")
    assert read.videos == names and read.times.tolist() == [3, 12.5] and read.actions.tolist() == [7, 80]
    assert read.boxes[0].tolist() == [0.12346, 0, 1, 1] and read.scores.tolist() == [0.98765, 0]


def test_pixels_become_fractions_of_each_video(tmp_path):
    relative = table("ab", [1, 2], [[0.25, 0.5, 0.5, 1], [0, 0, 0.5, 0.1]], [1, 2], [0.5, 0.5])
    pixels = np.array([[10, 10, 20, 20], [0, 0, 50, 20]])
    absolute = dataclasses.replace(relative, boxes=pixels, relative=False)
    converted = absolute.in_fractions({"a": (20, 40), "b": (200, 100)})
    assert converted.relative and converted.boxes.tolist() == relative.boxes.tolist()
    assert converted.in_fractions({}) is converted
    with pytest.raises(ValueError, match=r"The annotations are in pixels, the detections in fractions of the frame"):
        frame_map(absolute, relative, {1: "a"})
    with pytest.raises(ValueError, match=r"are in pixels, but AVA's csv contains fractions"):
        write_detections(tmp_path / "d.csv", absolute)


# a plain implementation


def plain_iou(box, other):
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    intersection = max(width, 0) * max(height, 0)
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (box, other)]
    return intersection / (sum(areas) - intersection)


def plain_ap(annotated, detected):
    """AP of one class, from `(frame, box)` and `(frame, box, score)`, by the definition."""
    taken, correct = set(), []
    for frame, box, _ in sorted(detected, key=lambda row: -row[2]):
        overlaps = [
            (plain_iou(box, other), -row) for row, (other_frame, other) in enumerate(annotated) if other_frame == frame
        ]
        iou, row = max(overlaps, default=(0, 0))
        correct.append(iou >= 0.5 and row not in taken)
        if correct[-1]:
            taken.add(row)
    area, previous = 0.0, 0.0
    for position in range(len(correct)):
        recall = sum(correct[: position + 1]) / len(annotated)
        later = [sum(correct[:end]) / end for end in range(position + 1, len(correct) + 1)]
        area, previous = area + (recall - previous) * max(later), recall
    return area


def plain_map(annotations, detections, label_map, protocol, excluded):
    key = lambda rows, row: (rows.videos[rows.video[row]], rows.times[row])  # noqa: E731
    listed = {key(annotations, row) for row in range(len(annotations))}
    kept = [row for row in range(len(detections)) if detections.actions[row] in label_map]
    if protocol == "ava-kinetics":
        by_frame = {}
        for row in sorted(kept, key=lambda row: -detections.scores[row]):
            by_frame.setdefault(key(detections, row), []).append(row)
        kept = sorted(row for frame, rows in by_frame.items() if frame in listed for row in rows[:50])
    aps = {}
    for action in label_map:
        annotated = [
            (key(annotations, row), annotations.boxes[row])
            for row in range(len(annotations))
            if annotations.actions[row] == action and key(annotations, row) not in excluded
        ]
        detected = [
            (key(detections, row), detections.boxes[row], detections.scores[row])
            for row in kept
            if detections.actions[row] == action
            and key(detections, row) not in excluded
            and (detections.boxes[row, 2:] > detections.boxes[row, :2]).all()
        ]
        aps[action] = plain_ap(annotated, detected) if annotated else None
    return aps


def random_tables(generator, num_annotated, num_detected, num_actions, num_seconds, with_empty):
    """Boxes on a coarse grid, so that IoUs of exactly 0.5, equal overlaps and boxes without area are frequent."""

    def boxes(number, smallest):
        corners = generator.integers(0, 4, (number, 2))
        return np.concatenate([corners, corners + generator.integers(smallest, 4, (number, 2))], axis=1) / 8

    def videos(number):
        return [f"v{video}" for video in generator.integers(0, 2, number)]

    def times(number):
        return generator.integers(0, num_seconds, number) / 2

    actions = generator.integers(1, num_actions + 1, num_annotated)
    annotations = table(videos(num_annotated), times(num_annotated), boxes(num_annotated, 1), actions)
    if with_empty:
        empty = table(videos(2), times(2), np.full((2, 4), np.nan), [0, 0])
        annotations = table(
            [rows.videos[video] for rows in (annotations, empty) for video in rows.video],
            np.concatenate([annotations.times, empty.times]),
            np.concatenate([annotations.boxes, empty.boxes]),
            np.concatenate([annotations.actions, empty.actions]),
        )
    # a permutation: no two scores are equal
    scores = generator.permutation(num_detected) / max(num_detected, 1)
    detected = (videos(num_detected), times(num_detected), boxes(num_detected, 0))
    return annotations, table(*detected, generator.integers(1, num_actions + 2, num_detected), scores)


@settings(max_examples=120, deadline=None)
@given(
    num_annotated=st.integers(1, 25),
    num_detected=st.integers(0, 160),
    num_actions=st.integers(1, 4),
    num_seconds=st.integers(1, 4),
    protocol=st.sampled_from(["ava", "ava-kinetics"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_result_is_that_of_a_plain_implementation(
    num_annotated, num_detected, num_actions, num_seconds, protocol, seed
):
    generator = np.random.default_rng(seed)
    annotations, detections = random_tables(
        generator, num_annotated, num_detected, num_actions, num_seconds, protocol == "ava-kinetics"
    )
    label_map = {action: str(action) for action in range(1, num_actions + 2) if action != 2}
    excluded = {("v0", 0.5), ("absent", 1.0)} if protocol == "ava" else set()
    expected = plain_map(annotations, detections, label_map, protocol, excluded)
    try:
        result = frame_map(annotations, detections, label_map, protocol, excluded)
    except ValueError as error:
        refusals = ("matches no annotation", "No detection is on", "are on excluded key frames")
        assert any(refusal in str(error) for refusal in refusals)
        assert not any(expected.values()), "nothing is refused that has a correct detection"
        return
    assert {action: ap and ap / 100 for action, ap in result.ap50.items()} == pytest.approx(expected, nan_ok=False)
    present = [ap for ap in expected.values() if ap is not None]
    assert result.map50 / 100 == pytest.approx(sum(present) / len(present))


def test_results_do_not_depend_on_the_size_of_the_chunks(monkeypatch):
    annotations, detections, label_map = recorded_files("ava_eval_large")
    expected = frame_map(annotations, detections, label_map)
    monkeypatch.setattr("umt_training.evaluation.detection_metrics._CHUNK", 3)
    assert frame_map(annotations, detections, label_map) == expected


# evaluate.Metric


def by_frame(rows, keys):
    """The rows of each key frame as an example of the metric."""
    frames = {key: {"boxes": [], "labels": [], "scores": []} for key in keys}
    for row, (video, time) in enumerate(zip(rows.video, rows.times, strict=True)):
        frame = frames[rows.videos[video], time]
        if rows.actions[row]:
            frame["boxes"].append(rows.boxes[row].tolist())
            frame["labels"].append(int(rows.actions[row]) - 1)
            frame["scores"].append(0.0 if rows.scores is None else float(rows.scores[row]))
    if rows.scores is None:
        frames = {key: {name: frame[name] for name in ("boxes", "labels")} for key, frame in frames.items()}
    return list(frames.values())


@pytest.mark.parametrize("protocol", ["ava", "ava-kinetics"])
def test_the_metric_of_evaluate_agrees_with_that_of_the_files(protocol):
    annotations, detections, _ = recorded_files("ava_eval_large", "_kinetics" if protocol == "ava-kinetics" else "")
    keys = {
        (rows.videos[video], time)
        for rows in (annotations, detections)
        for video, time in zip(rows.video, rows.times, strict=True)
    }
    if protocol == "ava-kinetics":  # an example is a key frame that the annotations list
        keys = {(annotations.videos[v], t) for v, t in zip(annotations.video, annotations.times, strict=True)}
        listed = [
            row
            for row, (v, t) in enumerate(zip(detections.video, detections.times, strict=True))
            if (detections.videos[v], t) in keys
        ]
        names = [detections.videos[v] for v in detections.video[listed]]
        columns = (detections.times, detections.boxes, detections.actions, detections.scores)
        detections = table(names, *(column[listed] for column in columns))
    keys = sorted(keys)
    predictions, references = by_frame(detections, keys), by_frame(annotations, keys)
    metric = FrameMeanAveragePrecision()
    result = metric.compute(predictions=predictions, references=references, num_labels=80, protocol=protocol)
    expected = frame_map(annotations, detections, {number: str(number) for number in range(1, 81)}, protocol)
    assert result == {"map50": expected.map50, "ap50": list(expected.ap50.values())}
    for start in range(0, len(keys), 7):
        metric.add_batch(predictions=predictions[start : start + 7], references=references[start : start + 7])
    assert metric.compute(num_labels=80, protocol=protocol) == result
    combined = evaluate.combine([FrameMeanAveragePrecision()])
    assert combined.compute(predictions=predictions, references=references, num_labels=80, protocol=protocol) == result


def test_the_metric_of_evaluate_refuses_labels_beyond_the_classes():
    frame = {"boxes": [[0, 0, 1, 1]], "labels": [3], "scores": [0.5]}
    reference = {"boxes": [[0, 0, 1, 1]], "labels": [1]}
    with pytest.raises(ValueError, match="from 3 to 3, but there are 3 classes"):
        FrameMeanAveragePrecision().compute(predictions=[frame], references=[reference], num_labels=3)


def test_a_key_frame_without_persons_is_an_example():
    empty = {"boxes": [], "labels": []}
    frame = {"boxes": [[0.0, 0.0, 1.0, 1.0]], "labels": [0]}
    result = FrameMeanAveragePrecision().compute(
        predictions=[empty | {"scores": []}, frame | {"scores": [0.5]}], references=[frame, empty]
    )
    assert result == {"map50": 0.0, "ap50": [0.0]}


# refusals

ONE = ("v", [1], [[0, 0, 1, 1]], [3])


@pytest.mark.parametrize(
    ("annotations", "detections", "arguments", "message"),
    [
        (ONE, ("v", [1], [[0, 0, 1, 1]], [3], [0.5]), {"protocol": "coco"}, "protocol is 'coco'; choose 'ava' or"),
        (ONE, ("v", [1], [[0, 0, 1, 1]], [3], [0.5]), {"label_map": {5: "sit"}}, "label map matches no annotation"),
        (ONE, ("v", [901], [[0, 0, 1, 1]], [3], [0.5]), {}, "No detection is on a key frame .* v at 901 s"),
        (ONE, ("w", [1], [[0, 0, 1, 1]], [3], [0.5]), {}, "first is of w at 1 s, the first annotation of v at 1 s"),
        (
            ("vv", [1, 2], [[0, 0, 1, 1], [math.nan] * 4], [3, 0]),
            ("v", [1], [[0, 0, 1, 1]], [3], [0.5]),
            {},
            'which protocol "ava" does not have',
        ),
        (
            ONE,
            ("v", [1], [[0, 0, 1, 1]], [3], [0.5]),
            {"protocol": "ava-kinetics", "excluded": {("v", 1.0)}},
            'but protocol "ava-kinetics" has none',
        ),
        (ONE, ("v", [1], [[0, 0, 1, 1]], [3], [0.5]), {"excluded": {("v", 1.0)}}, "are on excluded key frames"),
        (
            ("v", [1], [[0.5, 0, 0.4, 1]], [3]),
            ("v", [1], [[0, 0, 1, 1]], [3], [0.5]),
            {},
            "row 0: an annotated box has x2",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(annotations, detections, arguments, message):
    with pytest.raises(ValueError, match=message):
        frame_map(table(*annotations), table(*detections), **({"label_map": {3: "run"}} | arguments))
