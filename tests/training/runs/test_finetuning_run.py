"""Classification runs: data, heads that are kept, interruption and resume, and the models of every preset."""

import json
import re
import shutil
import socket
import unicodedata
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import torch
from accelerate import PartialState
from finetuning_tools import (
    SIZES,
    changed,
    losses,
    random_clip,
    save_clips_of_classes,
    save_stage1,
    state_of,
    tiny_classifier,
    tiny_trainer,
    write_recipe,
)
from peft import PeftModel
from recorded import load_recorded
from recorded_models import pixel_model_config, sub_state
from subprocess_tools import complaints, run_clean
from transformers import AutoModelForVideoClassification, AutoVideoProcessor, pipeline
from video_files import write_video

from modeling_umt import (
    UMTConfig,
    UMTForMaskedModeling,
    UMTForPreTraining,
    UMTForVideoClassification,
    UMTModel,
    UMTTeacherConfig,
    UMTTeacherModel,
    convert_umt_checkpoint,
)
from modeling_umt.convert_umt_checkpoints import official_state_dict
from modeling_umt.labels_umt import load_labels
from modeling_umt.position_embeddings_umt import resize_position_table
from processing_umt.frame_sampling_umt import sample_clips, sample_training_clip
from umt_training import finetune
from umt_training.runs import finetuning_run, resume
from umt_training.runs.finetuning_run import (
    FineTuningRun,
    head_rows,
    load_classifier,
    load_evaluation_clips,
    load_processor,
    load_records,
    load_training_clips,
    run_facts,
)
from umt_training.runs.resume import last_checkpoint
from umt_training.trainers.finetuning import UMTFineTuningArguments, UMTFineTuningTrainer

TOLERANCE = {"rtol": 0, "atol": 1e-5}


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    """Four videos of each of two classes."""
    return save_clips_of_classes(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def stage1(tmp_path_factory) -> Path:
    return save_stage1(tmp_path_factory.mktemp("stage1"))


def load(clips: Path, **keys):
    return load_records(FineTuningRun(data=str(clips), **keys), UMTFineTuningArguments(output_dir="unused"))


def test_evaluation_videos(clips, tmp_path):
    train, held_out, names = load(clips)
    assert (len(train), held_out, names) == (8, None, ["jump", "run"])
    train, held_out, _ = load(clips, eval_share=0.25)
    assert Counter(train["label"]) == {0: 3, 1: 3} and Counter(held_out["label"]) == {0: 1, 1: 1}

    # other videos, whose classes are in another order and fewer
    other = save_clips_of_classes(tmp_path / "other", ("run",), number=2)
    _, held_out, _ = load(clips, eval_data=str(other))
    assert list(held_out["label"]) == [1, 1]

    # splits of one folder: lists, as the published data sets have them
    for split, rows in (("train", [("jump/0.mp4", 0), ("run/1.mp4", 1)]), ("val", [("run/2.mp4", 1)])):
        (tmp_path / f"{split}.csv").write_text("".join(f"{path},{label}\n" for path, label in rows))
    train, held_out, names = load(tmp_path, data_root=str(clips), train_split="train", eval_split="val")
    assert (len(train), len(held_out), names) == (2, 1, ["LABEL_0", "LABEL_1"])
    assert held_out["video"][0] == str(clips / "run" / "2.mp4")


def test_the_classes_are_printed_before_training(clips, tmp_path, capsys):
    load(clips)
    assert capsys.readouterr().out == "2 classes, 8 videos:\n  jump  4\n  run   4\n"
    rows = [f"{name}/{video}.mp4,{name}\n" for name in ("jump", "run") for video in range(4)]
    (tmp_path / "list.csv").write_text("video,label\n" + "".join(rows * 2) + "run/0.mp4,runn\n")
    load(tmp_path / "list.csv", data_root=str(clips))
    assert "note: the class 'runn' (1) may be a misspelling of 'run' (8)" in capsys.readouterr().out
    save_clips_of_classes(tmp_path / "one", ("run",), number=2)
    with pytest.raises(ValueError, match="one class only, 'run'"):
        load(tmp_path / "one")


def test_rows_of_a_head_are_found_by_id2label_in_any_unicode_form():
    """`from_pretrained(…, id2label=…)` leaves `label2id` as it was."""
    names = ["zumba", unicodedata.normalize("NFD", "café"), "archery"]
    config = UMTConfig(id2label=dict(enumerate(names)), label2id={"archery": 0, "zumba": 1})
    assert head_rows(config, ["archery", "zumba"]) == [2, 0]
    assert head_rows(config, [unicodedata.normalize("NFC", "café"), "zumba"]) == [1, 0]
    assert head_rows(config, ["juggling", "zumba"]) is None
    official = load_labels("k710")
    config = UMTConfig(id2label=dict(enumerate(reversed(official))), label2id=dict.fromkeys(official, 0))
    assert head_rows(config, official[:3]) == [709, 708, 707]


def test_wrong_evaluation_videos_are_refused_before_a_step(clips, tmp_path):
    save_clips_of_classes(tmp_path / "unknown", ("swim",), number=1)
    with pytest.raises(ValueError, match="swim"):
        load(clips, eval_data=str(tmp_path / "unknown"))
    (tmp_path / "unlabelled").mkdir()
    write_video(tmp_path / "unlabelled" / "a.mp4")
    with pytest.raises(ValueError, match="The evaluation videos have no labels"):
        load(clips, eval_data=str(tmp_path / "unlabelled"))
    with pytest.raises(ValueError, match="Give `eval_share`, or `eval_data` or `eval_split`"):
        load(clips, eval_data=str(clips), eval_share=0.5)
    with pytest.raises(ValueError, match="`eval_share` must be between 0 and 1"):
        load(clips, eval_share=1.5)
    (tmp_path / "empty_class" / "sit").mkdir(parents=True)
    save_clips_of_classes(tmp_path / "empty_class", number=1)
    with pytest.raises(ValueError, match="1 of 3 classes have no training clip: sit"):
        load(tmp_path / "empty_class")
    (tmp_path / "k400.csv").write_text("jump/0.mp4,400\n")
    with pytest.raises(ValueError, match="400"):
        load(tmp_path / "k400.csv", data_root=str(clips), labels="k400")


@pytest.mark.parametrize(
    ("keys", "saved", "training"),
    [
        ({}, ("sparse", 1), ("sparse", 1)),
        ({"sampling": "segments"}, ("segments", 1), ("segments", 1)),
        ({"sampling": "uniform"}, ("uniform", 1), ("uniform", 1)),
        ({"sampling": "dense", "frame_stride": 3}, ("dense", 3), ("dense", 3)),
        ({"sampling": "dense", "eval_sampling": "strided", "frame_stride": 3}, ("strided", 3), ("dense", 3)),
        ({"sampling": "dense", "eval_sampling": "uniform", "frame_stride": 3}, ("uniform", 1), ("dense", 3)),
        ({"sampling": "sparse", "eval_sampling": "dense", "frame_stride": 3}, ("dense", 3), ("sparse", 1)),
    ],
)
def test_frame_sampling_of_training_of_evaluation_and_of_the_saved_processor(keys, saved, training, tmp_path):
    run = FineTuningRun(data="unused", **keys)
    config, args = UMTConfig(**SIZES | {"num_frames": 4}), UMTFineTuningArguments(output_dir="unused")
    processor = load_processor(run, config)
    processor.save_pretrained(tmp_path)
    processor = AutoVideoProcessor.from_pretrained(tmp_path)  # options that do not go together are an error
    assert (processor.sampling, processor.frame_stride) == saved
    records = [{"video": "unused", "label": 0}]
    for dataset, expected in (
        (
            load_training_clips(run, args, records, config),
            sample_training_clip(40, 4, training[0], seeded(), training[1]),
        ),
        (load_evaluation_clips(run, args, records, processor), sample_clips(40, 4, saved[0], 1, saved[1])[0]),
    ):
        clip = dataset.reader.sample_frames(num_video_frames=40, num_frames=4, generator=seeded())
        assert clip.tolist() == expected.tolist()


def seeded() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"sampling": "random"}, "`sampling` must be one of sparse, segments, middle, dense, strided, uniform"),
        ({"eval_sampling": "key_frame"}, "`eval_sampling` must be one of sparse"),
        ({"sampling": "dense"}, "`sampling` is 'dense', which needs `frame_stride`"),
        ({"eval_sampling": "strided"}, "`eval_sampling` is 'strided', which needs `frame_stride`"),
        ({"frame_stride": 4}, "`frame_stride` is 4, but `sampling` is 'sparse', without a stride"),
        ({"sampling": "dense", "frame_stride": 0}, "`frame_stride` must be at least 1, but is 0"),
    ],
)
def test_frame_sampling_without_a_meaning_is_refused(keys, message):
    with pytest.raises(ValueError, match=message):
        FineTuningRun(data="unused", **keys)


# --- the start ------------------------------------------------------------------------------------------------------


def config_of(names: list[str]) -> UMTConfig:
    return UMTConfig(id2label=dict(enumerate(names)), label2id={name: index for index, name in enumerate(names)})


@pytest.mark.parametrize("named", ["official", "alphabetical", "unnamed"])
@pytest.mark.parametrize("labels", ["k400", "k600", "k700"])
def test_a_kinetics_710_head_starts_smaller_kinetics_heads(labels, named, recorded):
    """Data in official and in alphabetical order get the rows of their classes, from heads of either order."""
    orders, _ = recorded("internvideo2_class_orders")
    official_rows = orders["k710_rows"][labels]
    # row of each official class in the order of the source
    position = orders["official_to_alphabetical"]["k710"] if named == "alphabetical" else list(range(710))
    expected = [position[row] for row in official_rows]
    names = {"official": load_labels("k710"), "alphabetical": load_labels("k710_alphabetical")}.get(named)
    source = UMTConfig(num_labels=710) if names is None else config_of(names)
    assert head_rows(source, load_labels(labels)) == expected
    permuted = dict(zip(orders["official_to_alphabetical"][labels], expected, strict=True))
    alphabetical = head_rows(source, load_labels(f"{labels}_alphabetical"))
    assert alphabetical == [permuted[index] for index in range(len(expected))] != expected


def test_class_folders_of_kinetics_start_from_a_kinetics_710_head():
    """Some classes of Kinetics-400, under names that Kinetics-710 changed."""
    source = config_of(load_labels("k710"))
    rows = head_rows(source, ["hugging", "marching", "zumba"])
    assert rows == [load_labels("k710").index(name) for name in ("hugging (not baby)", "marching", "zumba")]
    assert head_rows(source, ["hugging", "my own class"]) is None


def test_head_rows_by_name():
    source = config_of(["a", "b", "c", "d"])
    assert head_rows(source, ["a", "b", "c", "d"]) == [0, 1, 2, 3]
    assert head_rows(source, ["d", "b"]) == [3, 1]
    assert head_rows(source, ["a", "e"]) is None
    assert head_rows(config_of(load_labels("k710")), ["archery", "zumba"]) == [
        load_labels("k710").index(name) for name in ("archery", "zumba")
    ]
    # without names, equal numbers of classes are treated as the same classes
    unnamed = UMTConfig(num_labels=4)
    assert head_rows(unnamed, ["a", "b", "c", "d"]) == [0, 1, 2, 3]
    assert head_rows(source, ["LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3"]) == [0, 1, 2, 3]
    assert head_rows(unnamed, ["LABEL_0", "LABEL_1"]) is None
    assert head_rows(unnamed, ["a", "b"]) is None


def test_interpolated_checkpoint_of_710_classes(tmp_path):
    """Another clip size, twice the frames, and 400 of 710 classes, as the official loader adapts them."""
    recorded, tensors = load_recorded("checkpoint_interpolate")
    state = sub_state(tensors)
    stored_table = state.pop("pos_embed")[0]
    sizes = {
        "image_size": 64, "num_frames": 8, "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 3,
        "intermediate_size": 96, "num_labels": 710, "num_aligned_layers": 1,
    }  # fmt: skip
    convert_umt_checkpoint(state, UMTConfig(**sizes)).save_pretrained(tmp_path)

    target = recorded["target"]
    fields = {"image_size": target["img_size"], "num_frames": target["all_frames"]}
    run = FineTuningRun(init_from=str(tmp_path), labels="k400", model=fields)
    model = load_classifier(run, load_labels("k400")).eval()
    assert torch.equal(model.classifier.weight, tensors["expected/head_weight"])
    assert (model.config.num_frames, model.config.image_size, model.config.num_labels) == (16, 96, 400)
    assert model.config.id2label[399] == load_labels("k400")[399]
    # the recorded table was overwritten by random values; ours is computed, and resized in the same way
    resized = resize_position_table(stored_table, (8, 4, 4), (16, 6, 6))
    torch.testing.assert_close(resized[None], tensors["expected/pos_embed"], **TOLERANCE)
    model.umt.embeddings.position_embeddings.copy_(resized)
    with torch.no_grad():
        logits = model(tensors["input/video"].transpose(1, 2)).logits
    torch.testing.assert_close(logits, tensors["expected/logits"], **TOLERANCE)


def test_stage1_checkpoint(tmp_path):
    recorded, tensors = load_recorded("checkpoint_stage1_to_classifier")
    student, state = recorded["student"], {}
    for name, tensor in tensors.items():
        if name.startswith("state/") and not name.startswith("state/init."):
            state[name.removeprefix("state/")] = tensor
    sizes = {
        "image_size": 32, "patch_size": 8, "num_frames": 4, "hidden_size": 32, "num_hidden_layers": 3,
        "num_attention_heads": 4, "intermediate_size": 128, "target_dim": 12,
        "num_aligned_layers": student["clip_return_layer"],
    }  # fmt: skip
    convert_umt_checkpoint(state, UMTConfig(**sizes)).save_pretrained(tmp_path)
    run = FineTuningRun(init_from=str(tmp_path), model={"position_grid": [8, 14, 14]})
    model = load_classifier(run, [f"LABEL_{i}" for i in range(recorded["classifier"]["num_classes"])]).eval()
    torch.testing.assert_close(
        model.umt.embeddings.position_embeddings[None], tensors["expected/pos_embed"], **TOLERANCE
    )
    # head and norm are newly initialised
    assert torch.equal(model.umt.fc_norm.weight, torch.ones(32)) and 0 < model.classifier.weight.std() < 1e-4
    with torch.no_grad():
        model.umt.fc_norm.weight.copy_(tensors["state/init.fc_norm.weight"])
        model.umt.fc_norm.bias.copy_(tensors["state/init.fc_norm.bias"])
        model.classifier.weight.copy_(tensors["state/init.head.weight"])
        model.classifier.bias.copy_(tensors["state/init.head.bias"])
        logits = model(tensors["input/video"].transpose(1, 2)).logits
    torch.testing.assert_close(logits, tensors["expected/logits"], **TOLERANCE)


def test_pre_trained_checkpoint_of_everest(tmp_path):
    """The recorded logits of a classifier that starts from it and drops tokens by motion; norm and head are new."""
    recorded, tensors = load_recorded("everest_checkpoint")
    state = {name: tensor for name, tensor in sub_state(tensors).items() if not name.startswith("init.")}
    convert_umt_checkpoint(state, pixel_model_config(recorded["pretrain"])).save_pretrained(tmp_path)
    run = FineTuningRun(init_from=str(tmp_path), motion_drop_ratio=recorded["classifier"]["mcm_ratio"])
    model = load_classifier(run, [f"LABEL_{i}" for i in range(recorded["classifier"]["num_classes"])]).eval()
    assert torch.equal(model.umt.fc_norm.weight, torch.ones(32)) and 0 < model.classifier.weight.std() < 1e-4
    with torch.no_grad():
        for name, parameter in {"fc_norm": model.umt.fc_norm, "head": model.classifier}.items():
            parameter.weight.copy_(tensors[f"state/init.{name}.weight"])
            parameter.bias.copy_(tensors[f"state/init.{name}.bias"])
        logits = model(tensors["input/video"].transpose(1, 2)).logits
    torch.testing.assert_close(logits, tensors["expected/logits"], **TOLERANCE)


@pytest.mark.parametrize("kind", [UMTModel, UMTForPreTraining, UMTForMaskedModeling, UMTForVideoClassification])
def test_every_saved_model_is_a_start_and_training_is_in_float32(kind, tmp_path):
    torch.manual_seed(0)
    fields = {"masked_targets": {"image": 8}, "position_grid": None} if kind is UMTForMaskedModeling else {}
    source = kind(UMTConfig(**SIZES, num_labels=3, **fields)).bfloat16()
    source.save_pretrained(tmp_path)
    model = load_classifier(FineTuningRun(init_from=str(tmp_path), model={"drop_path_rate": 0.3}), ["a", "b"])
    encoder = source if kind is UMTModel else source.umt
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    for name, tensor in encoder.state_dict().items():
        if "norm." not in name.removeprefix("layers."):
            assert torch.equal(model.umt.state_dict()[name], tensor.float()), name
    assert model.umt.layers[-1].drop_path_rate == pytest.approx(0.3)
    assert (model.config.position_type, model.config.position_grid) == (
        source.config.position_type,
        source.config.position_grid,
    )
    assert model.config.id2label == {0: "a", 1: "b"} and model.config.label2id == {"a": 0, "b": 1}
    assert model.classifier.weight.std() < 1e-4


# the sizes of S/16 with one block: of official files, sizes are inferred from shapes
OFFICIAL = {
    "hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536, "num_hidden_layers": 1,
    "num_frames": 16, "tubelet_size": 2, "position_grid": None,
}  # fmt: skip
PIXEL_DECODER = {
    "masked_targets": {"pixels": 1536}, "masked_loss": "mse", "decoder_projection_bias": False,
    "decoder_hidden_size": 192, "decoder_num_attention_heads": 3, "decoder_num_hidden_layers": 1,
}  # fmt: skip
FEATURE_DECODERS = {"masked_targets": {"image": 768, "video": 768}, "decoder_num_hidden_layers": 1}


@pytest.mark.parametrize(
    ("kind", "position_type", "fields"),
    [
        pytest.param(UMTForMaskedModeling, "flat", PIXEL_DECODER, id="EVEREST or VideoMAE, pre-trained"),
        pytest.param(UMTModel, "flat", {"final_norm": "none"}, id="EVEREST or VideoMAE, encoder"),
        pytest.param(UMTForMaskedModeling, "space_time", FEATURE_DECODERS, id="MVD, pre-trained"),
        pytest.param(UMTForVideoClassification, "flat", {"num_labels": 3}, id="EVEREST or VideoMAE, classifier"),
        pytest.param(UMTForVideoClassification, "space_time", {"num_labels": 3}, id="MVD, classifier"),
    ],
)
def test_official_files_with_tokens_of_two_frames_are_a_start(kind, position_type, fields, tmp_path):
    torch.manual_seed(0)
    source = kind(UMTConfig(**OFFICIAL, position_type=position_type, **fields))
    torch.save(official_state_dict(source), tmp_path / "official.pth")
    run = FineTuningRun(init_from=str(tmp_path / "official.pth"), model={"classifier_dropout": 0.5})
    if kind is UMTForVideoClassification:  # its file does not determine the position table
        with pytest.raises(ValueError, match=r"umt finetune --model '\{position_type: flat\}'"):
            load_classifier(run, ["a", "b", "c"])
        run.model["position_type"] = position_type
    model = load_classifier(run, ["a", "b", "c"])
    state, encoder = model.umt.state_dict(), source if kind is UMTModel else source.umt
    for name, tensor in encoder.state_dict().items():
        if not name.startswith(("norm.", "fc_norm.")):
            assert torch.equal(state[name], tensor), name
    assert torch.equal(model.umt.embeddings.position_embeddings, encoder.embeddings.position_embeddings)
    config = model.config
    assert (config.position_type, config.position_grid) == (position_type, None)
    assert (config.final_norm, config.num_frames, config.image_size) == ("pooled", 16, 224)
    assert config.classifier_dropout == 0.5
    if kind is UMTForVideoClassification:
        assert torch.equal(model.classifier.weight, source.classifier.weight)
    else:
        assert torch.equal(model.umt.fc_norm.weight, torch.ones(384)) and model.classifier.weight.std() < 1e-4


def test_a_new_pooling_has_a_new_head(tmp_path):
    tiny_classifier(2).save_pretrained(tmp_path)
    names = ["LABEL_0", "LABEL_1"]
    kept = load_classifier(FineTuningRun(init_from=str(tmp_path)), names)
    assert torch.equal(kept.classifier.weight, tiny_classifier(2).classifier.weight)
    fresh = load_classifier(FineTuningRun(init_from=str(tmp_path), preset="attentive"), names)
    assert fresh.config.pooling == "attention" and fresh.classifier.weight.std() < 1e-4
    # a trained attention pool is kept
    fresh.save_pretrained(tmp_path / "attentive")
    for preset in ("full", "lora", "attentive"):
        run = FineTuningRun(init_from=str(tmp_path / "attentive"), preset=preset)
        assert not changed(state_of(fresh), state_of(load_classifier(run, names)))


def test_what_a_run_cannot_start_from(tmp_path, monkeypatch):
    sizes = {"image_size": 32, "patch_size": 16, "hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 16}
    teacher = UMTTeacherModel(UMTTeacherConfig(**sizes, num_attention_heads=2, num_aligned_layers=1))
    teacher.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is a UMTTeacherModel of type 'umt_teacher'; fine-tuning starts from"):
        load_classifier(FineTuningRun(init_from=str(tmp_path)), ["a"])
    monkeypatch.setattr(
        finetuning_run, "convert_umt_checkpoint", lambda name, **_: UMTTeacherModel.from_pretrained(tmp_path)
    )
    with pytest.raises(ValueError, match=r"teacher\.pth contains a UMTTeacherModel, not a video encoder"):
        load_classifier(FineTuningRun(init_from="teacher.pth"), ["a"])


def test_facts_for_the_card(clips):
    run = FineTuningRun(data=str(clips), eval_share=0.25, init_from="author/umt-b", license="mit", flip=False)
    facts = run_facts(run)
    assert (facts.data, facts.starts, facts.license) == ((str(clips),), ("author/umt-b",), "mit")
    assert facts.eval_data == f"{clips.name}, a held-out fraction of 0.25"
    assert facts.settings == {
        "started from": "author/umt-b",
        "preset": "full",
        "LoRA rank": None,
        "frame sampling": "sparse",
        "frame sampling of evaluation": None,
        "frame stride": None,
        "horizontal flip": False,
    }
    lora = run_facts(FineTuningRun(data="someone/clips", eval_split="val", init_from="b.pth", preset="lora"))
    assert (lora.eval_data, lora.settings["LoRA rank"]) == ("someone/clips, split val", 16)
    assert run_facts(FineTuningRun(data="a", init_from="b")).eval_data is None


# --- runs -----------------------------------------------------------------------------------------------------------


def test_runs_that_cannot_start(clips, stage1, tmp_path):
    recipe = write_recipe(tmp_path / "recipe.yaml", init_from=str(stage1), data=str(clips))
    output = ["--output_dir", str(tmp_path / "out")]
    for overrides, message in (
        (["--preset", "half"], "preset 'half'"),
        (["--labels", "k401"], "label list 'k401'"),
        (["--labels", "k400"], "jump"),
        (["--layer_decays", "0.7"], "layer_decays"),
        (["--model", "{image_sise: 64}"], "image_sise, which UMTConfig does not have"),
        (["--task", "retrieval"], "`task` must be 'classification'"),
        (["--model", '{"image_size": [32, 48]}'], "Training crops are square"),
        (["--per_device_train_batch_size", "9"], "9"),
    ):
        with pytest.raises(ValueError, match=message):
            finetune(recipe, [*output, *overrides])
    for missing, present in (("data", {"init_from": str(stage1)}), ("init_from", {"data": str(clips)})):
        with pytest.raises(ValueError, match=f"No `{missing}` given"):
            finetune(write_recipe(tmp_path / "other.yaml", **present), output)
    assert not list((tmp_path / "out").glob("checkpoint-*"))


@pytest.mark.skipif(torch.accelerator.is_available(), reason="an accelerator multiplies bfloat16 itself")
def test_a_recipe_of_16_bits_is_float32_on_a_cpu_unless_the_command_line_says_so(stage1, tmp_path, monkeypatch):
    seen = []

    def stop(run, args):
        seen.append(args.bf16)
        raise ValueError("far enough")

    monkeypatch.setattr(finetuning_run, "load_records", stop)
    recipe = write_recipe(tmp_path / "recipe.yaml", init_from=str(stage1), data="clips", bf16=True)
    for overrides in ([], ["--bf16", "true"]):
        with pytest.raises(ValueError, match="far enough"):
            finetune(recipe, ["--output_dir", str(tmp_path / "out"), *overrides])
    assert seen == [False, True]


INTERRUPTED = """
import os, signal
from umt_training import finetune
from umt_training.runs import finetuning_run

class Trainer(finetuning_run.UMTFineTuningTrainer):
    def _save_rng_state(self, output_dir):
        if self.state.global_step == 6:
            os.kill(os.getpid(), signal.SIGKILL)  # before the checkpoint is complete
        super()._save_rng_state(output_dir)

finetuning_run.UMTFineTuningTrainer = Trainer
finetune({recipe!r}, ["--output_dir", {output!r}])
"""


def test_a_killed_run_resumes_as_if_it_had_not_been_interrupted(clips, stage1, tmp_path, capfd):
    """With two views of each video, mixing, drop path, averaged weights and the best checkpoint chosen at the end."""
    recipe = write_recipe(
        tmp_path / "recipe.yaml", init_from=str(stage1), data=str(clips), model={"drop_path_rate": 0.5},
        eval_data=str(clips), ema_decay=0.9, save_strategy="steps", save_steps=2, eval_strategy="steps", eval_steps=2,
        load_best_model_at_end=True, metric_for_best_model="loss", save_total_limit=2, base_min_learning_rate=0.01,
    )  # fmt: skip
    whole = finetune(recipe, ["--output_dir", str(tmp_path / "whole")])
    output = tmp_path / "interrupted"
    killed = run_clean(INTERRUPTED.format(recipe=recipe, output=str(output)), cwd=tmp_path, allow_umt=True)
    assert killed.returncode == -9, killed.stderr
    assert (output / "checkpoint-6" / "model.safetensors").exists()
    assert last_checkpoint(str(output)) == str(output / "checkpoint-4")
    capfd.readouterr()
    resumed = finetune(recipe, ["--output_dir", str(output)])
    assert f"resuming from {output / 'checkpoint-4'}" in capfd.readouterr().out

    assert whole.state.global_step == 12 and len(losses(whole)) == 12
    for name in ("loss", "learning_rate", "eval_loss", "eval_top1"):
        expected, actual = (
            [entry[name] for entry in trainer.state.log_history if name in entry] for trainer in (whole, resumed)
        )
        assert actual == pytest.approx(expected, abs=0), name
    assert resumed.state.best_global_step == whole.state.best_global_step
    assert not changed(state_of(whole.model), state_of(resumed.model))

    # its model was not saved: the best checkpoint is loaded, without a step
    capfd.readouterr()
    (output / "model.safetensors").unlink()
    moved = tmp_path / "moved"
    output.rename(moved)
    again = finetune(recipe, ["--output_dir", str(moved)])
    best = moved / f"checkpoint-{whole.state.best_global_step}"
    assert f"all 12 steps are done; the weights are those of {best}\n" in capfd.readouterr().out
    assert again.optimizer is None and not changed(state_of(whole.model), state_of(again.model))
    assert json.loads((moved / "trainer_state.json").read_text())["best_model_checkpoint"] == best.name


def test_processes_must_share_the_folder(tmp_path, monkeypatch):
    PartialState(cpu=True)
    checkpoint = tmp_path / "checkpoint-2"
    tiny_trainer(tmp_path, save_strategy="steps", save_steps=2, max_steps=2).train()
    assert resume.common_checkpoint(str(tmp_path)) == str(checkpoint)
    monkeypatch.setattr(resume, "gather_object", lambda values: [*values, False])  # another process, another disk
    with pytest.raises(ValueError, match=r"Not all processes see .*checkpoint-2.*file system that all machines share"):
        resume.common_checkpoint(str(tmp_path))


@pytest.fixture(scope="module")
def presets(clips, stage1, tmp_path_factory) -> dict:
    """`umt finetune` with each preset in one process, LoRA with and without merging."""
    root = tmp_path_factory.mktemp("presets")
    recipe = write_recipe(
        root / "recipe.yaml", init_from=str(stage1), data=str(clips), eval_share=0.25, sampling="segments",
        model={"drop_path_rate": 0.1}, num_train_epochs=1, checkpoint_blocks=1, eval_strategy="epoch",
        save_strategy="epoch", load_best_model_at_end=True, metric_for_best_model="top1", lora_rank=2,
    )  # fmt: skip
    result = run_clean(
        f"""
        from umt_training.cli import main

        for preset in ("full", "lora", "attentive", "linear"):
            assert main(["finetune", "--config", {recipe!r}, "--preset", preset, "--output_dir", preset]) == 0
        options = ["--preset", "lora", "--merge_lora", "true", "--output_dir", "merged"]
        assert main(["finetune", "--config", {recipe!r}, *options]) == 0
        """,
        cwd=root,
        allow_umt=True,
    )
    assert result.returncode == 0, result.stderr
    return {"root": root, "stderr": result.stderr}


def test_runs_are_silent(presets):
    """Except for Transformers' list of newly initialised weights."""
    assert [line for line in complaints(presets["stderr"]) if "LOAD REPORT" not in line] == []


@pytest.mark.parametrize("preset", ["full", "lora", "merged"])
def test_the_page_shows_curves_and_the_held_out_videos(presets, preset):
    folder = presets["root"] / preset
    page = (folder / "index.html").read_text(encoding="utf-8")
    for name in re.findall(r'(?:src|href)="([^"]+)"', page):
        assert (folder / unquote(name)).exists(), name
    for name in ("curves.png", "confusion.png", "per_class.png"):
        assert f'src="pictures/{name}"' in page
    strips = list((folder / "pictures").glob("mistakes/*.jpg"))
    assert page.count('<img src="pictures/mistakes/') == len(strips)
    assert f"umt classify VIDEO --model {preset}" in page


@pytest.mark.parametrize("preset", ["full", "attentive", "linear", "merged"])
def test_whole_models_of_presets(presets, preset, clips, stage1):
    folder = presets["root"] / preset
    assert {"model.safetensors", "modeling_umt.py", "video_processing_umt.py", "README.md"} <= {
        path.name for path in folder.iterdir()
    }
    assert not (folder / "adapter_config.json").exists() and not (folder / "base").exists()
    model, info = AutoModelForVideoClassification.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()) and isinstance(model, UMTForVideoClassification)
    assert model.config.pooling == ("attention" if preset == "attentive" else "mean")
    source = UMTForPreTraining.from_pretrained(stage1).umt.state_dict()
    encoder = {name: tensor for name, tensor in model.umt.state_dict().items() if "fc_norm" not in name}
    moved = changed({name: source[name] for name in encoder}, encoder)
    assert bool(moved) == (preset in ("full", "merged"))
    classifier = pipeline("video-classification", model=str(folder))
    answer = classifier(str(clips / "run" / "3.mp4"))
    assert {entry["label"] for entry in answer} == {"jump", "run"}
    assert AutoVideoProcessor.from_pretrained(folder).sampling == "segments"


def test_adapters_load_both_ways_and_merge(presets, tmp_path, monkeypatch):
    monkeypatch.chdir(presets["root"])  # the adapter refers to its base by a path from there
    folder, clip = presets["root"] / "lora", random_clip()
    assert not (folder / "model.safetensors").exists()
    base = AutoModelForVideoClassification.from_pretrained(folder / "base")
    with torch.no_grad():
        plain = base.eval()(clip).logits
        logits = {
            "AutoModel": AutoModelForVideoClassification.from_pretrained(folder).eval()(clip).logits,
            "run merged": AutoModelForVideoClassification.from_pretrained(presets["root"] / "merged")
            .eval()(clip)
            .logits,
        }
        adapted = PeftModel.from_pretrained(base, folder).eval()
        expected = adapted(clip).logits
        merged = adapted.merge_and_unload()
        logits["merged here"] = merged(clip).logits
    assert not torch.allclose(expected, plain, atol=1e-6)
    for name, actual in logits.items():
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    # the merged model works like any other
    merged.save_pretrained(tmp_path)
    AutoVideoProcessor.from_pretrained(folder).save_pretrained(tmp_path)
    video = write_video(tmp_path / "clip.mp4")
    scores = {
        entry["label"]: entry["score"] for entry in pipeline("video-classification", model=str(tmp_path))(str(video))
    }
    assert sum(scores.values()) == pytest.approx(1.0, abs=1e-4) and set(scores) == {"jump", "run"}


TWO_PROCESSES = """
import hashlib
import torch
from umt_training import finetune

trainer = finetune({recipe!r}, ["--output_dir", {output!r}])
weights = torch.cat([tensor.flatten().float() for tensor in trainer.model.state_dict().values()])
digest = hashlib.sha256(weights.numpy().tobytes()).hexdigest()
print(trainer.args.world_size, trainer.args.effective_batch_size, digest)
torch.distributed.destroy_process_group()
"""


def test_two_processes(clips, stage1, tmp_path):
    recipe = write_recipe(
        tmp_path / "recipe.yaml", init_from=str(stage1), data=str(clips), eval_data=str(clips), preset="lora",
        ema_decay=0.9, num_train_epochs=2, per_device_train_batch_size=1, gradient_accumulation_steps=2,
        eval_strategy="epoch", save_strategy="epoch", load_best_model_at_end=True, metric_for_best_model="top1",
    )  # fmt: skip
    output = tmp_path / "out"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])

    def process(rank: int):
        env = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
        (tmp_path / f"process{rank}").mkdir()
        code = TWO_PROCESSES.format(recipe=recipe, output=str(output))
        return run_clean(code, cwd=tmp_path / f"process{rank}", env={**env, "MASTER_PORT": port}, allow_umt=True)

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(process, (0, 1)))
    for result in results:
        assert result.returncode == 0, result.stderr
    said = [result.stdout.splitlines()[-1].split() for result in results]
    assert said[0] == said[1] and said[0][:2] == ["2", "8"]
    state = json.loads((output / "trainer_state.json").read_text())
    assert state["global_step"] == 4 and all(np.isfinite(e["loss"]) for e in state["log_history"] if "loss" in e)
    base = AutoModelForVideoClassification.from_pretrained(output / "base")
    assert PeftModel.from_pretrained(base, output).config.id2label == {0: "jump", 1: "run"}


@pytest.mark.parametrize("pushed", [False, True])
def test_no_file_of_a_run_contains_a_token_or_an_absolute_path(pushed, clips, stage1, tmp_path, monkeypatch):
    """With a broken video, which is listed, checkpoints, and an adapter, whose base is in the folder."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(clips, tmp_path / "clips")
    (tmp_path / "clips" / "run" / "broken.mp4").write_bytes(b"no video")
    monkeypatch.setattr(UMTFineTuningTrainer, "init_hf_repo", lambda *arguments, **options: None)
    monkeypatch.setattr(UMTFineTuningTrainer, "push_to_hub", lambda trainer, **options: trainer.create_model_card())
    monkeypatch.setattr(UMTFineTuningTrainer, "_push_from_checkpoint", lambda *arguments: None)
    recipe = write_recipe(
        tmp_path / "recipe.yaml", init_from=str(stage1), data=str(tmp_path / "clips"), preset="lora", lora_rank=2,
        eval_data=str(tmp_path / "clips"), save_strategy="epoch", max_broken_share=0.9, hub_token="hf_SECRET",
        push_to_hub=pushed, hub_model_id="me/model", hub_strategy="every_save",
    )  # fmt: skip
    finetune(recipe, ["--output_dir", "out"])
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert {"adapter_config.json", "run.json", "README.md", "epoch-3.jsonl"} <= {path.name for path in files}
    for path in files:
        content = path.read_bytes()
        for secret in ("hf_SECRET", str(tmp_path), str(stage1), str(Path.cwd())):
            assert secret.encode() not in content, path
    for path in (tmp_path / "out").rglob("adapter_config.json"):
        assert json.loads(path.read_text())["base_model_name_or_path"] == ("base" if pushed else "out/base")
    (line,) = (tmp_path / "out" / "broken_videos" / "epoch-3.jsonl").read_text().splitlines()
    assert json.loads(line)["video"] == "run/broken.mp4"
