"""Action detection runs: data of every form, starts, held-out videos, resuming, and the recipes."""

import argparse
import re
import shlex
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from finetuning_tools import SIZES, changed, save_stage1, state_of, tiny_classifier
from key_frame_files import metadata_row, write_lines, write_metadata
from tiny_action_training import CLASSES, save_key_frames, save_tiny_detector, tiny_detector, write_recipe
from tiny_classifier import save_noise
from transformers import AutoModelForObjectDetection, AutoVideoProcessor

from modeling_umt import (
    UMTConfig,
    UMTForActionDetection,
    UMTForMaskedModeling,
    UMTForPreTraining,
    UMTForVideoClassification,
    UMTModel,
    UMTTeacherConfig,
    UMTTeacherModel,
)
from modeling_umt.labels_umt import load_labels
from umt_training import finetune
from umt_training.cli import evaluate
from umt_training.runs.detection_run import DetectionRun, load_detector, load_key_frames
from umt_training.runs.recipes import RECIPES_FOLDER, parse_recipe, read_recipe
from umt_training.trainers.detection import UMTActionDetectionArguments
from umt_training.trainers.optimization import scaled_learning_rate

LABEL_MAP = "".join(f'item {{ name: "{name}" id: {number} }}\n' for number, name in enumerate(CLASSES, 1))


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    return save_key_frames(tmp_path_factory.mktemp("videos"))


@pytest.fixture(scope="module")
def stage1(tmp_path_factory) -> Path:
    return save_stage1(tmp_path_factory.mktemp("stage1"))


def load(data, **keys):
    args = UMTActionDetectionArguments(output_dir="unused", report_to="none")
    return load_key_frames(DetectionRun(data=str(data), **keys), args)


# --- data -----------------------------------------------------------------------------------------------------------


def test_own_data_are_held_out_by_videos(videos, capsys):
    clips = load(videos, eval_share=0.3)
    assert clips.class_names == list(CLASSES) and len(clips.training) == 8 and len(clips.evaluation) == 4
    held_out = {pair.key_frame.video for pair in clips.evaluation.persons}
    assert len(held_out) == 2 and not held_out & {key_frame.video for key_frame in clips.training}
    assert set(np.array(clips.evaluation.annotations.videos)[clips.evaluation.annotations.video]) == held_out
    assert clips.evaluation.annotations.relative and clips.evaluation.annotations.boxes.max() <= 1
    out = capsys.readouterr().out
    counts = Counter(label for key_frame in clips.training for labels in key_frame.labels for label in labels)
    assert out.startswith("3 classes, 42 actions of 24 persons on 12 key frames of 6 videos\n")
    assert [int(line.split()[-1]) for line in out.splitlines()[1:4]] == sorted(counts.values(), reverse=True)
    everything = load(videos)
    assert len(everything.training) == 12 and everything.evaluation is None


@pytest.mark.parametrize("number", [1, 4, 5])
def test_below_five_videos_nothing_is_held_out(number, tmp_path, capsys):
    clips = load(save_key_frames(tmp_path, number), eval_share=0.2)
    out = capsys.readouterr().out
    assert ("fewer than 5, so that none is held out" in out) == (clips.evaluation is None) == (number < 5)
    assert len(clips.training) == 2 * min(number, 4)


def test_rows_without_categories_are_skipped_and_counted(videos, tmp_path, capsys):
    save_noise(tmp_path / "a.mp4", 0, num_frames=20)
    boxes = [[5, 6, 10, 20], [20, 6, 10, 20]]
    rows = [
        metadata_row(time=0.5, bbox=boxes, categories=[["sit"], []]),
        metadata_row(time=1.0, categories=[[]]),
        metadata_row(time=1.2, categories=[]),
    ]
    write_metadata(tmp_path / "metadata.jsonl", rows)
    clips = load(tmp_path)
    assert [(key_frame.time, len(key_frame.boxes)) for key_frame in clips.training] == [(0.5, 1)]
    assert "skipped: 2 rows without categories, and 1 persons without categories" in capsys.readouterr().out


def test_splits_of_a_folder_and_other_evaluation_data(videos, tmp_path):
    for split in ("train", "val"):
        save_key_frames(tmp_path / split, 2)
    clips = load(tmp_path, train_split="train", eval_split="val")
    assert len(clips.training) == len(clips.evaluation) == 4
    assert all("val" in movie.parts[0].path for movie in clips.evaluation.movies.values())
    assert len(load(tmp_path / "train", eval_data=str(videos)).evaluation) == 12


def test_ava_files_are_training_data(tmp_path, capsys):
    """Cut movies that begin at second 900, an excluded key frame, a movie that is missing, and another evaluation."""
    for name in ("m1", "m2"):
        save_noise(tmp_path / "movies" / f"{name}.mp4", 0, num_frames=60)
    rows = ["m1,0902,0.1,0.1,0.5,0.9,1,0", "m1,0902,0.1,0.1,0.5,0.9,3,0", "m2,0903,0.2,0.2,0.6,0.9,2,1"]
    train = write_lines(tmp_path / "train.csv", *rows, "m2,0904,0.2,0.2,0.6,0.9,2,1", "gone,0902,0,0,1,1,1,0")
    val = write_lines(tmp_path / "val.csv", "m2,0902,0.1,0.1,0.5,0.9,1,0")
    excluded = write_lines(tmp_path / "excluded.csv", "m2,0904")
    label_map = write_lines(tmp_path / "map.pbtxt", LABEL_MAP)
    keys = {"data_root": str(tmp_path / "movies"), "start": 900.0, "label_map": str(label_map)}
    clips = load(train, eval_data=str(val), excluded=str(excluded), **keys)
    assert [(key_frame.name, key_frame.labels) for key_frame in clips.training] == [
        ("m1 at 902 s", ((0, 2),)),
        ("m2 at 903 s", ((1,),)),
    ]
    assert (clips.class_names, len(clips.evaluation)) == (list(CLASSES), 1)
    out = capsys.readouterr().out
    assert "left out: 1 key frames that are excluded" in out and "1 key frames of 1 videos have no file" in out
    del keys["label_map"]
    assert load(train, labels="ava", **keys).class_names == load_labels("ava")


WRONG = {
    "no names of ids": ({"data": "train.csv"}, "contains action ids, and nothing to name them; give a label map"),
    "two sets of names": ({"data": "train.csv", "labels": "ava", "label_map": "map.pbtxt"}, "a label map and class"),
    "map of own data": ({"data": "own", "label_map": "map.pbtxt"}, "names its classes itself, so that a label map"),
    "list of other classes": ({"data": "jog", "labels": "ava"}, "the category 'jog' is not one of the 80 classes"),
    "part of the classes": ({"data": "train.csv", "label_map": "part.pbtxt"}, r"action id 3, which is not in the la"),
    "label map of others": ({"data": "train.csv", "label_map": "other.pbtxt"}, "The label map matches no annotation"),
    "missing movies": ({"data": "train.csv", "label_map": "map.pbtxt"}, r"have no file in .*--start 900"),
    "no such folder": ({"data": "nowhere"}, "nowhere does not exist"),
    "pickled": ({"data": "train.pkl", "label_map": "map.pbtxt"}, "is pickled: reading it would run the code in it"),
    "header": ({"data": "header.csv", "labels": "ava"}, r"header.csv, line 1 .* looks like a header"),
    "id 0": ({"data": "zero.csv", "labels": "ava"}, r"zero.csv, line 1: the action id is '0'"),
    "pixels": ({"data": "pixels.csv", "labels": "ava"}, r"pixels.csv, line 1: .* seems to be in pixels"),
    "fractions": ({"data": "fractions"}, r"metadata.jsonl, line 1: .* seems to be in fractions"),
    "outside the video": ({"data": "late"}, r"metadata.jsonl, line 1: the key frame a.mp4 at 9 s is outside"),
    "no categories": ({"data": "empty"}, r"No person in .*metadata.jsonl has categories"),
    "share and data": ({"data": "own", "eval_share": 0.2, "eval_data": "own"}, "Give `eval_share`, or `eval_data`"),
    "share": ({"data": "many", "eval_share": 1.5}, "`eval_share` must be between 0 and 1"),
    "unknown class": ({"data": "own", "eval_data": "jog"}, "the category 'jog' is not one of the 1 classes"),
    "split of a file": ({"data": "train.csv", "labels": "ava", "train_split": "train"}, "has no splits"),
}


@pytest.fixture(scope="module")
def wrong_data(tmp_path_factory, videos) -> Path:
    folder = tmp_path_factory.mktemp("wrong")
    write_lines(folder / "train.csv", "m1,0902,0.1,0.1,0.5,0.9,1,0", "m1,0902,0.1,0.1,0.5,0.9,3,0")
    write_lines(folder / "part.pbtxt", 'item { name: "sit" id: 1 }')
    write_lines(folder / "header.csv", "video,time,x1,y1,x2,y2,action,person", "m1,0902,0.1,0.1,0.5,0.9,1,0")
    write_lines(folder / "zero.csv", "m1,0902,0.1,0.1,0.5,0.9,0,0")
    write_lines(folder / "pixels.csv", "m1,0902,10,10,50,90,1,0")
    (folder / "train.pkl").write_bytes(b"\x80\x04.")
    write_lines(folder / "map.pbtxt", LABEL_MAP)
    write_lines(folder / "other.pbtxt", 'item { name: "swim" id: 70 }')
    objects = {
        "own": {},
        "late": {"time": 9.0},
        "fractions": {"bbox": [[0.1, 0.1, 0.2, 0.3]]},
        "empty": {"categories": [[]]},
        "jog": {"categories": [["jog"]]},
    }
    for name, fields in objects.items():
        save_noise(folder / name / "a.mp4", 0, num_frames=20)
        write_metadata(folder / name / "metadata.jsonl", [metadata_row(**{"time": 1.0} | fields)])
    (folder / "many").symlink_to(videos)
    return folder


@pytest.mark.parametrize("case", WRONG)
def test_wrong_data_are_refused_in_one_line(case, wrong_data):
    keys, message = WRONG[case]
    paths = {
        key: str(wrong_data / value) if key in ("eval_data", "label_map") else value for key, value in keys.items()
    }
    with pytest.raises(ValueError, match=message) as error:
        load(wrong_data / paths.pop("data"), **paths)
    assert "\n" not in str(error.value)


# --- the start ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (UMTModel, {}),
        (UMTModel, {"final_norm": "none"}),
        (UMTForPreTraining, {}),
        (UMTForMaskedModeling, {"masked_targets": {"image": 8}, "position_grid": None}),
        (UMTForVideoClassification, {}),
        (UMTForActionDetection, {}),
    ],
)
def test_every_encoder_is_a_start(kind, fields, tmp_path):
    torch.manual_seed(0)
    source = kind(UMTConfig(**SIZES, num_labels=3, **fields)).bfloat16()
    source.save_pretrained(tmp_path)
    model = load_detector(DetectionRun(init_from=str(tmp_path), model={"drop_path_rate": 0.3}), ["a", "b"])
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    encoder = (source if kind is UMTModel else source.umt).state_dict()
    for name, tensor in encoder.items():
        if not name.startswith("fc_norm."):
            assert torch.equal(model.umt.state_dict()[name], tensor.float()), name
    if kind is UMTForVideoClassification or fields.get("final_norm") == "none":
        assert torch.equal(model.umt.norm.weight, torch.ones(24)) and not model.umt.norm.bias.any()
    assert model.umt.layers[-1].drop_path_rate == pytest.approx(0.3)
    assert model.config.id2label == {0: "a", 1: "b"} and model.config.label2id == {"a": 0, "b": 1}
    assert model.classifier.weight.std() < 1e-4


def test_a_head_of_the_same_classes_is_kept_in_their_order(tmp_path):
    save_tiny_detector(tmp_path)
    run = DetectionRun(init_from=str(tmp_path))
    assert not changed(state_of(tiny_detector()), state_of(load_detector(run, list(CLASSES))))
    two = load_detector(run, ["talk", "sit"])
    assert torch.equal(two.classifier.weight, tiny_detector().classifier.weight[[2, 0]])
    assert load_detector(run, ["talk", "swim"]).classifier.weight.std() < 1e-4
    # the head of a classifier has other features
    tiny_classifier(2, pooling="attention").save_pretrained(tmp_path / "classifier")
    start = load_detector(DetectionRun(init_from=str(tmp_path / "classifier")), ["LABEL_0", "LABEL_1"])
    assert start.classifier.weight.std() < 1e-4 and start.config.pooling == "mean"


def test_other_models_are_no_start(tmp_path):
    sizes = {"image_size": 32, "patch_size": 16, "hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 16}
    config = UMTTeacherConfig(**sizes, num_attention_heads=2, num_aligned_layers=1)
    UMTTeacherModel(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"is a UMTTeacherModel .* UMTForActionDetection"):
        load_detector(DetectionRun(init_from=str(tmp_path)), ["a"])


# --- runs -----------------------------------------------------------------------------------------------------------


def test_a_run_chooses_the_best_checkpoint_and_is_complete(videos, stage1, tmp_path, capsys):
    recipe = write_recipe(tmp_path / "recipe.yaml", init_from=str(stage1), data=str(videos), flip=False)
    output = tmp_path / "out"
    options = ["--output_dir", str(output), "--eval_share", "0.3", "--eval_strategy", "epoch", "--save_strategy"]
    options += ["epoch", "--load_best_model_at_end", "true", "--metric_for_best_model", "map50"]
    trainer = finetune(recipe, [*options, "--sampling_fps", "10", "--frame_stride", "3"])
    scores = [line["eval_map50"] for line in trainer.state.log_history if "eval_map50" in line]
    assert len(scores) == 2 and trainer.state.best_metric == max(scores)
    model = AutoModelForObjectDetection.from_pretrained(output)
    assert not changed(state_of(trainer.model), state_of(model)) and model.config.id2label[2] == "talk"
    processor = AutoVideoProcessor.from_pretrained(output)
    assert (processor.sampling, processor.frame_stride, processor.sampling_fps) == ("key_frame", 3, 10)
    card = (output / "README.md").read_text()
    for text in (
        "pipeline_tag: object-detection", "Classes: sit, stand, talk.", "8 key frames", "| horizontal flip | False |",
        "| frames of a clip | 2, stride 3 at 10 frames per second |", f" {max(scores):.2f} %",
        "with the annotated boxes of the persons", "a held-out fraction of 0.3",
    ):  # fmt: skip
        assert text in card, text
    assert f"next: umt detect VIDEO --model {output} --output found" in capsys.readouterr().out
    # again: nothing is trained
    again = finetune(recipe, [*options, "--sampling_fps", "10", "--frame_stride", "3"])
    assert "is complete; nothing is trained" in capsys.readouterr().out
    assert not changed(state_of(trainer.model), state_of(again.model))


def test_the_code_of_the_card_detects_actions(videos, tmp_path, monkeypatch, capsys):
    model = save_tiny_detector(tmp_path / "model")
    recipe = write_recipe(tmp_path / "recipe.yaml", init_from=str(model), data=str(videos), max_steps=1)
    finetune(recipe, ["--output_dir", str(tmp_path / "out")])
    code = re.search(r"```python\n(.*?)```", (tmp_path / "out" / "README.md").read_text(), re.DOTALL)[1]
    save_noise(tmp_path / "clip.mp4", 0)
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    exec(code, {})
    assert sorted(line.split()[1] for line in capsys.readouterr().out.splitlines()) == list(CLASSES)


def test_a_run_on_one_video_has_no_evaluation(stage1, tmp_path):
    videos = save_key_frames(tmp_path / "videos", 1)
    recipe = read_recipe("small_detection") | {"init_from": str(stage1), "data": str(videos)}
    options = ["--output_dir", str(tmp_path / "out"), "--max_steps", "2", "--per_device_train_batch_size", "2"]
    trainer = finetune(recipe, [*options, "--report_to", "none", "--dataloader_num_workers", "0"])
    assert trainer.eval_dataset is None and not any("eval_map50" in line for line in trainer.state.log_history)
    assert "Not evaluated during training." in (tmp_path / "out" / "README.md").read_text()


def test_a_stopped_run_resumes(videos, stage1, tmp_path, monkeypatch):
    recipe = write_recipe(tmp_path / "recipe.yaml", init_from=str(stage1), data=str(videos))
    complete = finetune(recipe, ["--output_dir", str(tmp_path / "complete")])
    options = ["--output_dir", str(tmp_path / "out"), "--save_strategy", "steps", "--save_steps", "5"]
    real = type(complete).training_step

    def stop(trainer, *args, **kwargs):
        if trainer.state.global_step == 7:
            raise KeyboardInterrupt
        return real(trainer, *args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(type(complete), "training_step", stop)
        finetune(recipe, options)
    resumed = finetune(recipe, options)
    assert resumed.state.global_step == complete.state.global_step == 12
    assert not changed(state_of(complete.model), state_of(resumed.model))


# --- recipes --------------------------------------------------------------------------------------------------------

PUBLISHED = {
    "umt_b16_ava": {
        "init": "b16_ptk710_ftk710_f8_res224", "gpus": 16, "batch": 8, "epochs": 30, "layer_decay": 0.75,
        "drop_path": 0.2, "bf16": True, "map": "33.5", "seed": 0,
    },
    "umt_l16_ava": {
        "init": "l16_ptk710_ftk710_f8_res224", "gpus": 32, "batch": 4, "epochs": 25, "layer_decay": 0.85,
        "drop_path": 0.4, "bf16": False, "map": "39.8", "seed": 6666,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_recipes_have_the_published_values(name):
    published = PUBLISHED[name]
    options = ["--output_dir", "unused"]
    run, args = parse_recipe(read_recipe(name), options, DetectionRun, UMTActionDetectionArguments)
    assert run.init_from == f"OpenGVLab/UMT:single_modality/{published['init']}.pth" and run.labels == "ava"
    assert run.model == {"drop_path_rate": published["drop_path"]}
    assert (run.frame_stride, run.sampling_fps, run.flip) == (8, 25.0, True)
    effective = published["gpus"] * args.effective_batch_size
    assert effective == 128 and args.per_device_train_batch_size == published["batch"]
    assert scaled_learning_rate(args.base_learning_rate, effective) == pytest.approx(1.25e-4, rel=1e-12)
    assert scaled_learning_rate(args.base_min_learning_rate, effective) == pytest.approx(5e-7, rel=1e-12)
    assert args.base_warmup_learning_rate == 0 and args.warmup_epochs == 5
    assert (args.num_train_epochs, args.layer_decay) == (published["epochs"], published["layer_decay"])
    assert (args.weight_decay, args.max_grad_norm, args.bf16) == (0.05, 0, published["bf16"])
    assert (args.adam_beta1, args.adam_beta2, args.seed) == (0.9, 0.999, published["seed"])
    assert args.per_device_eval_batch_size == int(1.5 * published["batch"])
    assert args.load_best_model_at_end and args.metric_for_best_model == "map50" and args.greater_is_better
    text = (RECIPES_FOLDER / f"{name}.yaml").read_text()
    comment = " ".join(line.strip("# \\") for line in text.splitlines() if line.startswith("#"))
    assert f"{published['map']} mAP" in comment and f"{published['gpus']} GPUs" in comment
    assert f"umt) finetune --config {name} " in comment


@pytest.mark.parametrize("name", [*PUBLISHED, "small_detection"])
def test_the_commands_of_recipes_are_accepted(name):
    """The options of a recipe's comment are keys of the run, and options of the evaluation."""
    text = (RECIPES_FOLDER / f"{name}.yaml").read_text()
    comment = " ".join(line.strip("# \\") for line in text.splitlines() if line.startswith("#"))
    command = re.search(r"umt\)? finetune (.*?--output-dir \S+)", comment)[1]
    run, _ = parse_recipe(read_recipe(name), shlex.split(command)[2:], DetectionRun, UMTActionDetectionArguments)
    assert run.data and run.init_from
    evaluation = re.search(r"umt\)? (evaluate --task detection .*?) (Departures|Precision)", comment)[1]
    parser = argparse.ArgumentParser()
    evaluate.add_arguments(parser)
    args = parser.parse_args(shlex.split(evaluation)[1:])
    assert args.task == "detection" and args.model == shlex.split(command)[-1]
