"""`umt evaluate` from videos on disk to the files of results, with a tiny model."""

import argparse
import csv
import importlib.metadata
import json
import re
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import unquote

import evaluate
import numpy as np
import pytest
import torch
from PIL import Image
from tiny_classifier import CLASSES, save_class_folders, save_tiny_classifier, tiny_classifier, tiny_processor

from modeling_umt import UMTForPreTraining
from processing_umt.frame_sampling_umt import SAMPLING_RULES
from umt_training import cli
from umt_training.cli import evaluate as cli_evaluate
from umt_training.cli import evaluate_classification, evaluate_common
from umt_training.data.video_records import load_video_records
from umt_training.evaluation import clips
from umt_training.evaluation.classification import evaluate_classifier
from umt_training.evaluation.classification_page import worst_mistakes
from umt_training.pictures.confusion_plot import draw_confusion_matrix

FILES = ["confusion.csv", "confusion.png", "index.html", "mistakes", "per_class.csv", "per_class.png", "results.json"]
FILES += ["videos.csv"]


@pytest.fixture(autouse=True)
def evaluate_cache(tmp_path, monkeypatch):
    """`evaluate` creates a folder for every metric: here in the test's temporary folder."""
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", str(tmp_path / "metrics"))


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_tiny_classifier(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Seven videos in class folders, the third of them broken."""
    folder = save_class_folders(tmp_path_factory.mktemp("data"), num_videos=7)
    (folder / "drumming" / "clip2.mp4").write_bytes(b"no video")
    return folder


def run(*argv) -> int:
    parser = argparse.ArgumentParser()
    cli_evaluate.add_arguments(parser)
    options = ["--device", "cpu", "--num-workers", 0]
    return cli_evaluate.run(parser.parse_args([str(word) for word in (*argv, *options)]))


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


@pytest.fixture(scope="module")
def done(model, data, tmp_path_factory):
    """An evaluation of two clips and three crops: its folder, and what `evaluate_classifier` returns for it."""
    output = tmp_path_factory.mktemp("output") / "of" / "two"
    assert run("--model", model, "--data", data, "--clips", 2, "--crops", 3, "--output", output) == 0
    options = {"num_clips": 2, "num_crops": 3, "num_workers": 0}
    return output, evaluate_classifier(tiny_classifier(), tiny_processor(), load_video_records(data), **options)


def test_results(done, model, data):
    output, expected = done
    assert sorted(path.name for path in output.iterdir()) == FILES
    results = json.loads((output / "results.json").read_text(encoding="utf-8"))
    date = datetime.fromisoformat(results.pop("date"))
    assert date.tzinfo is not None and timedelta(0) <= datetime.now(UTC) - date < timedelta(minutes=10)
    broken = str(data / "drumming" / "clip2.mp4")
    [skipped] = results["dataset"].pop("skipped")
    assert (skipped["video"], skipped["reason"]) == (broken, "not_a_video") and broken in skipped["message"]
    assert results == {
        "task": "video-classification",
        "model": {"id": str(model), "revision": None, "num_labels": 7},
        "protocol": {
            "frames": 4,
            "clips": 2,
            "crops": 3,
            "sampling": "sparse",
            "frame_stride": 1,
            "resize_kernel": "opencv_bilinear",
            "size": {"shortest_edge": 32},
            "resolution": [32, 32],
            "dtype": "float32",
        },
        "dataset": {
            "source": str(data),
            "root": None,
            "split": None,
            "num_videos": 7,
            "num_scored": 6,
            "num_skipped": 1,
        },
        "metrics": {
            "top1": expected.top1,
            "top5": expected.top5,
            "mean_class_accuracy": expected.mean_class_accuracy,
        },
        "versions": {
            **{name: importlib.metadata.version(name) for name in ("torch", "transformers", "av")},
            "unmasked-teacher": evaluate_common._version("unmasked-teacher"),
        },
    }


def test_tables(done):
    output, expected = done
    header, *matrix = rows(output / "confusion.csv")
    assert header == ["true \\ predicted", *CLASSES] and [row[0] for row in matrix] == list(CLASSES)
    assert np.array([row[1:] for row in matrix], dtype=int).tolist() == expected.confusion_matrix.tolist()

    header, *classes = rows(output / "per_class.csv")
    assert header == ["label", "class", "videos", "correct", "accuracy"]
    assert [row[:2] for row in classes] == [[str(label), name] for label, name in enumerate(CLASSES)]
    assert [int(row[2]) for row in classes] == [0, 0, 0, 1, 2, 1, 2]
    assert [float(row[4]) if row[4] else None for row in classes] == expected.per_class_accuracy
    assert all(not row[4] or float(row[4]) == 100 * int(row[3]) / int(row[2]) for row in classes)

    header, *videos = rows(output / "videos.csv")
    assert header == ["video", "class", "prediction", "probability", "probability of the class"]
    assert [row[0] for row in videos] == expected.videos
    assert [row[1] for row in videos] == [Path(video).parent.name for video in expected.videos]
    best = expected.probabilities.argmax(1)
    assert [row[2] for row in videos] == [CLASSES[index] for index in best]
    own = [
        [row[best], row[label]] for row, best, label in zip(expected.probabilities, best, expected.labels, strict=True)
    ]
    np.testing.assert_allclose(np.array([row[3:] for row in videos], dtype=float), own, atol=1e-6)


def test_the_page_has_the_result_the_mistakes_and_the_broken_video(done, data):
    output, expected = done
    page = (output / "index.html").read_text(encoding="utf-8")
    for name in re.findall(r'(?:src|href)="([^"]+)"', page):
        assert (output / unquote(name)).exists(), name
    assert f"top1                 {expected.top1:.2f} %" in page and str(data / "drumming" / "clip2.mp4") in page
    num_wrong = int((expected.probabilities.argmax(axis=1) != expected.labels).sum())
    strips = sorted(path.name for path in (output / "mistakes").iterdir())
    assert strips == [f"{number:02}.jpg" for number in range(1, num_wrong + 1)] and num_wrong > 1
    worst = worst_mistakes(expected.probabilities, expected.labels)
    positions = [page.index(f"{number}. {expected.videos[row]}:") for number, row in enumerate(worst, 1)]
    assert positions == sorted(positions)


def test_the_picture_shows_the_matrix(done):
    output, expected = done
    picture = np.asarray(Image.open(output / "confusion.png").convert("RGB")).astype(int)
    # the border of the matrix is the first line of dark pixels as long as seven cells of 48 pixels
    ink = (picture == 40).all(2)
    top = int(np.flatnonzero(ink.sum(1) >= 7 * 48)[0]) + 1
    left = int(np.flatnonzero(ink[top - 1])[0]) + 1
    for row in range(7):
        for column in range(7):
            colour = picture[top + row * 48 + 4, left + column * 48 + 4].tolist()
            if expected.confusion_matrix[row].sum() == 0:
                assert colour == [232, 232, 232]
            else:
                assert (colour == [255, 255, 255]) == (expected.confusion_matrix[row, column] == 0)


@pytest.mark.parametrize("num_classes", [1, 2, 51, 174, 710])
def test_pictures_of_any_size(num_classes):
    matrix = np.random.default_rng(0).integers(0, 5, (num_classes, num_classes))
    names = [f"class {number} with a name that is long enough to be cut off" for number in range(num_classes)]
    picture = draw_confusion_matrix(matrix, names, "title")
    cell = max(2, min(48, 900 // num_classes))
    assert cell * num_classes < min(picture.size) < cell * num_classes + 600


def test_what_is_printed(model, data, tmp_path, capsys):
    assert run("--model", model, "--data", data, "--clips", 1, "--crops", 1, "--output", tmp_path / "out") == 0
    lines = capsys.readouterr().out.splitlines()
    metrics = json.loads((tmp_path / "out" / "results.json").read_text())["metrics"]
    assert lines == [
        "6 videos, 1 clips x 1 crops of 4 frames at 32x32 (sparse, opencv_bilinear, float32)",
        f"  top1                {metrics['top1']:6.2f} %",
        f"  top5                {metrics['top5']:6.2f} %",
        f"  mean class accuracy {metrics['mean_class_accuracy']:6.2f} %",
        "  not counted: 1 videos that can't be read (not_a_video 1)",
        f"written to {tmp_path / 'out'}",
    ]


def test_options_reach_the_protocol(model, data, tmp_path):
    words = [
        "--clips",
        2,
        "--crops",
        1,
        "--sampling",
        "segments",
        "--resize-kernel",
        "antialias",
        "--dtype",
        "bfloat16",
    ]
    assert run("--model", model, "--data", data, *words, "--output", tmp_path) == 0
    protocol = json.loads((tmp_path / "results.json").read_text())["protocol"]
    expected = {"clips": 2, "crops": 1, "sampling": "segments", "resize_kernel": "antialias", "dtype": "bfloat16"}
    assert expected.items() <= protocol.items()


def test_all_sampling_rules_can_be_chosen():
    parser = argparse.ArgumentParser()
    sampling = next(
        action for action in evaluate_classification.add_task_arguments(parser) if action.dest == "sampling"
    )
    assert sampling.choices == SAMPLING_RULES


@pytest.mark.parametrize(
    ("saved", "words", "stride"),
    [
        ({}, ["--sampling", "strided", "--frame-stride", 3], 3),
        ({"sampling": "strided", "frame_stride": 2}, [], 2),
        ({"sampling": "strided", "frame_stride": 2}, ["--sampling", "dense"], 2),
        ({"sampling": "dense", "frame_stride": 2}, ["--sampling", "strided", "--frame-stride", 1], 1),
    ],
)
def test_the_stride_is_given_or_that_of_the_processor(saved, words, stride, data, tmp_path, capsys):
    model = save_tiny_classifier(tmp_path / "tiny")
    tiny_processor(**saved).save_pretrained(model)
    options = ("--clips", 5, "--crops", 1, "--output", tmp_path / "out")
    assert run("--model", model, "--data", data, *words, *options) == 0
    protocol = json.loads((tmp_path / "out" / "results.json").read_text())["protocol"]
    rule = words[1] if words else saved["sampling"]
    assert (protocol["sampling"], protocol["frame_stride"]) == (rule, stride)
    assert f"({rule} with stride {stride}," in capsys.readouterr().out


def test_a_list_with_root_and_the_default_folder(model, data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    videos = [f"{CLASSES[-1 - number // 2]}/clip{number}.mp4" for number in (0, 4, 6)]
    (tmp_path / "val.csv").write_text("\n".join(f"{video},{5 - row}" for row, video in enumerate(videos)))
    arguments = ("--model", model, "--data", tmp_path / "val.csv", "--root", data, "--clips", 1)
    assert run(*arguments) == 0
    results = json.loads(Path("evaluation/tiny-val-1x3/results.json").read_text())
    assert results["dataset"]["root"] == str(data) and results["dataset"]["num_scored"] == 3
    assert [row[1] for row in rows(Path("evaluation/tiny-val-1x3/videos.csv"))[1:]] == [CLASSES[n] for n in (5, 4, 3)]


def test_an_interrupted_command_resumes_and_cleans_up(model, data, tmp_path, monkeypatch, capsys):
    arguments = ("--model", model, "--data", data, "--clips", 1, "--crops", 1, "--output", tmp_path)
    with monkeypatch.context() as broken_disk:
        broken_disk.setattr(
            evaluate_classification, "write_tables", lambda *_: (_ for _ in ()).throw(OSError("disk full"))
        )
        with pytest.raises(OSError, match="disk full"):
            run(*arguments)
    assert len(list(tmp_path.glob("partial/*/*.scores"))) == 1
    other = tmp_path / "partial" / "of-another-evaluation"
    shutil.copytree(next(tmp_path.glob("partial/*")), other)
    assert run(*arguments) == 0
    assert "6 videos were scored before an interruption" in capsys.readouterr().err
    assert list(tmp_path.glob("partial/*")) == [other]


def test_top5_of_five_classes_is_not_reported(tmp_path, capsys):
    """It would be 100 % for any model."""
    names = CLASSES[-5:]
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}
    model = save_tiny_classifier(tmp_path / "five", **labels)
    data = save_class_folders(tmp_path / "data", num_videos=3)
    options = ("--clips", 1, "--crops", 1, "--output", tmp_path / "out")
    assert run("--model", model, "--data", data, *options) == 0
    metrics = json.loads((tmp_path / "out" / "results.json").read_text())["metrics"]
    assert set(metrics) == {"top1", "mean_class_accuracy"} and "\n  top5" not in capsys.readouterr().out


def test_labels_that_do_not_match_are_an_error_before_a_video_is_opened(model, data, tmp_path, monkeypatch):
    monkeypatch.setattr(clips, "open_video", lambda video: pytest.fail(f"{video} was opened"))
    shutil.copytree(data, tmp_path / "data")
    (tmp_path / "data" / "marching").rename(tmp_path / "data" / "tango")
    with pytest.raises(ValueError, match="the label 'tango', which is not one of the model's 7 classes"):
        run("--model", model, "--data", tmp_path / "data", "--output", tmp_path / "out")
    (data / "list.csv").write_text("marching/clip4.mp4,7\nmarching/clip5.mp4,6\n")
    with pytest.raises(ValueError, match="label 7, which is not one of the model's 7 classes"):
        run("--model", model, "--data", data / "list.csv", "--output", tmp_path / "out")
    (data / "list.csv").unlink()
    with pytest.raises(ValueError, match="at most two views"):
        run("--model", model, "--data", data, "--sampling", "segments", "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_models_that_are_not_classifiers_are_refused(data, tmp_path):
    UMTForPreTraining(tiny_classifier().config).save_pretrained(tmp_path / "pretrained")
    with pytest.raises(ValueError, match=r"pretrained cannot be evaluated in classification: it is a stage-1 model"):
        run("--model", tmp_path / "pretrained", "--data", data)


def test_the_command_line_has_it(model, data, tmp_path, capsys):
    assert "evaluate" in cli.COMMANDS
    words = f"evaluate --model {model} --data {data / 'nowhere'} --device cpu".split()
    assert cli.main(words) == 1
    assert capsys.readouterr().err.startswith("umt evaluate: The file or folder")


@pytest.mark.parametrize("task", ["vqa", "multiple-choice"])
def test_unknown_tasks_are_refused(task, capsys):
    with pytest.raises(SystemExit) as error:
        run("--task", task, "--model", "unused", "--data", "unused")
    assert error.value.code == 2 and f"invalid choice: '{task}'" in capsys.readouterr().err


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_what_the_cpu_gives(done, data):
    _, expected = done
    options = {"num_clips": 2, "num_crops": 3, "num_workers": 2}
    model = tiny_classifier().cuda()
    exact = evaluate_classifier(model, tiny_processor(), load_video_records(data), **options)
    np.testing.assert_allclose(exact.probabilities, expected.probabilities, atol=1e-5)
    options["autocast_dtype"] = torch.float16
    half = evaluate_classifier(model, tiny_processor(), load_video_records(data), **options)
    np.testing.assert_allclose(half.probabilities, expected.probabilities, atol=0.05)
