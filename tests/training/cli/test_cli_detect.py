"""`umt detect` from videos on disk to its files, with tiny random models."""

import csv
import json
import os
import shutil
from pathlib import Path

import av
import pytest
from datasets import load_dataset
from PIL import Image
from tiny_classifier import save_noise, save_tiny_classifier
from tiny_detection import ACTIONS, save_tiny_action_detector, save_tiny_person_detector
from video_files import write_broken_videos

from processing_umt.video_decoding_umt import VideoReader
from umt_training import UMTActionDetectionPipeline, cli
from umt_training.data.action_records import load_annotated_actions
from umt_training.data.ava_csv import read_detections
from umt_training.detection import video_detection
from umt_training.detection.detections import DetectedVideo
from umt_training.detection.page import VideoFiles
from umt_training.detection.results import FinishedVideo, VideoResults


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Models of several kinds, and three videos, of which two have the same name."""
    folder = tmp_path_factory.mktemp("detect")
    save_tiny_action_detector(folder / "model")
    save_tiny_person_detector(folder / "detector")
    save_tiny_person_detector(folder / "animals", labels=("cat", "dog"))
    save_tiny_classifier(folder / "classifier")
    save_noise(folder / "videos" / "clip.mp4", 0, num_frames=33)
    save_noise(folder / "videos" / "deep" / "clip.mp4", 1, num_frames=12)
    save_noise(folder / "videos" / "odd.mp4", 2, num_frames=8, height=80, width=48)
    return folder


@pytest.fixture
def detect(folder, tmp_path, monkeypatch, capsys):
    """Function that runs `umt detect` in a copy of the folder: (exit code, lines of stdout, lines of stderr)."""
    for path in folder.iterdir():
        (shutil.copytree if path.name == "videos" else lambda a, b: b.symlink_to(a))(path, tmp_path / path.name)
    monkeypatch.chdir(tmp_path)

    def run(command: str):
        code = cli.main(["detect", *command.split()])
        captured = capsys.readouterr()
        return code, captured.out.splitlines(), captured.err.splitlines()

    return run


MODELS = "--model model --detector detector"


def test_every_video_has_json_csv_video_and_contact_sheet_and_all_have_one_page(detect, tmp_path):
    code, lines, errors = detect(f"videos {MODELS} --output out --threshold 0")
    assert code == 0 and errors == []
    assert lines == [
        "out/clip.mp4: 3 key frames, 6 boxes of persons, 2 tracks",
        "out/clip_2.mp4: 1 key frame, 2 boxes of persons, 2 tracks",
        "out/odd.mp4: 1 key frame, 2 boxes of persons, 2 tracks",
        "out/index.html: 3 videos",
    ]
    names = {f"{name}{suffix}" for name in ("clip", "clip_2", "odd") for suffix in (".json", ".csv", ".mp4", ".png")}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names | {"index.html"}

    content = json.loads((tmp_path / "out" / "clip.json").read_text())
    assert list(content) == ["video", "fps", "width", "height", "model", "detector", "key_frames"]
    assert [content[name] for name in list(content)[:6]] == ["videos/clip.mp4", 10.0, 80, 48, "model", "detector"]
    expected = UMTActionDetectionPipeline("model", "detector")("videos/clip.mp4", threshold=0.0)
    assert content["key_frames"] == json.loads(json.dumps(expected))
    assert [key_frame["time"] for key_frame in content["key_frames"]] == [0.5, 1.5, 2.5]
    for key_frame in content["key_frames"]:
        for person in key_frame["persons"]:
            assert {action["label"] for action in person["actions"]} == set(ACTIONS)

    rows = list(csv.reader((tmp_path / "out" / "clip.csv").open()))
    flat = [(k["time"], p, a) for k in content["key_frames"] for p in k["persons"] for a in p["actions"]]
    assert len(rows) == len(flat) == 3 * 2 * len(ACTIONS)
    for row, (time, person, action) in zip(rows, flat, strict=True):
        assert row[0] == "clip" and float(row[1]) == time
        corners = [corner / size for corner, size in zip(person["box"], (80, 48, 80, 48), strict=True)]
        assert [float(cell) for cell in row[2:6]] == pytest.approx(corners, abs=1e-5)
        assert int(row[6]) == ACTIONS.index(action["label"]) + 1
        assert float(row[7]) == pytest.approx(action["score"], abs=1e-5)
    assert len(read_detections(tmp_path / "out" / "clip.csv")) == len(rows)

    with VideoReader("videos/odd.mp4") as source, VideoReader("out/odd.mp4") as annotated:
        assert annotated.num_frames == source.num_frames
        assert (annotated.height, annotated.width) == (source.height, source.width)
    assert Image.open("out/clip.png").size[0] > 3 * 80
    page = (tmp_path / "out" / "index.html").read_text()
    for name in names:
        assert f'href="{name}' in page
    assert "videos/deep/clip.mp4" in page


def test_a_broken_video_is_reported_and_the_others_are_done(detect, tmp_path):
    (tmp_path / "broken").mkdir()
    broken = write_broken_videos(tmp_path / "broken")
    code, lines, errors = detect(f"broken videos/odd.mp4 {MODELS} --output out")
    assert code == 1
    assert len(errors) == len(broken)
    for path, error in zip(sorted(broken), errors, strict=True):
        assert error.startswith(f"umt detect: {Path(path).relative_to(tmp_path)}: ")
    assert lines[-1] == "out/index.html: 1 video"
    assert {path.stem for path in (tmp_path / "out").iterdir()} == {"odd", "index"}


def test_only_broken_videos_leave_no_page(detect, tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    code, lines, errors = detect(f"text.mp4 {MODELS} --output out")
    assert (code, lines, len(errors)) == (1, [], 1)
    assert not (tmp_path / "out").exists()


def test_damage_after_the_key_frames_leaves_no_file(detect, tmp_path):
    video = tmp_path / "videos" / "clip.mp4"
    data = bytearray(video.read_bytes())
    with av.open(str(video)) as container:
        packet = [bytes(packet) for packet in container.demux(video=0) if packet.size][32]
    start = data.index(packet)
    data[start : start + len(packet)] = bytes(len(packet))
    video.write_bytes(data)
    code, _, errors = detect(f"videos/clip.mp4 videos/odd.mp4 {MODELS} --output out --every 0.8")
    assert code == 1 and len(errors) == 1 and "videos/clip.mp4: it can't be decoded" in errors[0]
    assert {path.stem for path in (tmp_path / "out").iterdir()} == {"odd", "index"}


def test_files_of_another_process_that_are_not_in_the_folder_are_missed(tmp_path):
    """On a machine without the folder of the others."""
    paths = [tmp_path / f"clip{suffix}" for suffix in (".png", ".mp4", ".json")]
    files = VideoFiles(DetectedVideo("clip.mp4", 10.0, 80, 48, []), paths[0], paths[1], (paths[2],))
    results = VideoResults(tmp_path, "model", "detector", {}, "0")
    with pytest.raises(
        ValueError, match=r"clip\.mp4 was written by another process.* need an --output that they share"
    ):
        results.finish([FinishedVideo("a line", 1, files)])
    assert list(tmp_path.iterdir()) == []


def test_no_person_in_any_video_is_one_line(detect, tmp_path):
    code, _, errors = detect(f"videos {MODELS} --output out --detector-threshold 1")
    assert code == 1
    assert errors == [
        "umt detect: No person was found in any of 3 videos; lower --detector-threshold (1), or use another detector."
    ]
    assert json.loads((tmp_path / "out" / "clip.json").read_text())["key_frames"][0]["persons"] == []
    assert (tmp_path / "out" / "clip.csv").read_text() == ""


def test_a_command_that_is_given_again_skips_the_videos_that_are_done(detect, tmp_path, monkeypatch):
    """Unless the video, a setting or a file of the results is another one."""
    detected = []
    real = video_detection.detect_in_video

    def counted(video, *args, **kwargs):
        detected.append(Path(video).stem)
        return real(video, *args, **kwargs)

    monkeypatch.setattr(video_detection, "detect_in_video", counted)
    command = f"videos {MODELS} --output out"
    first = detect(command)
    page = (tmp_path / "out" / "index.html").read_bytes()
    assert detected == ["clip", "clip", "odd"]
    detected.clear()
    assert detect(command) == first and detected == []
    assert (tmp_path / "out" / "index.html").read_bytes() == page

    save_noise(tmp_path / "videos" / "deep" / "clip.mp4", 5, num_frames=11)
    (tmp_path / "out" / "odd.csv").unlink()
    assert detect(command)[0] == 0 and detected == ["clip", "odd"]
    (tmp_path / "out" / "odd.png").write_bytes((tmp_path / "out" / "odd.png").read_bytes()[:100])
    (tmp_path / "out" / "clip.json").write_text("{}")
    detected.clear()
    assert detect(command)[0] == 0 and detected == ["clip", "odd"]
    for options in ("--threshold 0.1", "--detector-threshold 0.1"):
        detected.clear()
        assert detect(f"{command} {options}")[0] == 0 and len(detected) == 3, options


def test_boxes_only_writes_the_start_of_a_data_set(detect, tmp_path):
    code, lines, errors = detect("videos --boxes-only --detector detector --output videos --every 0.8")
    assert code == 0 and errors == []
    assert lines[-1] == "videos/metadata.jsonl: 6 key frames with persons; fill in their categories"
    rows = [json.loads(line) for line in (tmp_path / "videos" / "metadata.jsonl").read_text().splitlines()]
    assert [(row["file_name"], row["time"]) for row in rows] == [
        *(("clip.mp4", pytest.approx(0.4 + 0.8 * number)) for number in range(4)),
        ("deep/clip.mp4", 0.4),
        ("odd.mp4", 0.4),
    ]
    for row in rows:
        assert row["objects"]["categories"] == [[], []] and row["objects"]["track"] == [0, 1]
        assert all(score > 0.8 for score in row["objects"]["scores"])
        for x, y, width, height in row["objects"]["bbox"]:
            assert 0 <= x < x + width <= 80 and 0 <= y < y + height <= 80

    loaded = load_dataset("videofolder", data_dir="videos", split="train")
    assert sorted(loaded["time"]) == sorted(row["time"] for row in rows)
    with pytest.raises(ValueError, match="has categories"):
        load_annotated_actions("videos")
    rows[0]["objects"]["categories"] = [["wave"], []]
    (tmp_path / "videos" / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    actions = load_annotated_actions("videos")
    assert (len(actions.table), actions.num_empty_rows, actions.num_empty_persons) == (1, 5, 1)

    code, _, errors = detect("videos --boxes-only --detector detector --output videos")
    assert code == 1 and "videos/metadata.jsonl exists and may contain annotations" in errors[-1]


def test_boxes_only_names_videos_elsewhere_as_they_must_be_copied(detect, tmp_path):
    _, lines, _ = detect("videos/clip.mp4 videos/deep/clip.mp4 --boxes-only --detector detector --output data")
    rows = [json.loads(line) for line in (tmp_path / "data" / "metadata.jsonl").read_text().splitlines()]
    assert [row["file_name"] for row in rows] == ["clip.mp4"] * 3 + ["clip_2.mp4"]
    assert "copy or link 2 of the videos to this folder" in lines[-1]
    shutil.copy("videos/clip.mp4", "data/clip.mp4")
    shutil.copy("videos/deep/clip.mp4", "data/clip_2.mp4")
    assert detect("data --model model --boxes data --output out")[0] == 0


def test_boxes_of_a_file_give_the_results_of_their_detector(detect, tmp_path):
    detect("videos --boxes-only --detector detector --output videos")
    assert detect(f"videos {MODELS} --output out")[0] == 0
    code, _, errors = detect("videos --model model --boxes videos/metadata.jsonl --output again")
    assert code == 0 and errors == []
    for name in ("clip", "clip_2", "odd"):
        first, second = (json.loads((tmp_path / out / f"{name}.json").read_text()) for out in ("out", "again"))
        assert first["key_frames"] == second["key_frames"]
        assert second["detector"] == "videos/metadata.jsonl"


def test_videos_that_the_file_of_boxes_does_not_name_are_reported(detect, tmp_path):
    (tmp_path / "boxes.csv").write_text("clip,0.5,0.1,0.1,0.9,0.9,,0.95\n")
    code, lines, errors = detect("videos/clip.mp4 videos/odd.mp4 --model model --boxes boxes.csv --output out")
    assert code == 0 and lines[-1] == "out/index.html: 1 video"
    assert errors == ["umt detect: videos/odd.mp4: boxes.csv has no boxes of it"]
    code, _, errors = detect("videos/odd.mp4 --model model --boxes boxes.csv --output out")
    assert code == 1 and "boxes.csv has no boxes of any of the 1 videos" in errors[-1]


def test_results_inside_a_folder_that_is_searched_are_no_videos(detect):
    first = detect(f"videos {MODELS} --output videos/out")
    assert detect(f"videos {MODELS} --output videos/out") == first


ONE_LINE = {
    f"videos/odd.mp4 {MODELS} --output videos": "videos/odd.mp4 is one of the videos and would be replaced",
    "videos --detector detector --output out": "--model is missing",
    "videos --model classifier --detector detector --output out": "classifier cannot detect actions: it is a",
    "videos --model detector --detector detector --output out": "detector cannot detect actions: it is a Yolos",
    "videos --model model --detector model --output out": "model cannot find persons: it is an action detection model",
    "videos --model model --detector classifier --output out": "classifier cannot find persons: it is a classifier",
    "videos --model model --detector animals --output out": "animals has no class 'person', but cat, dog; give one",
    "videos --model model --detector nowhere --output out": "nowhere is not a local folder, and the Hub",
    "videos --model model --output out": "The detector PekingU/rtdetr_r18vd is not a local folder, and the Hub",
    f"videos {MODELS} --output out --every 0": "--every is 0.0; expected more than 0 seconds.",
    f"videos {MODELS} --output out --threshold 1.1": "--threshold is 1.1; expected a score from 0 to 1.",
    f"videos {MODELS} --output out --detector-threshold -1": "--detector-threshold is -1.0; expected a score",
    f"videos {MODELS} --output out --boxes-only": "--boxes-only predicts no actions, so that --model has no effect",
    "videos --detector detector --output out --boxes-only --threshold 0.1": "so that --threshold has no effect",
    f"videos/none {MODELS} --output model/config.json": "Not a directory",
    "videos --model model --boxes none.csv --output out": "none.csv does not exist",
    "videos --model model --boxes boxes.pkl --output out": "boxes.pkl is pickled",
    "videos --model model --boxes outside.csv --output out": "outside.csv, line 1: the key frame clip at 99 s is",
}


@pytest.mark.parametrize("command", ONE_LINE)
def test_mistakes_are_reported_in_one_line(command, detect, tmp_path):
    (tmp_path / "boxes.pkl").write_bytes(b"\x80\x04]")
    (tmp_path / "outside.csv").write_text("clip,99,0.1,0.1,0.9,0.9,,0.95\n")
    code, _, errors = detect(command)
    assert code == 1
    assert len(errors) == 1 and errors[0].startswith("umt detect: ")
    assert ONE_LINE[command] in errors[0]


def test_detector_and_boxes_exclude_each_other(detect, capsys):
    with pytest.raises(SystemExit) as error:
        detect("videos --model model --detector detector --boxes boxes.csv --output out")
    assert error.value.code == 2
    assert "not allowed with argument" in capsys.readouterr().err


def test_a_name_that_is_not_unicode_is_refused(detect):
    os.rename("videos/odd.mp4", b"videos/\xff.mp4")
    code, _, errors = detect(f"videos {MODELS} --output out")
    assert code == 1 and len(errors) == 1 and "is not UTF-8; rename the file or folder" in errors[0]


def test_a_name_with_commas_and_spaces_is_kept(detect, tmp_path):
    os.rename("videos/odd.mp4", 'videos/odd, "b"  ü.mp4')
    assert detect(f"videos {MODELS} --output out")[0] == 0
    names = [read_detections(path).videos for path in sorted((tmp_path / "out").glob("*.csv"))]
    assert names == [["clip"], ["clip_2"], ['odd, "b"  ü']]
    page = (tmp_path / "out" / "index.html").read_text()
    assert 'href="odd%2C%20%22b%22%20%20%C3%BC.mp4' in page
