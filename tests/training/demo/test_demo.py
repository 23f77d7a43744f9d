"""`umt demo` at a few steps: its output and files, its conclusion, and its errors."""

import json
import math
import re
import shutil

import numpy as np
import pytest
from few_demo_steps import FEW_DEMO as FEW
from transformers import AutoModelForVideoClassification, AutoVideoProcessor

from umt_training import cli
from umt_training.demo import report as demo_report
from umt_training.demo.data import repeat_one_frame, shuffle_frames, split_real_clips
from umt_training.demo.demo import DemoSettings, equal_parts, run_demo
from umt_training.demo.motion_clips import render_motion_clips, write_motion_clips


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Folder of a run, and its printed output."""
    folder = tmp_path_factory.mktemp("demo") / "run"
    with pytest.MonkeyPatch.context() as patch:
        lines = []
        patch.setattr("builtins.print", lambda *words, **options: lines.append(" ".join(map(str, words))))
        run_demo(FEW, folder)
    return folder, "\n".join(lines)


# --- a complete run --------------------------------------------------------------------------------------------------


def test_a_run_reports_every_arm_and_the_conclusion(run):
    folder, printed = run
    for arm in demo_report.ARMS.values():
        assert len(re.findall(rf"^{re.escape(arm)} .*\d", printed, re.MULTILINE)) == 1
    for words in ("control: UMT, one frame repeated", "chance", "12.5", "The paper's head", "column and row"):
        assert words in printed
    assert "Pre-training" in printed and str(folder / "index.html") in printed
    assert "Warning" not in printed


def test_a_run_writes_models_pictures_and_a_page(run):
    folder, _ = run
    for name in ("umt", "scratch", "long", "student"):
        assert (folder / name / "README.md").exists()
        assert AutoVideoProcessor.from_pretrained(folder / name).num_frames == 8
    model = AutoModelForVideoClassification.from_pretrained(folder / "umt")
    assert model.config.pooling == "frames" and model.config.id2label[0] == "north"
    page = (folder / "index.html").read_text()
    for picture in ("student/pictures/masks.png", "stage1.png", "fine-tuning.png", "confusion.png"):
        assert (folder / picture).exists() and picture in page
    assert len(list((folder / "videos" / "test").rglob("*.mp4"))) == FEW.test
    assert {path.name for path in (folder / "videos").iterdir()} == set(
        json.loads((folder / "splits.json").read_text())
    )
    assert not (folder / "frames.npy").exists() and not list(folder.rglob("*.part"))


def test_all_arms_have_the_same_conditions(run):
    folder, _ = run
    results = json.loads((folder / "results.json").read_text())
    runs = {(row["arm"], row["seed"]): row for row in results["runs"]}
    assert set(runs) == {("umt", 0), ("umt", 1), ("scratch", 0), ("scratch", 1), ("long", 0)}
    steps = {arm: runs[arm, 0]["steps"] for arm in demo_report.ARMS}
    assert steps == {"umt": 2, "scratch": 2, "long": 4}
    # the pipeline reads the files and the trainer the frames in memory: same clips, same model
    assert results["predictions"] == pytest.approx(runs["umt", 0]["test"])


def test_a_second_run_into_the_folder_is_an_error_with_a_remedy(run, capsys):
    folder, _ = run
    assert cli.main(["demo", "--output", str(folder)]) == 1
    assert "index.html" in (error := capsys.readouterr().err) and "--output" in error


# --- the conclusion --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("umt", "scratch", "long", "verdict"),
    [
        ([80, 84], [13, 12], [40], "wins"),
        ([80, 84], [13, 12], [90], "loses"),
        ([41, 43], [13, 12], [40], "does not win"),
        ([70, 10], [13, 12], [14], "does not win"),  # ahead, but the seeds are far apart
        ([14], [13], [12], "does not win"),
    ],
)
def test_the_conclusion_follows_from_the_accuracies(umt, scratch, long, verdict):
    assert demo_report.conclude(umt, scratch, long, 800).startswith(f"Pre-training {verdict}")


def test_a_single_frame_above_chance_is_reported():
    assert ", not above the chance level" in demo_report.judge_controls(13.0, 30.0, 12.5, 800)
    assert ", above the chance level" in demo_report.judge_controls(40.0, 30.0, 12.5, 800)


def test_controls_keep_the_frames_and_remove_their_order():
    frames, _ = render_motion_clips(0, 6)
    still = repeat_one_frame(frames)
    assert still.shape == frames.shape and (still == frames[:, 4:5]).all()
    shuffled = shuffle_frames(frames)
    for clip, other in zip(frames, shuffled, strict=True):
        assert (clip != other).any()
        assert sorted(frame.tobytes() for frame in clip) == sorted(frame.tobytes() for frame in other)


# --- real clips, a given teacher, errors -----------------------------------------------------------------------------


def test_real_clips(tmp_path, capsys):
    write_motion_clips(tmp_path / "clips", 64, 7)
    (tmp_path / "clips" / "north" / "broken.mp4").write_bytes(b"no video")
    for name in ("south", "east", "west", "north_east", "north_west", "south_east"):
        shutil.rmtree(tmp_path / "clips" / name)
    settings = DemoSettings(**{**vars(FEW), "videos": tmp_path / "clips", "seeds": 1})
    results = run_demo(settings, tmp_path / "run")
    printed = capsys.readouterr().out
    assert "broken.mp4" in printed and "16 files of 2 classes" in printed
    assert {row["arm"] for row in results["runs"]} == {"umt", "scratch", "long"}


def test_with_a_given_teacher_the_long_arm_gets_the_measured_time(run, tmp_path, capsys):
    settings = DemoSettings(**{**vars(FEW), "seeds": 1, "teacher": str(run[0] / "teacher")})
    results = run_demo(settings, tmp_path / "run")
    runs = {row["arm"]: row for row in results["runs"]}
    spent = results["costs"]["student"]["cpu_seconds"] + runs["umt"]["cpu_seconds"]
    assert runs["long"]["steps"] == FEW.finetune_steps * math.ceil(spent / runs["scratch"]["cpu_seconds"])
    assert f"fine-tuning took {spent:.0f}, " in capsys.readouterr().out


def test_splits_of_real_clips_do_not_overlap():
    labels = np.array([0] * 20 + [1] * 9)
    splits = split_real_clips(labels, range(1, 29), ["a", "b"], 5, [0, 1])
    test, validation, training = (set(splits[name]) for name in ("test", "validation", "unlabelled"))
    assert (
        not test & validation
        and not (test | validation) & training
        and test | validation | training == set(range(1, 29))
    )
    for seed in (0, 1):
        assert set(splits[f"labelled-{seed}"]) <= training
        assert [sum(labels[index] == label for index in splits[f"labelled-{seed}"]) for label in (0, 1)] == [5, 5]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--videos", "nowhere"], "The folder nowhere does not exist"),
        (["--videos", "empty"], "no video files"),
        (["--seeds", "0"], "--seeds is 0"),
        (["--teacher", "nobody/nothing"], "Omit --teacher"),
    ],
)
def test_errors_give_a_remedy(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert cli.main(["demo", "--output", str(tmp_path / "run"), *arguments]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists() or not any((tmp_path / "run").iterdir())


def test_equal_parts():
    assert equal_parts(7, 2) == [(0, 3), (3, 7)] and equal_parts(1, 4) == [(0, 1)]
