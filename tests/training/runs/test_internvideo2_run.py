"""InternVideo2 in the commands: fine-tuning with each preset, from saved and official models, then classification,
evaluation, embedding and publishing of what was trained."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from finetuning_tools import changed, save_clips_of_classes, write_recipe
from peft import PeftModel
from pyarrow import parquet
from transformers import AutoModelForVideoClassification

from modeling_umt import (
    InternVideo2Config,
    InternVideo2ForPreTraining,
    InternVideo2ForVideoClassification,
    InternVideo2Model,
    convert_umt_checkpoint,
)
from modeling_umt.convert_umt_checkpoints import official_state_dict
from modeling_umt.labels_umt import load_labels
from modeling_umt.position_embeddings_umt import resize_learned_table
from processing_umt import UMTVideoProcessor
from umt_training import UMTBatchClassifier, UMTBatchEmbedder
from umt_training.cli import main
from umt_training.runs.detection_run import DetectionRun, load_detector
from umt_training.runs.finetuning_run import FineTuningRun, load_classifier

SIZES = {
    "image_size": 32, "patch_size": 16, "num_frames": 2, "hidden_size": 16, "num_hidden_layers": 2,
    "num_attention_heads": 2, "intermediate_size": 32, "num_pooling_heads": 2, "pooled_size": 8,
    "num_aligned_layers": 2, "target_dim": 8, "final_target_dim": 8,
}  # fmt: skip
HARDLY_TRAINED = {"base_learning_rate": 1e-9, "base_min_learning_rate": 0.0, "base_warmup_learning_rate": 0.0}


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    return save_clips_of_classes(tmp_path_factory.mktemp("videos"))


@pytest.fixture(scope="module")
def student(tmp_path_factory) -> Path:
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("student")
    InternVideo2ForPreTraining(InternVideo2Config(**SIZES)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def runs(clips, student, tmp_path_factory):
    """Function (name, keys) → the folder of a run of `umt finetune` with these keys, run once for each name."""
    root, done = tmp_path_factory.mktemp("runs"), {}

    def run(name: str, **keys) -> Path:
        if name not in done:
            keys = {"init_from": str(student), "data": str(clips), "eval_share": 0.25, "num_train_epochs": 1} | keys
            recipe = write_recipe(root / f"{name}.yaml", **keys)
            assert main(["finetune", "--config", recipe, "--output-dir", str(root / name)]) == 0
            done[name] = root / name
        return done[name]

    return run


@pytest.mark.parametrize("preset", ["full", "linear", "attentive"])
def test_each_preset_trains_its_part(runs, student, preset):
    folder = runs(preset, preset=preset, base_learning_rate=5.0)
    model, info = AutoModelForVideoClassification.from_pretrained(folder, output_loading_info=True)
    assert type(model) is InternVideo2ForVideoClassification and not any(info.values())
    assert set(model.config.id2label.values()) == {"jump", "run"}
    card = (folder / "README.md").read_text()
    assert (folder / "modeling_internvideo2_umt.py").exists() and "An InternVideo2 video model that labels" in card
    assert "InternVideo2: Scaling Foundation Models for Multimodal Video Understanding" in card
    assert "(https://arxiv.org/abs/2403.15377)" in card and "Unmasked Teacher:" not in card
    before = InternVideo2Model.from_pretrained(student).state_dict()
    parts = {name.split(".")[0] for name in changed(before, model.internvideo2.state_dict())}
    expected = {"full": {"embeddings", "layers", "pooling"}, "attentive": {"pooling"}, "linear": set()}
    assert parts == expected[preset]
    assert torch.equal(model.fc_norm.weight, torch.ones(8)) == (preset == "linear")


def test_lora_saves_an_adapter(runs, monkeypatch, tmp_path):
    folder = runs("lora", preset="lora", lora_rank=2)
    assert (folder / "adapter_model.safetensors").exists() and not (folder / "model.safetensors").exists()
    base = AutoModelForVideoClassification.from_pretrained(folder / "base")
    assert type(PeftModel.from_pretrained(base, folder).merge_and_unload()) is InternVideo2ForVideoClassification


def test_a_run_with_more_frames_starts_from_the_resized_table(runs, student):
    frames = runs("frames", model={"num_frames": 4, "image_size": 48}, **HARDLY_TRAINED)
    model = InternVideo2ForVideoClassification.from_pretrained(frames)
    source = InternVideo2Model.from_pretrained(student).embeddings.positions.position_embeddings[0]
    table = resize_learned_table(source, (2, 2, 2), (4, 3, 3), True, "mean")
    actual = model.internvideo2.embeddings.positions.position_embeddings[0]
    torch.testing.assert_close(actual, table, rtol=0, atol=1e-5)
    assert UMTVideoProcessor.from_pretrained(frames).num_frames == 4


def test_fields_of_the_other_family_are_refused(clips, student, tmp_path, capsys):
    recipe = write_recipe(
        tmp_path / "recipe.yaml", init_from=str(student), data=str(clips), model={"position_type": "space_time"}
    )
    assert main(["finetune", "--config", recipe, "--output-dir", str(tmp_path / "run")]) == 1
    assert "`model` names position_type, which InternVideo2Config does not have" in capsys.readouterr().err


def test_rows_of_a_head_and_official_files_are_a_start(runs, clips, tmp_path):
    torch.manual_seed(3)
    names = {0: "walk", 1: "run", 2: "jump"}
    source = InternVideo2ForVideoClassification(InternVideo2Config(**SIZES, id2label=names))
    torch.nn.init.normal_(source.classifier.weight)
    source.save_pretrained(tmp_path / "source")
    folder = runs("rows", init_from=str(tmp_path / "source"), **HARDLY_TRAINED)
    model = InternVideo2ForVideoClassification.from_pretrained(folder)
    torch.testing.assert_close(model.classifier.weight, source.classifier.weight[[2, 1]], rtol=0, atol=1e-5)

    # a size that was never published
    torch.save({"module": official_state_dict(source)}, tmp_path / "pytorch_model.bin")
    recipe = write_recipe(tmp_path / "r.yaml", init_from=str(tmp_path / "pytorch_model.bin"), data=str(clips))
    assert main(["finetune", "--config", recipe, "--output-dir", str(tmp_path / "run")]) == 1


@pytest.mark.parametrize("labels", ["k400", "k600", "k700", "k710"])
def test_a_kinetics_head_starts_from_the_recorded_rows_of_an_official_one(labels, recorded, tmp_path):
    """From a head of 710 classes, which the official loader cuts to a smaller one."""
    _, tensors = recorded("internvideo2_finetune")
    weight, bias = tensors["input/head_weight"], tensors["input/head_bias"]
    fields = SIZES | {"pooled_size": weight.shape[1], "final_target_dim": 8}
    source = InternVideo2ForVideoClassification(InternVideo2Config(**fields, num_labels=710))
    official = official_state_dict(source) | {"head.weight": weight, "head.bias": bias}
    converted = convert_umt_checkpoint(official, InternVideo2Config(**fields))
    assert [converted.config.id2label[row] for row in range(710)] == load_labels("k710")
    converted.save_pretrained(tmp_path)
    model = load_classifier(FineTuningRun(init_from=str(tmp_path)), load_labels(labels))
    assert torch.equal(model.classifier.bias, tensors[f"expected/head_bias_{labels.removeprefix('k')}"])
    rows = recorded("internvideo2_class_orders")[0]["k710_rows"].get(labels, list(range(710)))
    assert torch.equal(model.classifier.weight, weight[rows])
    if labels == "k600":  # the only recorded matrix
        assert torch.equal(model.classifier.weight, tensors["expected/head_weight_600"])
    # the rows are those of the names, in any order of the data
    alphabetical = load_classifier(FineTuningRun(init_from=str(tmp_path)), load_labels(f"{labels}_alphabetical"))
    order = recorded("internvideo2_class_orders")[0]["official_to_alphabetical"][labels]
    assert torch.equal(alphabetical.classifier.bias[order], model.classifier.bias)


@pytest.mark.parametrize("labels", ["k400", "k600", "k700", "k710"])
def test_an_official_head_has_the_recorded_names_of_its_size(labels, recorded):
    names = recorded("internvideo2_class_orders")[0]["names"][labels]
    source = InternVideo2ForVideoClassification(InternVideo2Config(**SIZES, num_labels=len(names)))
    config = convert_umt_checkpoint(official_state_dict(source), InternVideo2Config(**SIZES)).config
    assert [config.id2label[index] for index in range(len(names))] == names


def test_a_trained_model_classifies_is_evaluated_embeds_and_is_published(runs, clips, tmp_path, capsys):
    folder = runs("full", preset="full", base_learning_rate=5.0)
    video = str(clips / "run" / "0.mp4")
    assert main(["classify", video, "--model", str(folder)]) == 0
    assert "jump" in capsys.readouterr().out
    output = ["--output", str(tmp_path / "evaluation")]
    command = ["evaluate", "--model", str(folder), "--data", str(clips), "--clips", "2", "--crops", "3"]
    assert main([*command, *output, "--num-workers", "0"]) == 0
    results = json.loads((tmp_path / "evaluation" / "results.json").read_text())
    assert 0 <= results["metrics"]["top1"] <= 100
    assert main(["embed", video, "--model", str(folder), "--output", str(tmp_path / "vectors.npy")]) == 0
    assert np.load(tmp_path / "vectors.npy").shape == (1, 8)
    assert main(["publish", str(folder), "--repo-id", "someone/model", "--dry-run"]) == 0
    assert "modeling_internvideo2_umt.py" in capsys.readouterr().out


def test_a_data_set_of_results_equals_the_results_in_a_file(runs, clips, tmp_path):
    folder, videos = runs("full", preset="full", base_learning_rate=5.0), str(clips / "run")
    names = [str(path) for path in sorted((clips / "run").iterdir())]
    command = ["--model", str(folder), "--num-workers", "0", "--output"]
    assert main(["embed", videos, *command, str(tmp_path / "vectors.npy")]) == 0
    vectors = np.load(tmp_path / "vectors.npy")
    for task in ("embed", "classify"):
        assert main([task, videos, *command, f"{tmp_path / task}/"]) == 0
    embedded, classified = (parquet.read_table(tmp_path / task) for task in ("embed", "classify"))
    assert embedded["video"].to_pylist() == classified["video"].to_pylist() == names
    np.testing.assert_allclose(embedded["embedding"].to_pylist(), vectors, atol=1e-6)
    np.testing.assert_allclose(UMTBatchEmbedder(str(folder))({"video": names})["embedding"], vectors, atol=1e-6)
    labels = UMTBatchClassifier(str(folder))({"video": names})["label"]
    assert labels.tolist() == classified["label"].to_pylist()


def test_tokens_are_dropped_by_motion_in_training_and_in_commands(runs, clips, student, tmp_path, capsys):
    folder = runs("motion", motion_drop_ratio=0.4, **HARDLY_TRAINED)
    model = AutoModelForVideoClassification.from_pretrained(folder)
    assert model.config.motion_drop_ratio == 0.4
    tokens = model.internvideo2(torch.randn(1, 2, 3, 32, 32)).last_hidden_state
    assert tokens.shape[1] == 1 + 4  # int(0.6 * 2 * 2 * 2)
    assert "| tokens dropped by motion | 0.4 |" in (folder / "README.md").read_text()
    for ratio in ("0", "0.4"):
        command = ["embed", str(clips / "run" / "0.mp4"), "--model", str(student), "--motion-drop-ratio", ratio]
        assert main([*command, "--output", str(tmp_path / f"{ratio}.npy")]) == 0
    assert not np.allclose(np.load(tmp_path / "0.npy"), np.load(tmp_path / "0.4.npy"), atol=1e-6)


def test_action_detection_does_not_start_from_it(student):
    with pytest.raises(
        ValueError, match=r"InternVideo2ForPreTraining of type 'internvideo2'; .* a saved video model: UMT"
    ):
        load_detector(DetectionRun(init_from=str(student)), ["sit", "talk"])


def test_the_card_of_a_saved_model_names_its_family(student, tmp_path):
    folder = shutil.copytree(student, tmp_path / "student")
    assert main(["card", str(folder)]) == 0
    text = (folder / "README.md").read_text()
    assert "An InternVideo2 model: a pre-trained InternVideo2 model" in text and "SentenceTransformer(" in text
    assert text.index("arxiv.org/abs/2403.15377") < text.index("arxiv.org/abs/2303.16058")  # it is aligned as UMT's


def test_a_folder_without_a_processor_gets_that_of_its_configuration(student, clips, tmp_path, capsys):
    command = ["embed", str(clips / "run" / "0.mp4"), "--model", str(student), "--output", str(tmp_path / "v.npy")]
    assert main(command) == 0
    assert "has no video processor; using the default" in capsys.readouterr().err
