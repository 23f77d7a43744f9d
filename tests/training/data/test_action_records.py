"""Annotated actions and detected persons of every source become the same records, and what is wrong with them is named
with its file and line."""

import json
import pickle
import re

import datasets
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from key_frame_files import metadata_row, write_lines, write_metadata, write_numbered_video
from recorded import find_shared

from umt_training.data.action_metadata import read_action_metadata, read_metadata_persons
from umt_training.data.action_records import load_annotated_actions, load_detected_persons, training_key_frames
from umt_training.data.ava_csv import read_annotations, read_detections, read_excluded, read_person_rows
from umt_training.data.key_frames import KeyFrame, group_by_key_frame, hold_out_videos, inclusive_corners
from umt_training.data.label_map import label_map_classes, read_label_map

LABEL_MAP = ('item {  name: "sit"  id: 1 }', 'item {  name: "talk"  id: 2 }', 'item {  name: "run"  id: 4 }')


def summary(key_frames):
    """Video, time, boxes with six decimals, and labels of each key frame."""
    return [
        (frame.video, frame.time, np.round(frame.boxes, 6).tolist(), [list(labels) for labels in frame.labels])
        for frame in key_frames
    ]


@pytest.fixture
def label_map(tmp_path):
    return write_lines(tmp_path / "map.pbtxt", *LABEL_MAP)


EXPECTED = [
    ("m", 902.0, [[0.1, 0.2, 0.3, 0.6], [0.5, 0.5, 0.75, 1.0]], [[0, 1], [3]]),
    ("m", 903.0, [[0.1, 0.2, 0.3, 0.6]], [[1]]),
    ("k", 2.0, [[0.0, 0.0, 0.5, 0.5]], [[0]]),
]


def test_rows_of_a_person_are_joined_by_its_id(tmp_path, label_map):
    """The first box of a person on a key frame is kept."""
    path = write_lines(
        tmp_path / "a.csv",
        "m,0903,0.1,0.2,0.3,0.6,2,0",
        "m,0902,0.1,0.2,0.3,0.6,2,0",
        "m,0902,0.5,0.5,0.75,1,4,1",
        "",
        "m,0902,0.1,0.2,0.31,0.6,1,0",
        "k,0002,0,0,0.5,0.5,1,0",
    )
    actions = load_annotated_actions(path, label_map=label_map)
    key_frames, num_left_out = training_key_frames(actions)
    assert summary(key_frames) == EXPECTED and num_left_out == 0
    assert [frame.person_ids for frame in key_frames] == [(0, 1), (0,), (0,)]
    assert key_frames[0].place == f"{path}, line 2" and key_frames[2].place == f"{path}, line 6"
    assert label_map_classes(actions.label_map) == ["sit", "talk", "LABEL_2", "run"]
    kept, num_left_out = training_key_frames(actions, {("m", 902.0), ("m", 904.0)})
    assert summary(kept) == EXPECTED[1:] and num_left_out == 1


def test_rows_without_person_ids_are_joined_by_equal_boxes(tmp_path, label_map):
    """AVA-Kinetics: times with decimals; key frames on which nobody acts are in the table only."""
    path = write_lines(
        tmp_path / "k.csv",
        "m,902.0,0.1,0.2,0.3,0.6,1",
        "m,902.0,0.5,0.5,0.75,1.0,4",
        "n,12.533",
        "m,902.0,0.1,0.2,0.3,0.6,2",
        "m,903.0,0.1,0.2,0.3,0.6,2",
        "k,2.0,0.0,0.0,0.5,0.5,1",
    )
    actions = load_annotated_actions(path, label_map=label_map)
    key_frames, num_left_out = training_key_frames(actions)
    assert summary(key_frames) == EXPECTED and num_left_out == 1
    assert (actions.table.actions == 0).sum() == 1 and "n" in actions.table.videos


def test_json_of_the_official_code_has_the_same_records(tmp_path, label_map):
    images = [
        {"id": 10902, "movie": "m", "timestamp": 902, "width": 200, "height": 100},
        {"id": 10903, "movie": "m", "timestamp": 903, "width": 200, "height": 100},
        {"id": 20002, "movie": "k", "timestamp": 2, "width": 80, "height": 40},
        {"id": 20003, "movie": "k", "timestamp": 3, "width": 80, "height": 40},
    ]
    annotations = [
        {"image_id": 10902, "bbox": [20.0, 20.0, 40.0, 40.0], "action_ids": [2, 1]},
        {"image_id": 10902, "bbox": [100.0, 50.0, 50.0, 50.0], "action_ids": [4]},
        {"image_id": 10903, "bbox": [20.0, 20.0, 40.0, 40.0], "action_ids": [2]},
        {"image_id": 20002, "bbox": [0.0, 0.0, 40.0, 20.0], "action_ids": [1]},
    ]
    path = tmp_path / "ava_min.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    key_frames, _ = training_key_frames(load_annotated_actions(path, label_map=label_map))
    assert summary(key_frames) == EXPECTED
    persons = [
        {"image_id": 20003, "category_id": 1, "bbox": [8.0, 4.0, 8.0, 4.0], "score": 0.8},
        {"image_id": 10902, "category_id": 1, "bbox": [20.0, 20.0, 40.0, 40.0], "score": 0.95},
        {"image_id": 10902, "category_id": 1, "bbox": [0.0, 0.0, 40.0, 40.0], "score": 0.79},
    ]
    (tmp_path / "persons.json").write_text(json.dumps(persons))
    found, num_below = load_detected_persons(tmp_path / "persons.json", annotations=path)
    assert summary(found) == [("k", 3.0, [[0.1, 0.1, 0.2, 0.2]], [[]]), ("m", 902.0, [[0.1, 0.2, 0.3, 0.6]], [[]])]
    assert num_below == 1 and found[1].scores.tolist() == [0.95]


def test_own_data_have_the_same_records(tmp_path):
    """Several rows name one file, and one key frame; rows and persons without categories are counted."""
    write_metadata(
        tmp_path / "metadata.jsonl",
        [
            metadata_row("m.mp4", 3.5, bbox=[[10, 20, 30, 40]], categories=[["talk", "sit"]]),
            metadata_row("m.mp4", 1, bbox=[[1, 2, 3, 4], [5, 6, 7, 8]], categories=[[], ["run"]], track=[0, 1]),
            metadata_row("m.mp4", 2, categories=[[]]),
            metadata_row("m.mp4", 2.5, bbox=[], categories=[]),
            metadata_row("m.mp4", 3.5, bbox=[[50, 60, 7, 8]], categories=[["run"]]),
            {"file_name": "sub/n.mp4", "time": 0, "objects": {"bbox": [[0, 0, 5, 5]]}},
        ],
    )
    actions = load_annotated_actions(tmp_path)
    assert (actions.label_map, actions.num_empty_rows, actions.num_empty_persons) == (
        {1: "run", 2: "sit", 3: "talk"},
        3,
        1,
    )
    key_frames, _ = training_key_frames(actions)
    assert summary(key_frames) == [
        ("m.mp4", 1.0, [[5, 6, 12, 14]], [[0]]),
        ("m.mp4", 3.5, [[10, 20, 40, 60], [50, 60, 57, 68]], [[1, 2], [0]]),
    ]
    assert not key_frames[0].relative and key_frames[1].place == f"{tmp_path / 'metadata.jsonl'}, line 1"
    given = load_annotated_actions(tmp_path / "metadata.jsonl", class_names=["talk", "other", "sit", "run"])
    assert [frame.labels for frame in training_key_frames(given)[0]] == [((3,),), ((0, 2), (3,))]


def test_own_data_load_with_datasets(tmp_path):
    for name in ("a.mp4", "sub/b.mp4"):
        write_numbered_video(tmp_path / name, 3)
    rows = [
        metadata_row("a.mp4", 0.5, categories=[["sit", "talk"]], scores=[0.5], track=[3]),
        metadata_row("a.mp4", 1.5, categories=[[]], scores=[0.25], track=[3]),
        metadata_row(
            "sub/b.mp4", 1, bbox=[[1, 2, 3, 4], [5, 6, 7, 8]], categories=[["sit"], []], scores=[1, 0.5], track=[0, 1]
        ),
    ]
    write_metadata(tmp_path / "metadata.jsonl", rows)
    loaded = datasets.load_dataset(
        "videofolder", data_dir=str(tmp_path), split="train", cache_dir=str(tmp_path / ".cache")
    )
    loaded = loaded.cast_column("video", datasets.Video(decode=False))
    assert [row["objects"] for row in loaded] == [row["objects"] for row in rows]
    key_frames, _ = training_key_frames(load_annotated_actions(tmp_path))
    assert [(frame.video, frame.time) for frame in key_frames] == [("a.mp4", 0.5), ("sub/b.mp4", 1.0)]


def test_the_split_of_a_folder_is_a_sub_folder(tmp_path):
    for split, category in (("train", "sit"), ("test", "run")):
        write_metadata(tmp_path / split / "metadata.jsonl", [metadata_row(categories=[[category]])])
    actions = load_annotated_actions(tmp_path, split="test")
    assert actions.label_map == {1: "run"} and actions.table.videos == ["a.mp4"]


def test_detected_persons_of_every_source(tmp_path):
    csv = write_lines(
        tmp_path / "p.csv", "m,0902,0.1,0.2,0.3,0.6,,0.9", "m,0902,0.1,0.2,0.3,0.6,-1,0.7", "n,3,0,0,1,1,,0.8"
    )
    found, num_below = load_detected_persons(csv)
    assert (
        summary(found) == [("m", 902.0, [[0.1, 0.2, 0.3, 0.6]], [[]]), ("n", 3.0, [[0, 0, 1, 1]], [[]])]
        and num_below == 1
    )
    assert len(load_detected_persons(csv, threshold=0.0)[0][0].boxes) == 2, "equal boxes are not joined"
    rows = [metadata_row(scores=[0.9]), metadata_row(time=2, categories=[], scores=[0.2])]
    write_metadata(tmp_path / "own" / "metadata.jsonl", rows)
    found, num_below = load_detected_persons(tmp_path / "own")
    assert summary(found) == [("a.mp4", 1.0, [[5, 6, 15, 26]], [[]])] and num_below == 1
    write_metadata(tmp_path / "own" / "metadata.jsonl", [metadata_row()])
    assert load_detected_persons(tmp_path / "own")[0][0].scores.tolist() == [1.0], "persons without scores are certain"


def test_label_maps_are_read_with_any_white_space(tmp_path):
    path = write_lines(
        tmp_path / "map.pbtxt",
        "# classes",
        "item{name:\"a {b}: 'c'\" id:2}",
        "label {",
        '\tname: "d, \\"e\\""',
        "  label_id: 1",
        "  label_type: PERSON_MOVEMENT",
        "}",
    )
    assert read_label_map(path) == {1: 'd, "e"', 2: "a {b}: 'c'"}
    assert len(read_label_map(find_shared("fixtures", "ava_eval_large_labelmap.pbtxt"))) == 12


def test_videos_are_held_out_whole():
    frames = [KeyFrame(f"v{n % 6}", n, np.zeros((1, 4)), True, ((0,),), (-1,), None, "") for n in range(60)]
    train, evaluation = hold_out_videos(frames, 0.3, seed=1)
    assert len({frame.video for frame in evaluation}) == 2 and len(train) + len(evaluation) == 60
    assert {frame.video for frame in train}.isdisjoint({frame.video for frame in evaluation})
    assert hold_out_videos(frames, 0.3, seed=1)[1] == evaluation != hold_out_videos(frames, 0.3, seed=2)[1]
    with pytest.raises(ValueError, match="of a single video"):
        hold_out_videos(frames[:1], 0.3, seed=1)


# boxes


def test_boxes_become_the_recorded_inclusive_corners(recorded):
    _, tensors = recorded("ava_transform")
    for number in range(3):
        x, y, width, height = tensors[f"input/boxes_xywh_{number}"].numpy().astype(np.float64).T
        boxes = np.stack([x, y, x + width, y + height], axis=1)
        size = tensors[f"input/frames_{number}"].shape[1:3]
        relative = boxes / np.array([size[1], size[0]] * 2)
        for written, is_relative in ((boxes, False), (relative, True)):
            frame = KeyFrame("v", 0, written, is_relative, ((0,),) * len(boxes), (-1,) * len(boxes), None, "")
            corners, persons = inclusive_corners(frame, *size)
            assert corners.dtype == np.float32 and persons.tolist() == list(range(len(boxes)))
            np.testing.assert_allclose(corners, tensors[f"input/boxes_xyxy_{number}"].numpy(), atol=1e-4)


def test_boxes_without_area_are_left_out_with_their_labels():
    boxes = np.array([[0.5, 0.5, 0.505, 0.9], [0.1, 0.1, 0.9, 0.9], [1.0, 0, 1.2, 1]])
    frame = KeyFrame("v", 0, boxes, True, ((0,), (1,), (2,)), (-1,) * 3, None, "a.csv, line 1")
    corners, persons = inclusive_corners(frame, 100, 100)
    assert corners.tolist() == [[10, 10, 89, 89]] and persons.tolist() == [1]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), num_rows=st.integers(1, 60), has_ids=st.booleans())
def test_no_action_is_lost_or_invented(tmp_path_factory, seed, num_rows, has_ids):
    """Every (video, time, person, action) of the rows is in the records, and nothing else."""
    generator = np.random.default_rng(seed)
    rows, expected = [], set()
    for video, time, person, action in generator.integers(0, [3, 3, 4, 5], (num_rows, 4)).tolist():
        box = (0.1 * person, 0.0, 0.1 * person + 0.05, 0.5)
        rows.append(",".join(map(str, [f"v{video}", time, *box, action + 1, *([person] if has_ids else [])])))
        expected.add((f"v{video}", float(time), person, action))
    path = write_lines(tmp_path_factory.mktemp("csv") / "a.csv", *rows)
    found = [
        (frame.video, frame.time, round(box[0] / 0.1), label)
        for frame in group_by_key_frame(read_annotations(path))
        for box, labels in zip(frame.boxes, frame.labels, strict=True)
        for label in labels
    ]
    assert len(found) == len(set(found)) and set(found) == expected


# what is refused

GOOD = "m,0902,0.1,0.2,0.3,0.6,2,0"
SCORED = "m,0902,0.1,0.2,0.3,0.6,2,0.5"
PERSON = "m,0902,0.1,0.2,0.3,0.6,,0.9"
ROW = json.dumps(metadata_row())
IMAGE = {"id": 1, "movie": "m", "timestamp": 902, "width": 200, "height": 100}
PERSON_JSON = {"image_id": 1, "bbox": [1, 2, 3, 4], "score": 0.9}


def own(**objects):
    return json.dumps(metadata_row(**objects))


CSV_FAULTS = [
    (read_annotations, [GOOD, "m,0902,12,20,90,95,2,0"], "line 2: the box .*seems to be in pixels; expected frac"),
    (read_annotations, [GOOD, "", "m,0902,0.4,0.2,0.3,0.6,2,0"], "line 3: x2 is 0.3 and x1 is 0.4"),
    (read_annotations, [GOOD, "m,0902,0.1,0.7,0.3,0.6,2,0"], "line 2: y2 is 0.6 and y1 is 0.7"),
    (read_annotations, ["video,time,x1,y1,x2,y2,action,person", GOOD], "line 1 .* looks like a header"),
    (read_annotations, ["video_id,middle_frame_timestamp,a,b,c,d,e", GOOD], "line 1 .* looks like a header"),
    (read_annotations, [GOOD, "m,0902,0.1,0.2,0.3,0.6,0,0"], "line 2: the action id is '0'; .* ids of AVA start at 1"),
    (read_annotations, [GOOD, "m,0902,0.1,0.2,0.3,0.6,1.5,0"], "line 2: the action id is '1.5'"),
    (read_annotations, [GOOD, "m,0902,0.1,0.2,0.3,0.6,,0"], "line 2: the action id is ''"),
    (read_annotations, [GOOD, SCORED], "line 2: the person id is '0.5'; .* is this a file of det"),
    (read_annotations, [GOOD, "m,0902,0.1,0.2,0.3"], "line 2 has 5 columns; expected 8 or 7 or 2"),
    (read_annotations, [GOOD, GOOD + ",1"], "line 2 has 9 columns"),
    (read_annotations, [GOOD, "m,now,0.1,0.2,0.3,0.6,2,0"], "line 2: the time is 'now'"),
    (read_annotations, [GOOD, "m,-3,0.1,0.2,0.3,0.6,2,0"], "line 2: the time is '-3'"),
    (read_annotations, [GOOD, "m,0902,nan,0.2,0.3,0.6,2,0"], "line 2: the x1 is 'nan'"),
    (read_annotations, [GOOD, "m,0902,,0.2,0.3,0.6,2,0"], "line 2: the x1 is ''"),
    (read_annotations, [GOOD, ",0902,0.1,0.2,0.3,0.6,2,0"], "line 2 has no video"),
    (read_annotations, [GOOD, "m,"], "line 2: the time is ''"),
    (read_annotations, [""], "is empty; expected rows of annotations"),
    (read_detections, [SCORED, "m,0902,0.1,0.2,0.3,0.6,2"], "line 2 has 7 columns; expected 8: .*, score"),
    (read_detections, [SCORED, "m,0902,0.1,0.2,0.3,0.6,2,nan"], "line 2: the score is 'nan'"),
    (read_detections, [SCORED, "m,0902,0.1,0.2,0.3,0.6,2,"], "line 2: the score is ''"),
    (read_detections, [SCORED, "m,0902,1,2,30,60,2,0.1"], "line 2: the box .* in pixels"),
    (read_detections, [SCORED, "", "m,0902,0.1,0.2,0.3,0.6,0,0.1"], "line 3: the action id is '0'"),
    (read_detections, ["a,b,c,d,e,f,g,h", SCORED], "line 1 .* header"),
    (read_person_rows, [PERSON, SCORED], "line 2 has the action id '2'; column 7 of detected persons is empty"),
    (read_person_rows, [PERSON, "m,0902,0.1,0.2,0.3,0.6,,90"], "line 2: the score is '90'; expected a score from 0"),
    (read_person_rows, [PERSON, "m,0902,10,20,30,60,,0.9"], "line 2: the box .* in pixels"),
    (read_excluded, ["m,0902", "m"], "line 2 is 'm'; expected a video and a time"),
    (read_excluded, ["video,time"], "line 1 is 'video,time'"),
    (read_label_map, ['item { name: "a" id: 0 }'], "line 1: the id is '0'; expected an integer from 1"),
    (read_label_map, ['item { name: "a" id: 1 }', 'item { name: "b" id: 1 }'], "line 2: the id 1 occurs twice"),
    (read_label_map, ['item { name: "a" id: 1 }', 'item { name: "a" id: 2 }'], "line 2: the name 'a' occurs twice"),
    (read_label_map, ['item { name: "a" id: 1 }', 'item { name: "b" }'], "line 2: this entry has no id"),
    (read_label_map, ["item { id: 3 }"], "line 1: this entry has no name"),
    (read_label_map, ['item { name: "a"', 'item { name: "b" id: 1 }'], "line 2: an entry begins within another"),
    (read_label_map, ['item { name: "a" id: 1'], "line 1: this entry has no end"),
    (read_label_map, ["sit", "stand"], "contains no class"),
    (read_label_map, ["1: sit; stand?"], "line 1: '\\?' is not part of a label map"),
    (read_action_metadata, [ROW, "{"], "line 2 is not valid JSON"),
    (read_action_metadata, [ROW, '{"file_name": "a.mp4", "time": 1}'], "line 2 is not a key frame"),
    (read_action_metadata, [ROW, own(bbox=[[0.1, 0.2, 0.3, 0.5]])], "line 2: the box .* in fractions .* expected pix"),
    (read_action_metadata, [ROW, own(bbox=[[9, 9, -3, 5]])], "line 2: the box .* negative width or height"),
    (read_action_metadata, [ROW, own(bbox=[[9, 9, 5]])], "line 2: a box is .* expected \\[x, y, width, height\\]"),
    (read_action_metadata, [ROW, own(categories=[["a"], ["b"]])], "line 2 has 1 boxes, but categories: 2"),
    (read_action_metadata, [ROW, own(categories=["sit"])], "line 2: the categories of a box are 'sit'"),
    (read_action_metadata, [ROW, own(categories=[[3]])], "line 2: the categories of a box are \\[3\\]"),
    (read_action_metadata, [ROW, own(track=[-1])], "line 2: a track is -1"),
    (read_action_metadata, [ROW, own(track=[10**30])], "line 2: a track is 1000"),
    (read_action_metadata, [ROW, own(bbox=[[10**400, 1, 2, 3]])], "line 2: a box is"),
    (read_action_metadata, [ROW, json.dumps(metadata_row(time=-1))], "line 2: the time is -1"),
    (read_action_metadata, [ROW, json.dumps(metadata_row(time="1"))], "line 2: the time is '1'"),
    (read_action_metadata, [ROW, json.dumps(metadata_row("../b.mp4"))], "line 2 lists ../b.mp4, which is not in"),
    (read_action_metadata, [ROW, json.dumps(metadata_row("/b.mp4"))], "line 2 lists /b.mp4, which is not in"),
    (read_action_metadata, [own(categories=[[]])], "No person in .* has categories"),
    (read_action_metadata, [ROW, own(categories=[["Sit"]])], "differ only in case"),
    (read_action_metadata, [""], "is empty; expected rows like"),
    (read_metadata_persons, [own(scores=[0.5]), ROW], "line 2: a person has no score, unlike others"),
    (read_metadata_persons, [own(scores=[50])], "line 1: a score is 50; expected from 0 to 1"),
    (read_metadata_persons, [own(bbox=[], categories=[])], "contains no person"),
]  # fmt: skip


@pytest.mark.parametrize(("read", "lines", "message"), CSV_FAULTS)
def test_a_fault_in_a_file_is_named_with_its_line(tmp_path, read, lines, message):
    path = write_lines(tmp_path / "file.txt", *lines)
    with pytest.raises(ValueError, match=message) as error:
        read(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


CELLS = [
    "",
    " ",
    "-1",
    "0",
    "1",
    "2",
    "0.5",
    "1.4",
    "-0.4",
    "7",
    "300",
    "nan",
    "1e400",
    "x",
    "1_0",
    "0x1",
    '"1"',
    "1,2",
]


@settings(max_examples=200, deadline=None)
@given(
    kind=st.sampled_from(["annotations", "detections", "persons"]),
    number=st.integers(1, 4),
    column=st.integers(0, 7),
    cell=st.sampled_from(CELLS),
)
def test_a_row_with_an_odd_cell_is_read_or_named(tmp_path_factory, kind, number, column, cell):
    """The check of all rows as arrays and that of single lines agree."""
    read, good = {
        "annotations": (read_annotations, GOOD),
        "detections": (read_detections, SCORED),
        "persons": (read_person_rows, PERSON),
    }[kind]
    cells = good.split(",")
    cells[column] = cell
    lines = [good] * 4
    lines[number - 1] = ",".join(cells)
    path = write_lines(tmp_path_factory.mktemp("csv") / "a.csv", *lines)
    try:
        table = read(path)
    except ValueError as error:
        assert re.search(rf"line {number}\b", str(error)) and "is malformed" not in str(error)
    else:
        assert len(table) == 4 and np.isfinite(table.boxes).all() and np.isfinite(table.times).all()
        assert (table.boxes[:, 2:] >= table.boxes[:, :2]).all() and np.abs(table.boxes).max() <= 1.5


@pytest.mark.parametrize(
    "read", [read_annotations, read_detections, read_excluded, read_label_map, load_detected_persons]
)
def test_a_file_that_does_not_exist_or_is_no_text_is_named(tmp_path, read):
    with pytest.raises(ValueError, match=r"absent.csv does not exist"):
        read(tmp_path / "absent.csv")
    (tmp_path / "odd.csv").write_bytes(b"m\xff\xfe,0902,0.1,0.2,0.3,0.6,2,0\n")
    with pytest.raises(ValueError, match=r"odd.csv .*UTF-?8"):
        read(tmp_path / "odd.csv")


def persons_json(tmp_path, person, images=True):
    (tmp_path / "a.json").write_text(json.dumps({"images": [IMAGE], "annotations": []}))
    (tmp_path / "p.json").write_text(json.dumps([PERSON_JSON, person]))
    return load_detected_persons(tmp_path / "p.json", annotations=tmp_path / "a.json" if images else None)


@pytest.mark.parametrize(
    ("person", "message"),
    [
        (PERSON_JSON | {"image_id": 2}, "entry 2: no image has the id 2"),
        (PERSON_JSON | {"score": 3}, "entry 2: the score is 3"),
        (PERSON_JSON | {"score": 10**400}, "entry 2: the score is 1000"),
        (PERSON_JSON | {"image_id": [1]}, "entry 2 is .*expected an object with image_id"),
        (PERSON_JSON | {"bbox": [1, 2, -3, 4]}, "entry 2: the box is"),
        (
            PERSON_JSON | {"bbox": [0.1, 0.2, 0.3, 0.4]},
            "entry 2: the box .* in fractions of the frame; expected pixels",
        ),
        ([1], "entry 2 is \\[1\\]"),
    ],
)
def test_a_fault_in_json_is_named_with_its_entry(tmp_path, person, message):
    with pytest.raises(ValueError, match=re.escape(str(tmp_path / "p.json")) + ", " + message):
        persons_json(tmp_path, person)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], r"contains no annotations"),
        ({"images": []}, r"has no list of annotations"),
        ({"images": [], "annotations": []}, r"contains no annotated action"),
        ({"images": [IMAGE, IMAGE], "annotations": []}, r"image 2: the id 1 occurs twice"),
        ({"images": [IMAGE | {"width": 0}], "annotations": []}, r"image 1 is .*expected id, movie"),
        ({"images": [IMAGE | {"id": None}], "annotations": []}, r"image 1 is .*expected id, movie"),
        (
            {"images": [IMAGE], "annotations": [{"image_id": 1, "bbox": [1, 2, 3, 4]}]},
            r"annotation 1: action_ids is None",
        ),
        (
            {"images": [IMAGE], "annotations": [{"image_id": 1, "bbox": [1, 2, 3, 4], "action_ids": [0]}]},
            r"annotation 1: action_ids is \[0\]; expected a list of ids, which start at 1",
        ),
    ],
)
def test_a_fault_in_json_of_annotations_is_named_with_its_entry(tmp_path, content, message):
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message) as error:
        load_annotated_actions(tmp_path / "a.json", class_names=["sit"])
    assert str(tmp_path / "a.json") in str(error.value)


def test_json_of_persons_needs_the_annotations_that_number_its_key_frames(tmp_path):
    with pytest.raises(ValueError, match=r"names key frames by image ids.* give that file too"):
        persons_json(tmp_path, PERSON_JSON, images=False)


@pytest.mark.parametrize("name", ["ava_dense_proposals_val.pkl", "boxes.csv", "boxes.json"])
@pytest.mark.parametrize("load", [load_detected_persons, load_annotated_actions])
def test_pickled_files_are_never_read(tmp_path, name, load):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("the pickle was read",))

    (tmp_path / name).write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ValueError, match=r"is pickled: reading it would run the code in it"):
        load(tmp_path / name)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([1, 3], r"a.csv, line 2 has the action id 3, which is not in the label map \(3 classes, ids 1, 2, 4\)"),
        ([7, 8], r"The label map matches no annotation: it has 3 classes, ids 1, 2, 4, the annotations have 7, 8\."),
    ],
)
def test_ids_that_are_not_in_the_label_map_are_refused_in_training(tmp_path, label_map, ids, message):
    path = write_lines(tmp_path / "a.csv", *(f"m,{time},0,0,1,1,{action}" for time, action in enumerate(ids)))
    with pytest.raises(ValueError, match=message):
        training_key_frames(load_annotated_actions(path, label_map=label_map))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give a label map"),
        ({"label_map": "map.pbtxt", "class_names": ["a"]}, "which may differ"),
        ({"class_names": ["a"], "split": "train"}, "has no splits"),
    ],
)
def test_options_that_a_source_does_not_have_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        load_annotated_actions(write_lines(tmp_path / "a.csv", GOOD), **options)
    write_metadata(tmp_path / "metadata.jsonl", [metadata_row()])
    with pytest.raises(ValueError, match="a label map has no use"):
        load_annotated_actions(tmp_path, label_map="map.pbtxt")
    with pytest.raises(ValueError, match=r"annotations are for AlphAction's"):
        load_detected_persons(tmp_path, annotations="a.json")


def test_nothing_left_is_an_error(tmp_path, label_map):
    actions = load_annotated_actions(write_lines(tmp_path / "a.csv", GOOD), label_map=label_map)
    with pytest.raises(ValueError, match="None of 1 key frames is left"):
        training_key_frames(actions, {("m", 902.0)})
    with pytest.raises(ValueError, match=r"No person in .* has a score of 0.95 or more; the highest of 1 is 0.900"):
        load_detected_persons(write_lines(tmp_path / "p.csv", PERSON), threshold=0.95)


def test_a_category_that_is_not_a_class_is_refused_with_a_suggestion(tmp_path):
    write_metadata(tmp_path / "metadata.jsonl", [metadata_row(), metadata_row(categories=[["siting"]])])
    with pytest.raises(ValueError, match=r"line 2: the category 'siting' is not one of the 2 classes .*mean sit\?"):
        load_annotated_actions(tmp_path, class_names=["run", "sit"])


def test_a_box_outside_of_the_video_is_refused_with_its_line():
    frame = KeyFrame(
        "a.mp4", 1, np.array([[0, 0, 9, 9], [700, 0, 800, 90]]), False, ((0,),) * 2, (-1,) * 2, None, "m, line 4"
    )
    with pytest.raises(
        ValueError, match=r"m, line 4: the box .* 700, 0, 800, 90 is outside the frame of a.mp4 .*64 × 48"
    ):
        inclusive_corners(frame, 48, 64)
