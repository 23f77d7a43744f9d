"""`umt evaluate --task detection`: a file of detections, a model with boxes of three kinds, results and bad input."""

import argparse
import csv
import json
import math
from pathlib import Path

import pytest
from finetuning_tools import tiny_classifier
from key_frame_files import metadata_row, write_lines, write_metadata
from recorded import find_shared, load_recorded
from tiny_action_training import BOXES, CLASSES, save_key_frames, save_tiny_detector
from tiny_classifier import save_noise
from tiny_detection import save_tiny_person_detector

from processing_umt import UMTVideoProcessor
from umt_training.cli import evaluate as cli_evaluate

LABEL_MAP = "".join(f'item {{ name: "{name}" id: {number} }}\n' for number, name in enumerate(CLASSES, 1))
KEY = "PascalBoxes_Precision/mAP@0.5IOU"
CLASS_KEY = "PascalBoxes_PerformanceByCategory/AP@0.5IOU/"


def run(*argv) -> int:
    parser = argparse.ArgumentParser()
    cli_evaluate.add_arguments(parser)
    options = ["--task", "detection", "--device", "cpu", "--num-workers", 0]
    return cli_evaluate.run(parser.parse_args([str(word) for word in (*argv, *options)]))


def read_results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def read_classes(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["id", "name", "ap50"]
    return rows


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_tiny_detector(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """Own data, and the same persons as detected ones, moved by two pixels, in `persons.jsonl`."""
    folder = save_key_frames(tmp_path_factory.mktemp("videos"))
    rows = [
        {
            "file_name": f"{video}.mp4",
            "time": time,
            "objects": {"bbox": [[x + 2, y + 2, w, h] for x, y, w, h in BOXES], "scores": [0.9, 0.85, 0.5]},
        }
        for video in range(6)
        for time in (0.5, 1.25)
    ]
    write_metadata(folder / "persons.jsonl", rows)
    return folder


@pytest.mark.parametrize(
    ("name", "part", "recorded_as", "protocol"),
    [
        ("ava_eval", "", "metrics", "ava"),
        ("ava_eval_large", "", "metrics", "ava"),
        ("ava_eval_large", "_kinetics", "kinetics_metrics", "ava-kinetics"),
    ],
)
def test_a_file_of_detections_has_the_recorded_map_of_every_class(name, part, recorded_as, protocol, tmp_path):
    recorded, _ = load_recorded(name)
    files = {kind: find_shared("fixtures", f"{name}{part}_{kind}.csv") for kind in ("ground_truth", "detections")}
    label_map = find_shared("fixtures", f"{name}_labelmap.pbtxt")
    options = ["--data", files["ground_truth"], "--detections", files["detections"], "--label-map", label_map]
    if protocol == "ava":
        options += ["--excluded", find_shared("fixtures", f"{name}_excluded.csv")]
    assert run(*options, "--protocol", protocol, "--output", tmp_path) == 0
    expected = recorded[recorded_as]
    assert read_results(tmp_path)["metrics"] == {"map50": pytest.approx(100 * expected[KEY], abs=1e-6)}
    for _, label, value in read_classes(tmp_path / "per_class.csv"):
        of_class = expected.get(CLASS_KEY + label)
        if of_class is None or math.isnan(of_class):
            assert value == ""
        else:
            assert float(value) == pytest.approx(100 * of_class, abs=1e-6)


def test_a_model_is_scored_with_detected_and_annotated_boxes(model, videos, tmp_path, capsys):
    assert (
        run("--model", model, "--data", videos, "--boxes", videos / "persons.jsonl", "--output", tmp_path / "a") == 0
    )
    out = capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [
        "detections.csv", "errors", "index.html", "per_class.csv", "per_class.png", "per_class_2.png",
        "per_class_annotated.csv", "results.json",
    ]  # fmt: skip
    page = (tmp_path / "a" / "index.html").read_text(encoding="utf-8")
    assert page.count('<img src="errors/') == len(list((tmp_path / "a" / "errors").iterdir())) > 0
    results = read_results(tmp_path / "a")
    assert results["task"] == "object-detection" and results["model"]["num_labels"] == 3
    assert results["metrics"].keys() == {"map50", "annotated_map50"}
    protocol = results["protocol"]
    assert (protocol["protocol"], protocol["boxes"], protocol["detector_threshold"]) == ("ava", "detected", 0.8)
    assert (protocol["frame_stride"], protocol["sampling_fps"], protocol["size"]) == (8, 25, {"shortest_edge": 36})
    dataset = results["dataset"]
    assert (dataset["num_key_frames"], dataset["num_persons"], dataset["num_annotated_boxes"]) == (12, 24, 42)
    assert "24 detected persons (12 below the score 0.8 left out) on 12 key frames, 2 frames, short side 36" in out
    assert f"{results['metrics']['map50']:6.2f} %  of 3 classes" in out and "with annotated boxes" in out
    classes = read_classes(tmp_path / "a" / "per_class.csv")
    assert [row[:2] for row in classes] == [["1", "sit"], ["2", "stand"], ["3", "talk"]]
    assert sum(float(row[2]) for row in classes) / 3 == pytest.approx(results["metrics"]["map50"])

    # the annotated boxes alone, and the written detections without the model
    assert run("--model", model, "--data", videos, "--output", tmp_path / "b") == 0
    alone = read_results(tmp_path / "b")
    assert alone["metrics"] == {"map50": pytest.approx(results["metrics"]["annotated_map50"])}
    for folder in ("a", "b"):
        detections = tmp_path / folder / "detections.csv"
        assert run("--detections", detections, "--data", videos, "--output", tmp_path / "c") == 0
        again = read_results(tmp_path / "c")["metrics"]["map50"]
        assert again == pytest.approx(read_results(tmp_path / folder)["metrics"]["map50"], abs=1e-9)


def test_ava_files_of_cut_movies_and_alphaction_json(model, tmp_path, capsys):
    """A csv of annotations, persons in JSON with the annotations that number them, and a missing movie."""
    for name in ("m1", "m2"):
        save_noise(tmp_path / "movies" / f"{name}.mp4", 0, num_frames=60)
    rows = ["m1,0902,0.1,0.1,0.5,0.9,1,0", "m2,0903,0.2,0.2,0.6,0.9,2,1", "gone,0902,0.1,0.1,0.5,0.9,3,0"]
    data = write_lines(tmp_path / "val.csv", *rows)
    images = [
        {"id": number, "movie": name, "timestamp": time, "width": 160, "height": 96}
        for number, (name, time) in enumerate([("m1", 902), ("m2", 903), ("m2", 904)])
    ]
    annotations = [{"image_id": 0, "bbox": [16, 9.6, 64, 76.8], "action_ids": [1]}]
    (tmp_path / "min.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    persons = [{"image_id": number, "bbox": [20, 10, 60, 70], "category_id": 1, "score": 0.9} for number in range(3)]
    (tmp_path / "persons.json").write_text(json.dumps(persons))
    label_map = write_lines(tmp_path / "map.pbtxt", LABEL_MAP)
    excluded = write_lines(tmp_path / "excluded.csv", "m2,0904")
    common = ["--model", model, "--root", tmp_path / "movies", "--start", 900, "--output", tmp_path / "out"]
    boxes = ["--boxes", tmp_path / "persons.json"]
    options = ["--data", data, "--label-map", label_map, "--image-ids", tmp_path / "min.json", "--excluded", excluded]
    assert run(*common, *boxes, *options) == 0
    results = read_results(tmp_path / "out")
    assert (results["dataset"]["num_key_frames"], results["dataset"]["num_unread_key_frames"]) == (3, 1)
    out = capsys.readouterr().out
    assert "missed: the persons on 1 key frames" in out and "1 key frames of 1 videos have no file" in out
    assert len((tmp_path / "out" / "detections.csv").read_text().splitlines()) == 2 * 3
    # the JSON is itself a file of annotations; without a label map all classes of the model are evaluated
    assert run(*common, *boxes, "--data", tmp_path / "min.json") == 0
    assert read_results(tmp_path / "out")["dataset"]["num_persons"] == 3


def test_persons_are_found_by_a_detector(model, videos, tmp_path, capsys):
    """A random detector that always predicts persons: its boxes are wrong, the annotated ones are not."""
    detector = save_tiny_person_detector(tmp_path / "detector")
    options = ["--detector", detector, "--detector-threshold", 0, "--output", tmp_path / "out"]
    assert run("--model", model, "--data", videos, *options) == 0
    results = read_results(tmp_path / "out")
    assert results["metrics"]["map50"] < results["metrics"]["annotated_map50"]
    assert results["protocol"]["detector"] == str(detector) and results["dataset"]["num_persons"] > 12
    with pytest.raises(ValueError, match=r"finds no person with a score of 1 or more on 12 key frames"):
        run("--model", model, "--data", videos, "--detector", detector, "--detector-threshold", 1)


@pytest.fixture(scope="module")
def bad(tmp_path_factory, videos) -> Path:
    """Files of which each has one fault."""
    folder = tmp_path_factory.mktemp("bad")
    row = "0,0.5,0.1,0.1,0.5,0.9,{},{}"
    files = {
        "good.csv": [row.format(1, 0)], "detections.csv": [row.format(1, 0.7)], "persons.csv": [row.format("", 0.9)],
        "pixels.csv": ["0,0.5,10,10,50,90,1,0"], "reversed.csv": ["0,0.5,0.5,0.1,0.1,0.9,1,0"],
        "header.csv": ["video,time,x1,y1,x2,y2,action,person", row.format(1, 0)], "zero.csv": [row.format(0, 0)],
        "late.csv": ["0,99,0.1,0.1,0.5,0.9,1,0"], "gone.csv": ["gone,902,0.1,0.1,0.5,0.9,1,0"],
        "low.csv": [row.format("", 0.3)], "other_times.csv": ["0,7,0.1,0.1,0.5,0.9,1,0.7"],
        "map.pbtxt": [LABEL_MAP], "map80.pbtxt": ['item { name: "sit" id: 1 }\nitem { name: "walk" id: 80 }'],
        "other.pbtxt": ['item { name: "swim" id: 2 }'], "foreign.pbtxt": ['item { name: "swim" id: 1 }'],
    }  # fmt: skip
    for name, lines in files.items():
        write_lines(folder / name, *lines)
    (folder / "persons.pkl").write_bytes(b"\x80\x04.")
    (folder / "persons.json").write_text('[{"image_id": 0, "bbox": [1, 1, 5, 5], "score": 0.9}]')
    rows = {"fractions": {"bbox": [[0.1, 0.1, 0.2, 0.3]]}, "jog": {"categories": [["jog"]]}, "outside": {}}
    for name, fields in rows.items():
        save_noise(folder / name / "a.mp4", 0, num_frames=20)
        box = {"bbox": [[500, 6, 10, 20]]} if name == "outside" else {}
        write_metadata(folder / name / "metadata.jsonl", [metadata_row(**fields | box)])
    tiny_classifier().save_pretrained(folder / "classifier")
    save_tiny_detector(folder / "wrong_processor")
    UMTVideoProcessor(num_frames=2).save_pretrained(folder / "wrong_processor")
    save_tiny_person_detector(folder / "detector")
    return folder


CSV = ("--data", "good.csv", "--root", "VIDEOS")
MODEL = ("--model", "MODEL")
BAD = {
    "neither": ((*CSV,), "Give --model to score a model, or --detections"),
    "both": (
        (*CSV, *MODEL, "--detections", "detections.csv"),
        "--detections are scored without a model, so that --mo",
    ),
    "boxes and detector": ((*CSV, *MODEL, "--boxes", "persons.csv", "--detector", "detector"), "leave one of the two"),
    "threshold": ((*CSV, *MODEL, "--detector-threshold", "0.5"), "is for persons of --boxes or --detector, and neit"),
    "threshold of 8": ((*CSV, *MODEL, "--boxes", "persons.csv", "--detector-threshold", "8"), "is 8; expected a scor"),
    "image ids": ((*CSV, *MODEL, "--boxes", "persons.csv", "--image-ids", "persons.json"), "--image-ids is for --bo"),
    "start": ((*CSV, *MODEL, "--start", "-1"), "--start is -1; expected a second from 0"),
    "excluded": ((*CSV, *MODEL, "--protocol", "ava-kinetics", "--excluded", "good.csv"), "has no excluded key frames"),
    "other task": ((*CSV, *MODEL, "--clips", "2"), "--clips is an option of --task classification"),
    "classifier": ((*CSV, "--model", "classifier"), r"cannot detect actions: it is a classifier .* action detection"),
    "person detector": ((*CSV, "--model", "detector"), "which detects no actions"),
    "no model": ((*CSV, "--model", "nowhere"), "nowhere"),
    "processor": ((*CSV, "--model", "wrong_processor"), "is not one of action detection: its sampling is 'sparse'"),
    "action detector": ((*CSV, *MODEL, "--detector", "MODEL"), "cannot find persons: it is an action detection model"),
    "header": (("--data", "header.csv", *MODEL), r"header\.csv, line 1 .* looks like a header"),
    "pixels": (("--data", "pixels.csv", *MODEL), r"pixels\.csv, line 1: .* seems to be in pixels"),
    "reversed": (("--data", "reversed.csv", *MODEL), r"reversed\.csv, line 1: x2 is 0\.1 and x1 is 0\.5"),
    "id 0": (("--data", "zero.csv", *MODEL), r"zero\.csv, line 1: the action id is '0'"),
    "late": (
        ("--data", "late.csv", "--root", "VIDEOS", *MODEL),
        r"late\.csv, line 1: the key frame 0 at 99 s is outs",
    ),
    "gone": (
        ("--data", "gone.csv", "--root", "VIDEOS", *MODEL),
        r"1 key frames of 1 videos have no file .*--start 900",
    ),
    "no root": (("--data", "good.csv", "--root", "nowhere", *MODEL), "nowhere of the movies does not exist"),
    "fractions": (("--data", "fractions", *MODEL), r"metadata\.jsonl, line 1: .* seems to be in fractions"),
    "outside": (("--data", "outside", *MODEL), r"metadata\.jsonl, line 1: the box .* is outside the frame"),
    "unknown class": (("--data", "jog", *MODEL), "the category 'jog' is not one of the 3 classes"),
    "map of others": ((*CSV, *MODEL, "--label-map", "other.pbtxt"), r"None of the names in .* 'swim' is 'stand'"),
    "map of more": ((*CSV, *MODEL, "--label-map", "map80.pbtxt"), r"has the id 80 \(walk\), but the model has 3 cla"),
    "foreign map": ((*CSV, *MODEL, "--label-map", "foreign.pbtxt"), "None of the names in .* 'swim' is 'sit' there"),
    "map of own data": (("--data", "VIDEOS", *MODEL, "--label-map", "map.pbtxt"), "so that a label map has no use"),
    "no map": ((*CSV, "--detections", "detections.csv"), "contains action ids, and nothing to name them"),
    "unmatched map": ((*CSV, "--detections", "detections.csv", "--label-map", "other.pbtxt"), "matches no annotation"),
    "annotations": ((*CSV, "--detections", "persons.csv", "--label-map", "map.pbtxt"), r"persons\.csv, line 1"),
    "other times": ((*CSV, "--detections", "other_times.csv", "--label-map", "map.pbtxt"), "No detection is on a key"),
    "pickled": ((*CSV, *MODEL, "--boxes", "persons.pkl"), "is pickled: reading it would run the code in it"),
    "actions as persons": ((*CSV, *MODEL, "--boxes", "detections.csv"), r"detections\.csv, line 1 has the action id"),
    "low scores": ((*CSV, *MODEL, "--boxes", "low.csv"), r"No person in .*low\.csv has a score of 0\.8 or more"),
    "numbered persons": ((*CSV, *MODEL, "--boxes", "persons.json"), "whose videos and times are in the anno"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_in_one_line(case, bad, model, videos, tmp_path):
    """And before anything is written."""
    options, message = BAD[case]
    places = {"MODEL": str(model), "VIDEOS": str(videos)}
    words = [places.get(word) or (str(bad / word) if (bad / word).exists() else word) for word in options]
    with pytest.raises((ValueError, OSError), match=message) as error:
        run(*words, "--output", tmp_path / "out")
    assert "\n" not in str(error.value).strip()
    assert not (tmp_path / "out" / "results.json").exists()
