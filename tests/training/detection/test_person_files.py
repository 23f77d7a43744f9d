"""Persons from a file of boxes."""

import json

import pytest
from video_files import write_video

from processing_umt.video_decoding_umt import VideoReader
from umt_training.detection.key_times import frame_times
from umt_training.detection.person_files import PersonFile


@pytest.fixture
def video(tmp_path):
    return write_video(tmp_path / "clip.mp4", num_frames=30)  # 3 s of 64 x 48 pixels


def write_rows(path, *rows):
    """Rows of (file name, time, boxes, scores)."""
    lines = [
        {
            "file_name": name,
            "time": time,
            "objects": {"bbox": boxes, "categories": [[] for _ in boxes], "scores": scores},
        }
        for name, time, boxes, scores in rows
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def read(file: PersonFile, video):
    with VideoReader(video) as reader:
        key_frames, persons_on = file.open(str(video), reader, frame_times(str(video), reader))
        return [(time, frame, persons_on(number, None)) for number, (time, frame) in enumerate(key_frames)]


def test_own_data_and_pyslowfast_csv_give_the_same_persons(video, tmp_path):
    own = write_rows(
        tmp_path / "metadata.jsonl",
        ("clip.mp4", 1.5, [[16, 12, 32, 24]], [0.9]),
        ("clip.mp4", 0.5, [[0, 0, 32, 48], [32, 0, 40, 48]], [0.95, 0.85]),
    )
    csv = tmp_path / "persons.csv"
    csv.write_text("clip,0.5,0,0,0.5,1,,0.95\nclip,0.5,0.5,0,1,1,,0.85\nclip,1.5,0.25,0.25,0.75,0.75,,0.9\n")
    results = [read(PersonFile(path, 0.8), video) for path in (own, tmp_path, csv)]
    assert results[0] == results[1] == results[2]
    assert [(time, frame) for time, frame, _ in results[0]] == [(0.5, 5), (1.5, 15)]
    first, second = results[0][0][2]
    assert (first.box, first.score, second.box, second.score) == ((0, 0, 32, 48), 0.95, (32, 0, 64, 48), 0.85)


def test_persons_below_the_threshold_are_left_out(video, tmp_path):
    path = write_rows(tmp_path / "boxes.jsonl", ("clip.mp4", 1.0, [[0, 0, 32, 48], [32, 0, 30, 48]], [0.95, 0.7]))
    [(_, _, persons)] = read(PersonFile(path, 0.8), video)
    assert [person.score for person in persons] == [0.95]
    with pytest.raises(ValueError, match=r"No person in .* has a score of 0\.99"):
        PersonFile(path, 0.99)


def test_one_key_frame_per_interval_is_kept(video, tmp_path):
    rows = [("clip.mp4", number / 10, [[0, 0, 32, 48]], [0.9]) for number in range(1, 30, 2)]
    path = write_rows(tmp_path / "boxes.jsonl", *rows)
    assert len(read(PersonFile(path, 0.8), video)) == 15
    assert [time for time, _, _ in read(PersonFile(path, 0.8, every=1.0), video)] == [0.5, 1.5, 2.5]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        pytest.param(["clip.mp4", "other/clip.mp4"], 1.0, id="the file at this path"),
        pytest.param(["elsewhere/clip.mp4"], 1.0, id="the name of the file"),
        pytest.param(["other.mp4"], None, id="another video"),
        pytest.param(["a/clip.mp4", "b/clip.mp4"], "either may be meant", id="two names"),
    ],
)
def test_a_video_is_found_by_path_or_name(names, expected, video, tmp_path):
    rows = [(name, time, [[0, 0, 32, 48]], [0.9]) for time, name in enumerate(names, 1)]
    file = PersonFile(write_rows(tmp_path / "boxes.jsonl", *rows), 0.8)
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=expected):
            read(file, video)
    else:
        assert [time for time, _, _ in read(file, video)] == ([] if expected is None else [expected])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("clip.mp4", 3.5, [[0, 0, 32, 48]], [0.9]), "line 1: the key frame clip.mp4 at 3.5 s is outside of .*3.00 s"),
        (("clip.mp4", 1.0, [[70, 0, 32, 48]], [0.9]), "line 1: the box .* is outside the frame"),
    ],
)
def test_times_and_boxes_outside_of_the_video_are_errors(row, message, video, tmp_path):
    with pytest.raises(ValueError, match=message):
        read(PersonFile(write_rows(tmp_path / "boxes.jsonl", row), 0.8), video)


def test_image_ids_without_names_of_videos_are_refused(tmp_path):
    with pytest.raises(ValueError, match="names its key frames by numbers"):
        PersonFile(tmp_path / "persons.json", 0.8)
