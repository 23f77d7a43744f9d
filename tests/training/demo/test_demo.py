"""`umt demo` at a few steps: what it prints and leaves behind, what it concludes, and where it refuses to start."""

import json
import math
import re
import shutil

import numpy as np
import pytest
from transformers import AutoModel, AutoModelForVideoClassification, AutoVideoProcessor

from umt_training import cli
from umt_training.demo import report as demo_report
from umt_training.demo.ablations import ABLATIONS, interval, pixel_steps, run_ablation
from umt_training.demo.data import deal_out, repeat_one_frame, shuffle_frames
from umt_training.demo.demo import DemoSettings, run_demo, share_out
from umt_training.demo.motion_clips import render_motion_clips, write_motion_clips
from umt_training.demo.worker_pool import Done

FEW = DemoSettings(
    seeds=2,
    unlabelled=64,
    labelled=2,
    validation=8,
    test=16,
    teacher_clips=32,
    teacher_steps=2,
    pretrain_steps=2,
    finetune_steps=2,
    long_factor=2,
    rates=(1e-3,),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Folder of a run, and what it printed."""
    folder = tmp_path_factory.mktemp("demo") / "run"
    with pytest.MonkeyPatch.context() as patch:
        lines = []
        patch.setattr("builtins.print", lambda *words, **options: lines.append(" ".join(map(str, words))))
        run_demo(FEW, folder)
    return folder, "\n".join(lines)


# --- a whole run -----------------------------------------------------------------------------------------------------


def test_a_run_says_what_it_did(run):
    folder, printed = run
    for arm in demo_report.ARMS.values():
        assert len(re.findall(rf"^{re.escape(arm)} .*\d", printed, re.MULTILINE)) == 1
    for words in ("control: UMT, one frame repeated", "chance", "12.5", "It is not the paper's,", "column and row"):
        assert words in printed
    assert "Pre-training" in printed and str(folder / "index.html") in printed
    assert "Warning" not in printed


def test_a_run_leaves_models_pictures_and_a_page(run):
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


def test_all_arms_have_the_same_chances(run):
    folder, _ = run
    results = json.loads((folder / "results.json").read_text())
    runs = {(row["arm"], row["seed"]): row for row in results["runs"]}
    assert set(runs) == {("umt", 0), ("umt", 1), ("scratch", 0), ("scratch", 1), ("long", 0)}
    steps = {arm: runs[arm, 0]["steps"] for arm in demo_report.ARMS}
    assert steps == {"umt": 2, "scratch": 2, "long": 4}
    # the pipeline reads the files, the trainer the frames in memory: they are the same clips in the same model
    assert results["predictions"] == pytest.approx(runs["umt", 0]["test"])


def test_a_second_run_into_the_folder_says_what_to_do(run, capsys):
    folder, _ = run
    assert cli.main(["demo", "--output", str(folder)]) == 1
    assert "index.html" in (error := capsys.readouterr().err) and "--output" in error


# --- what follows from the numbers -----------------------------------------------------------------------------------


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
def test_the_conclusion_follows_the_numbers(umt, scratch, long, verdict):
    assert demo_report.conclude(umt, scratch, long, 800).startswith(f"Pre-training {verdict}")


def test_a_frame_that_tells_something_is_told():
    assert "no more than chance" in demo_report.judge_control(13.0, 30.0, 12.5, 800)
    assert ", more than chance" in demo_report.judge_control(40.0, 30.0, 12.5, 800)


def test_controls_keep_frames_and_take_their_order():
    frames, _ = render_motion_clips(0, 6)
    still = repeat_one_frame(frames)
    assert still.shape == frames.shape and (still == frames[:, 4:5]).all()
    shuffled = shuffle_frames(frames)
    for clip, other in zip(frames, shuffled, strict=True):
        assert (clip != other).any()
        assert sorted(frame.tobytes() for frame in clip) == sorted(frame.tobytes() for frame in other)


def test_interval():
    low, high = interval([10.0, 12.0, 14.0])
    assert (low, high) == pytest.approx((12 - 4.968, 12 + 4.968), abs=0.01)


# --- clips of one's own, and ablations -------------------------------------------------------------------------------


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


def test_beside_a_given_teacher_the_long_arm_gets_the_time_that_was_measured(run, tmp_path, capsys):
    settings = DemoSettings(**{**vars(FEW), "seeds": 1, "teacher": str(run[0] / "teacher")})
    results = run_demo(settings, tmp_path / "run")
    runs = {row["arm"]: row for row in results["runs"]}
    spent = results["costs"]["student"]["cpu_seconds"] + runs["umt"]["cpu_seconds"]
    assert runs["long"]["steps"] == FEW.finetune_steps * math.ceil(spent / runs["scratch"]["cpu_seconds"])
    assert f"fine-tuning took {spent:.0f}, " in capsys.readouterr().out


def test_splits_of_real_clips_do_not_overlap():
    labels = np.array([0] * 20 + [1] * 9)
    splits = deal_out(labels, range(1, 29), ["a", "b"], 5, [0, 1])
    test, validation, learning = (set(splits[name]) for name in ("test", "validation", "unlabelled"))
    assert (
        not test & validation
        and not (test | validation) & learning
        and test | validation | learning == set(range(1, 29))
    )
    for seed in (0, 1):
        assert set(splits[f"labelled-{seed}"]) <= learning
        assert [sum(labels[index] == label for index in splits[f"labelled-{seed}"]) for label in (0, 1)] == [5, 5]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--videos", "nowhere"], "There is no folder nowhere"),
        (["--videos", "empty"], "no video files"),
        (["--ablate", "colours"], "choose one of masking, masks, target"),
        (["--seeds", "0"], "--seeds is 0"),
        (["--teacher", "nobody/nothing"], "Leave --teacher out"),
    ],
)
def test_errors_say_what_to_do(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert cli.main(["demo", "--output", str(tmp_path / "run"), *arguments]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists() or not any((tmp_path / "run").iterdir())


def test_an_ablation_has_a_row_for_each_variant(tmp_path, capsys):
    few = DemoSettings(**{**vars(FEW), "seeds": 1, "long_seeds": 0})
    results = run_ablation("masks", few, tmp_path / "run")
    printed = capsys.readouterr().out
    assert [row["arm"] for row in results["runs"]] == list(ABLATIONS["masks"])
    assert all(re.search(rf"^{name} ", printed, re.MULTILINE) for name in ABLATIONS["masks"])
    assert (tmp_path / "run" / "index.html").exists()


def test_pixels_get_the_time_of_the_alignment(run, tmp_path, capsys):
    teacher = str(run[0] / "teacher")
    settings = DemoSettings(**{**vars(FEW), "seeds": 1, "long_seeds": 0, "teacher": teacher, "pretrain_steps": 4})
    results = run_ablation("target", settings, tmp_path / "run")
    printed = capsys.readouterr().out
    alignment, pixels = results["runs"]
    assert (alignment["arm"], pixels["arm"]) == ("alignment", "pixels") and alignment["stage1_steps"] == 4
    measured = re.search(r"alignment ([\d.]+), pixels ([\d.]+)\. Pixels get (\d+) steps", printed)
    assert int(measured[3]) == pixels["stage1_steps"]
    assert int(measured[3]) == pytest.approx(4 * float(measured[1]) / float(measured[2]), abs=0.6)
    assert "nothing for the teacher, which was given" in printed
    start = tmp_path / "run" / "student-pixels-0"
    assert AutoVideoProcessor.from_pretrained(start).num_frames == 8
    assert AutoModel.from_pretrained(start).config.hidden_size == 128
    tried = {path.name for path in (tmp_path / "run" / "runs").iterdir()}
    assert {f"student-pixels-0-rate-0.001-decay-{decay}" for decay in ("0.3", "1")} <= tried


def test_the_teachers_training_counts():
    """A pool whose worker has measured 0.3 and 0.2 seconds a step."""

    class Pool:
        def submit(self, *task):
            return self

        def result(self):
            return Done((0.3, 0.2), 1.0, 1.0)

        def say(self, text):
            assert "Pixels get 80 steps" in text

    assert pixel_steps("teacher", 10.0, DemoSettings(pretrain_steps=20), None, Pool()) == 80


def test_share_out():
    assert share_out(7, 2) == [(0, 3), (3, 7)] and share_out(1, 4) == [(0, 1)]
