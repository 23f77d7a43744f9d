"""Options of `umt app`, and the models that it takes; its page is tested in tests/training/app."""

import importlib.util
import json
import re

import pytest
from tiny_classifier import save_noise, save_tiny_classifier
from tiny_detection import save_tiny_action_detector
from tiny_video_text_retrieval import save_tiny_retrieval_model

from umt_training import cli
from umt_training.cli import app
from umt_training.demo.finished import demo_models

pytest.importorskip("gradio")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    save_tiny_classifier(folder / "classifier")
    save_tiny_classifier(folder / "other")
    save_tiny_action_detector(folder / "actions")
    save_tiny_retrieval_model(folder / "retrieval")
    (folder / "image-teacher").mkdir()
    (folder / "image-teacher" / "config.json").write_text(json.dumps({"architectures": ["UMTImageTeacherModel"]}))
    return folder


@pytest.mark.parametrize(
    "words, message",
    [
        ("", "The page needs a model"),
        ("classifier other", "are for the same tab; give one of them"),
        ("image-teacher", "is an image teacher of masked modelling .* which no tab of the page can use"),
        ("missing", "The model missing is not a local folder|missing does not exist"),
        ("retrieval", "searches a folder of videos; give it with --videos"),
        ("classifier --videos .", "--videos is searched by a model of videos and texts"),
        ("classifier --detector other", "--detector is for an action detection model"),
        ("classifier --videos nowhere", "The folder nowhere of --videos does not exist"),
        ("classifier --examples nowhere", "The folder nowhere of --examples does not exist"),
        ("classifier --port 0", "--port is 0; expected 1 to 65535"),
        ("classifier --max-upload 0", "--max-upload is 0; expected"),
        ("classifier --package https://a/b", "--package is for --export-space"),
        ("classifier --export-space out --share", "--share has no effect with --export-space"),
        ("classifier --export-space out", "Git URL of this package is not known"),
    ],
)
def test_wrong_options_are_errors_in_one_line(models, monkeypatch, capsys, words, message):
    monkeypatch.chdir(models)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert cli.main(["app", *words.split()]) == 1
    captured = capsys.readouterr()
    (line,) = captured.err.strip().splitlines()
    assert line.startswith("umt app: ")
    assert re.search(message, line), line
    assert captured.out == "" and not (models / "out").exists()


def test_the_task_of_a_model_follows_from_its_kind(models):
    names = [str(models / name) for name in ("actions", "retrieval", "classifier")]
    assert app.models_by_task(names) == dict(zip(("detect", "search", "classify"), names, strict=True))


def test_a_missing_extra_is_reported_in_one_line(monkeypatch, capsys, models):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *args: None if name == "gradio" else find(name, *args)
    )
    assert cli.main(["app", str(models / "classifier")]) == 1
    assert capsys.readouterr().err == (
        "umt app: umt app needs Gradio; install the extra `app`: pip install 'unmasked-teacher[app]'.\n"
    )


def test_a_finished_demo_has_three_models_and_a_clip_of_each_class(tmp_path, models):
    listed = []
    for label in ("east", "west"):
        for number in range(2):
            path = save_noise(tmp_path / "run" / "videos" / "test" / label / f"{number}.mp4", number)
            listed.append(f"run/{path.relative_to(tmp_path / 'run')}")  # relative to where the demo was started
    with pytest.raises(ValueError, match=r"is not the folder of a finished `umt demo`: it has no results\.json"):
        demo_models(tmp_path / "run")
    (tmp_path / "run" / "results.json").write_text("{}")
    (tmp_path / "run" / "splits.json").write_text(json.dumps({"test": listed}))
    with pytest.raises(ValueError, match="has no model teacher, student, umt"):
        demo_models(tmp_path / "run")
    for name in ("teacher", "student", "umt"):
        (tmp_path / "run" / name).mkdir()
        (tmp_path / "run" / name / "config.json").write_text("{}")
    demo = demo_models(tmp_path / "run")
    assert demo.classifier == tmp_path / "run" / "umt"
    expected = [(label, tmp_path / "run" / "videos" / "test" / label / "0.mp4") for label in ("east", "west")]
    assert demo.clips == expected
