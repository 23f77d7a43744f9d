"""`umt pretrain` with `task: masked_modeling`: a run, its resume, its outputs, its estimate and mistakes."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tiny_masked_modeling import IMAGE_TEACHER, PIXELS, STUDENT, make_student, save_transformers_teachers
from tiny_pretraining import write_videos
from transformers import AutoModel, AutoVideoProcessor
from video_files import write_tar

from modeling_umt import UMTForMaskedModeling, UMTForVideoClassification, UMTImageTeacherConfig, UMTImageTeacherModel
from modeling_umt.convert_umt_checkpoints import official_state_dict
from umt_training.cli import main

PICTURES = ("masks.png", "predictions.png", "curves.png")


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Videos, teachers of Transformers' classes, and a recipe for features and one for pixels."""
    folder = tmp_path_factory.mktemp("parts")
    (folder / "videos").mkdir()
    write_videos(folder / "videos")
    teachers = save_transformers_teachers(folder)
    settings = {
        "task": "masked_modeling",
        "teachers": teachers,
        "model": STUDENT | {"drop_path_rate": 0.2},
        "mask_ratio": 0.75,
        "frame_stride": 1,
        "num_train_epochs": 2,
        "warmup_epochs": 1,
        "base_learning_rate": 0.05,
        "per_device_train_batch_size": 4,
        "logging_steps": 1,
        "save_steps": 3,
        "disable_tqdm": True,
        "use_cpu": True,
    }
    (folder / "features.yaml").write_text(json.dumps(settings))  # JSON is YAML
    (folder / "pixels.yaml").write_text(json.dumps(settings | {"teachers": {}, "model": STUDENT | PIXELS}))
    return folder


def command(parts: Path, recipe: str, output_dir: Path, *overrides: str) -> list[str]:
    given = ["--config", str(parts / f"{recipe}.yaml"), "--data", str(parts / "videos")]
    return ["pretrain", *given, "--output-dir", str(output_dir), *overrides]


def history(folder: Path) -> dict[int, dict[str, float]]:
    """The losses of every step."""
    lines = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return {
        line["step"]: {name: value for name, value in line.items() if name.startswith("loss")}
        for line in lines
        if "loss" in line
    }


@pytest.fixture(scope="module")
def runs(parts, tmp_path_factory):
    folders = {}
    for recipe in ("features", "pixels"):
        folders[recipe] = tmp_path_factory.mktemp(recipe)
        assert main(command(parts, recipe, folders[recipe])) == 0
    return folders


@pytest.mark.parametrize("recipe", ["features", "pixels"])
def test_a_run_writes_model_processor_card_and_pictures(recipe, runs):
    folder = runs[recipe]
    model = UMTForMaskedModeling.from_pretrained(folder)
    assert set(model.decoders) == ({"image", "video"} if recipe == "features" else {"pixels"})
    processor = AutoVideoProcessor.from_pretrained(folder)
    assert (processor.sampling, processor.frame_stride, processor.num_frames) == ("strided", 1, 4)
    assert AutoModel.from_pretrained(folder)(torch.zeros(1, 4, 3, 64, 64)).last_hidden_state.shape == (1, 32, 32)
    card = (folder / "README.md").read_text()
    assert "| frame sampling | strided, stride 1 |" in card and "| mask type | tube |" in card
    predicted = "features of teachers (image, video)" if recipe == "features" else "pixels"
    assert f"encodes clips, pre-trained to predict {predicted} at masked tokens: 3 layers" in card
    assert ("| image teacher | image |" in card) == (recipe == "features")
    for name in PICTURES:
        with Image.open(folder / "pictures" / name) as picture:
            assert picture.format == "PNG" and np.asarray(picture).std() > 1


@pytest.mark.parametrize("recipe", ["features", "pixels"])
def test_an_interrupted_run_resumes_with_the_same_losses(recipe, parts, runs, tmp_path, capsys):
    """After the third of eight steps, within an epoch."""
    folder = tmp_path / "run"
    shutil.copytree(runs[recipe] / "checkpoint-3", folder / "checkpoint-3")
    assert main(command(parts, recipe, folder)) == 0
    assert f"resuming from {folder / 'checkpoint-3'}\n" in capsys.readouterr().out
    expected = history(runs[recipe])
    assert history(folder).keys() == expected.keys() == set(range(1, 9))
    for step, losses in history(folder).items():
        assert losses == pytest.approx(expected[step], rel=1e-6), step
    weights, uninterrupted = (load_file(path / "model.safetensors") for path in (folder, runs[recipe]))
    for name, tensor in uninterrupted.items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-4, atol=1e-6)


def test_shards_and_broken_videos(parts, tmp_path, capsys):
    for shard in range(2):
        paths = sorted((parts / "videos").glob("*.mp4"))[shard::2]
        files = [(path.name, path.read_bytes()) for path in paths]
        write_tar(tmp_path / f"s-{shard}.tar", [*files, ("broken.mp4", b"no video")])
    overrides = ["--data", f"{tmp_path}/s-{{0..1}}.tar", "--samples-per-epoch", "16", "--num-train-epochs", "1"]
    given = command(parts, "features", tmp_path / "run", *overrides, "--max-broken-share", "0.5")
    assert main(given) == 0
    assert "a stream of clips" in capsys.readouterr().out and len(history(tmp_path / "run")) == 4
    assert not (tmp_path / "run" / "pictures" / "masks.png").exists()  # a stream has no first clip

    videos = shutil.copytree(parts / "videos", tmp_path / "videos")
    (videos / "video_03.mp4").write_bytes(b"no video")
    given = ["--data", str(videos), "--num-train-epochs", "1", "--max-broken-share", "0.5"]
    assert main(command(parts, "features", tmp_path / "broken", *given)) == 0
    assert "attempts to read a video failed and were replaced" in capsys.readouterr().out


def test_a_teacher_of_another_patch_size_trains_with_its_own_clips(parts, tmp_path):
    """Saved by this package, for frames of 70 pixels: the run asks for 56, the student's grid."""
    torch.manual_seed(0)
    UMTImageTeacherModel(UMTImageTeacherConfig(**IMAGE_TEACHER, image_size=70, patch_size=14)).save_pretrained(
        tmp_path / "teacher"
    )
    teachers = json.dumps({"image": str(tmp_path / "teacher")})
    run = tmp_path / "run"
    assert main(command(parts, "features", run, "--teachers", teachers, "--max-steps", "2")) == 0
    assert all({"loss", "loss_image", "loss_video"} == losses.keys() for losses in history(run).values())


def test_runs_start_from_other_models(parts, runs, tmp_path, capsys):
    """The encoder of a run with other targets, and the weights of the same student."""
    start = ["--max-steps", "1", "--base-learning-rate", "1e-9", "--base-min-learning-rate", "0"]
    given = command(parts, "features", tmp_path / "same", "--init-from", str(runs["features"]), *start)
    assert main(given) == 0 and "new weights" not in capsys.readouterr().out
    weights, source = (load_file(path / "model.safetensors") for path in (tmp_path / "same", runs["features"]))
    for name, tensor in source.items():
        torch.testing.assert_close(weights[name], tensor, rtol=0, atol=1e-6)

    given = command(parts, "features", tmp_path / "other", "--init-from", str(runs["pixels"]), *start)
    assert main(given) == 0
    printed = capsys.readouterr().out
    assert "new weights: decoders.image.head, " in printed and "umt." not in printed.partition("\n")[0]
    weights, source = (load_file(path / "model.safetensors") for path in (tmp_path / "other", runs["pixels"]))
    encoder = [name for name in source if name.startswith("umt.")]
    # fields that the recipe does not give are the checkpoint's
    assert len(encoder) > 30 and set(weights) == set(make_student(decoder_projection_bias=False).state_dict())
    for name in encoder:
        torch.testing.assert_close(weights[name], source[name], rtol=0, atol=1e-6)


def test_a_trained_student_becomes_a_classifier(runs):
    classifier, report = UMTForVideoClassification.from_pretrained(
        runs["features"], num_labels=3, output_loading_info=True
    )
    assert set(report["missing_keys"]) == {
        *("umt.fc_norm.weight", "umt.fc_norm.bias"),
        *("classifier.weight", "classifier.bias"),
    }
    assert classifier.config.position_type == "space_time" and not report["unexpected_keys"]
    assert "decoder_img.head.weight" in official_state_dict(UMTForMaskedModeling.from_pretrained(runs["features"]))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--mask-type", "attention"], "`mask_type` must be one of tube, random, motion, but is 'attention'"),
        (["--sampling", "every"], "`sampling` must be one of sparse, segments"),
        (["--sampling", "segments"], "`frame_stride` is 1, but `sampling` is 'segments', without a stride"),
        (["--teacher", "x"], "Unknown keys: teacher"),
        (["--teachers", "somewhere"], "`teachers` must be a mapping"),
        (["--teachers", "{image: 5}"], "`teachers` must map the name of each target to a checkpoint"),
        (["--teachers", "{audio: somewhere/else}"], "somewhere/else"),
        (["--model", "{masked_targets: null}"], "`masked_targets`"),
        (["--model", "{masked_targets: {image: 24}}"], "teachers are given for image, video"),
        (["--model", "{masked_targets: {image: 32, video: 40}}"], "image teacher has features of dimension 24"),
        (["--model", "{image_size: [64, 32]}"], "square"),
        (["--model", "{motion_drop_ratio: 0.4}"], "`motion_drop_ratio`, which has no effect in pre-training"),
    ],
)
def test_mistakes_are_reported_in_one_line(overrides, message, parts, tmp_path, capsys):
    assert main(command(parts, "features", tmp_path / "run", *overrides)) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("umt pretrain: ") and message in said


def test_models_that_are_no_teachers_are_named(parts, tmp_path, capsys):
    torch.save({"model": {"conv1.weight": torch.zeros(1), "class_embedding": torch.zeros(1)}}, tmp_path / "clip.pth")
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "config.json").write_text(json.dumps({"model_type": "clip"}))
    for name, message in (
        ("clip.pth", "is a teacher file; a teacher of masked"),
        ("clip", "is a 'clip' model; a teacher"),
    ):
        teachers = json.dumps({"image": str(tmp_path / name)})
        assert main(command(parts, "features", tmp_path / "run", "--teachers", teachers)) == 1
        assert message in capsys.readouterr().err.strip().splitlines()[-1]


def test_the_help_lists_the_keys(parts, capsys):
    assert main(["pretrain", "--help", "--config", str(parts / "features.yaml")]) == 0
    printed = capsys.readouterr().out
    for key in ("--teachers", "--sampling", "--frame-stride", "--flip", "--mask-type", "--init-from", "--model"):
        assert f"{key} " in printed, key
