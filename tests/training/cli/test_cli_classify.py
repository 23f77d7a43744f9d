"""`umt classify` from videos on disk to what is printed, with a tiny model."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from video_files import write_noise

from modeling_umt import UMTConfig, UMTForPreTraining, UMTForVideoClassification
from processing_umt import UMTVideoProcessor, fold_views
from umt_training import cli
from umt_training.cli import classify as cli_classify
from umt_training.data import video_files, video_records, video_shards
from umt_training.data.batching import batches
from umt_training.data.video_files import list_video_files

av = pytest.importorskip("av")

LABELS = ["arm wrestling", "archery", "bowling alone"]


def tiny_config(**options) -> UMTConfig:
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    return UMTConfig(**{"image_size": 32, "num_frames": 4, "num_aligned_layers": 1, **sizes, **options})


def save_classifier(folder: Path, processor: UMTVideoProcessor | None = None, **options) -> Path:
    torch.manual_seed(0)
    options = {"id2label": dict(enumerate(LABELS)), "label2id": {n: i for i, n in enumerate(LABELS)}} | options
    model = UMTForVideoClassification(tiny_config(**options))
    torch.nn.init.normal_(model.classifier.weight)  # scores that differ from video to video
    model.save_pretrained(folder)
    if processor is not None:
        processor.save_pretrained(folder)
    return folder


PROCESSOR = {"size": {"shortest_edge": 32}, "crop_size": 32, "num_frames": 4}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_classifier(tmp_path_factory.mktemp("model"), UMTVideoProcessor(**PROCESSOR))


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for number, name in enumerate(("b.mp4", "a.mkv", "deep/er/c.AVI", "deep/d.mov", "e.mp4")):
        write_noise(folder / name, number)
    (folder / "notes.txt").write_text("no video")
    return folder


def run(*argv) -> int:
    parser = argparse.ArgumentParser()
    cli_classify.add_arguments(parser)
    return cli_classify.run(parser.parse_args([str(word) for word in argv]))


def expected_scores(model: Path, file: Path, **options) -> torch.Tensor:
    processor = UMTVideoProcessor(**PROCESSOR)
    pixel_values = processor(file, return_tensors="pt", **options)["pixel_values_videos"]
    with torch.no_grad():
        logits = UMTForVideoClassification.from_pretrained(model).eval()(pixel_values).logits
    return fold_views(logits, len(pixel_values))[0]


def test_a_table_of_labels_and_probabilities(model, videos, capsys):
    assert run(videos / "b.mp4", "--model", model) == 0
    lines = capsys.readouterr().out.splitlines()
    scores = expected_scores(model, videos / "b.mp4")
    order = scores.argsort(descending=True).tolist()
    assert lines[0] == str(videos / "b.mp4")
    assert lines[1:] == [f"  {LABELS[index]:<13}  {scores[index]:.4f}" for index in order]


@pytest.mark.parametrize(("clips", "crops"), [(1, 1), (3, 1), (1, 2), (2, 3)])
@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_views_and_batches(clips, crops, batch_size, model, videos, capsys):
    names = ["b.mp4", "a.mkv", "e.mp4"]
    arguments = ["--clips", clips, "--crops", crops, "--batch-size", batch_size, "--json", "--top-k", 99]
    assert run(*(videos / name for name in names), "--model", model, *arguments) == 0
    answers = json.loads(capsys.readouterr().out)
    assert [answer["video"] for answer in answers] == [str(videos / name) for name in names]
    for answer, name in zip(answers, names, strict=True):
        scores = expected_scores(model, videos / name, num_clips=clips, num_crops=crops)
        order = scores.argsort(descending=True).tolist()
        assert [entry["label"] for entry in answer["predictions"]] == [LABELS[index] for index in order]
        np.testing.assert_allclose([entry["score"] for entry in answer["predictions"]], scores[order], rtol=1e-5)


def test_top_k(model, videos, capsys):
    assert run(videos / "b.mp4", "--model", model, "--top-k", 1) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_a_folder_is_searched(model, videos, capsys):
    assert run(videos, "--model", model, "--json") == 0
    answers = json.loads(capsys.readouterr().out)
    expected = ["a.mkv", "b.mp4", "deep/d.mov", "deep/er/c.AVI", "e.mp4"]
    assert [answer["video"] for answer in answers] == [str(videos / name) for name in expected]


@pytest.mark.parametrize("as_json", [False, True])
def test_a_broken_video_is_reported_and_the_rest_is_done(as_json, model, videos, tmp_path, capsys):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video at all")
    files = [videos / "b.mp4", broken, tmp_path / "missing.mp4", videos / "e.mp4"]
    arguments = ["--json"] if as_json else []
    assert run(*files, "--model", model, "--batch-size", 3, *arguments) == 1
    output = capsys.readouterr()
    assert "broken.mp4: it is not in a supported" in output.err and "missing.mp4: the file does" in output.err
    if as_json:
        answers = json.loads(output.out)
        assert [answer["video"] for answer in answers] == [str(file) for file in files]
        assert ["error" in answer for answer in answers] == [False, True, True, False]
        assert all(("error" in answer) != ("predictions" in answer) for answer in answers)
    else:
        assert [line for line in output.out.splitlines() if not line.startswith(" ")] == [str(files[0]), str(files[3])]


def test_all_videos_broken(model, tmp_path, capsys):
    (tmp_path / "broken.mp4").write_bytes(b"no video at all")
    assert run(tmp_path, "--model", model) == 1
    assert capsys.readouterr().out == ""


def test_a_model_without_a_processor_gets_the_default_for_its_configuration(model, videos, tmp_path, capsys):
    bare = save_classifier(tmp_path / "bare")
    assert run(videos / "b.mp4", "--model", model) == 0
    expected = capsys.readouterr().out
    assert run(videos / "b.mp4", "--model", bare) == 0
    output = capsys.readouterr()
    assert (
        output.out == expected and "bare has no video processor; using the default for its configuration" in output.err
    )


def test_the_processor_of_a_configuration():
    square = UMTVideoProcessor.for_config(UMTConfig(num_frames=16, image_size=384))
    assert square.num_frames == 16 and dict(square.size) == {"shortest_edge": 384}
    assert dict(square.crop_size) == {"height": 384, "width": 384}
    wide = UMTVideoProcessor.for_config(tiny_config(image_size=[32, 64]))
    values = wide(np.zeros((4, 50, 60, 3), np.uint8), return_tensors="pt")["pixel_values_videos"]
    assert values.shape == (1, 4, 3, 32, 64)


def test_labels_without_names_are_noted(videos, tmp_path, capsys):
    save_classifier(tmp_path / "nameless", UMTVideoProcessor(**PROCESSOR), id2label=None, label2id=None, num_labels=4)
    assert run(videos / "b.mp4", "--model", tmp_path / "nameless") == 0
    output = capsys.readouterr()
    assert "nameless has no names for its labels" in output.err and "LABEL_" in output.out


def test_several_labels_per_video(videos, tmp_path, capsys):
    save_classifier(tmp_path / "m", UMTVideoProcessor(**PROCESSOR), problem_type="multi_label_classification")
    assert run(videos / "b.mp4", "--model", tmp_path / "m", "--json", "--clips", 2) == 0
    scores = {entry["label"]: entry["score"] for entry in json.loads(capsys.readouterr().out)[0]["predictions"]}
    pixel_values = UMTVideoProcessor(**PROCESSOR)(videos / "b.mp4", return_tensors="pt", num_clips=2)
    with torch.no_grad():
        logits = UMTForVideoClassification.from_pretrained(tmp_path / "m").eval()(**pixel_values).logits
    np.testing.assert_allclose([scores[label] for label in LABELS], logits.sigmoid().mean(0), rtol=1e-5)


def test_half_precision(model, videos, capsys):
    assert run(videos / "b.mp4", "--model", model, "--dtype", "bfloat16", "--device", "cpu", "--json") == 0
    predictions = json.loads(capsys.readouterr().out)[0]["predictions"]
    scores = expected_scores(model, videos / "b.mp4")
    np.testing.assert_allclose([p["score"] for p in predictions], scores.sort(descending=True).values, atol=0.05)


def test_a_model_without_a_classifier_is_refused(videos, tmp_path):
    UMTForPreTraining(tiny_config()).save_pretrained(tmp_path / "pretrained")
    with pytest.raises(
        ValueError, match=r"pretrained cannot classify: it is a stage-1 model, .*\(UMTForPreTraining\)"
    ):
        run(videos / "b.mp4", "--model", tmp_path / "pretrained")


def test_wrong_calls(model, videos, tmp_path):
    with pytest.raises(ValueError, match="--top-k is 0"):
        run(videos / "b.mp4", "--model", model, "--top-k", 0)
    with pytest.raises(ValueError, match="--batch-size is 0"):
        run(videos / "b.mp4", "--model", model, "--batch-size", 0)
    with pytest.raises(ValueError, match="--crops is -1"):
        run(videos / "b.mp4", "--model", model, "--crops", -1)
    with pytest.raises(ValueError, match=r"contains no videos; their file names end in \.3g2"):
        run(tmp_path, "--model", model)
    with pytest.raises(OSError, match="nowhere"):
        run(videos / "b.mp4", "--model", tmp_path / "nowhere")


def test_batches_and_files(videos):
    assert list(batches(range(7), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(batches([], 3)) == []
    url = "https://example.org/clip"
    assert video_records.VIDEO_SUFFIXES is video_shards.VIDEO_SUFFIXES is video_files.VIDEO_SUFFIXES
    assert list_video_files([url, str(videos / "notes.txt")]) == [url, str(videos / "notes.txt")]


def test_scores_that_are_not_finite_are_errors(videos, tmp_path, capsys):
    folder = save_classifier(tmp_path / "model", UMTVideoProcessor(**PROCESSOR))
    broken = UMTForVideoClassification.from_pretrained(folder)
    broken.classifier.weight.data[1, 0] = float("nan")
    broken.save_pretrained(folder)
    assert run(videos / "b.mp4", "--model", folder) == 1
    printed = capsys.readouterr()
    assert printed.out == "" and "scores are not finite in torch.float32; use --dtype float32" in printed.err
    assert run(videos / "b.mp4", "--model", folder, "--json") == 1
    [result] = json.loads(capsys.readouterr().out)
    assert result["video"] == str(videos / "b.mp4") and "not finite" in result["error"]


def test_control_characters_of_names_are_escaped(tmp_path, capsys):
    """A terminal would obey them; a name that is not UTF-8 can't be printed."""
    labels = ["red \x1b[31m", "two\nlines", "plain"]
    folder = save_classifier(tmp_path / "model", UMTVideoProcessor(**PROCESSOR), id2label=dict(enumerate(labels)))
    good, bad = tmp_path / "a\x1b[2J\udcff.mp4", tmp_path / "b\r.mp4"
    write_noise(tmp_path / "noise.mp4", 0)
    (tmp_path / "noise.mp4").rename(good)
    bad.write_bytes(b"nothing")
    assert cli.main(["classify", str(good), str(bad), "--model", str(folder)]) == 1
    printed = capsys.readouterr()
    assert not [char for char in printed.out if not char.isprintable() and char != "\n"]
    assert "\x1b" not in printed.err and "b\r" not in printed.err
    assert "a\\x1b[2J\\udcff.mp4" in printed.out and "red \\x1b[31m" in printed.out and "two\\nlines" in printed.out
    assert "b\\r.mp4" in printed.err
    assert cli.main(["classify", str(good), "--model", str(folder), "--json"]) == 0
    [result] = json.loads(capsys.readouterr().out)
    assert result["video"] == str(good)
