"""Model cards of trainers: metadata that parses, values of the run, code that runs; and pushing to a Hub."""

import re
from pathlib import Path

import pytest
import torch
from finetuning_tools import (
    save_clips_of_classes,
    save_stage1,
    tiny_clips,
    tiny_trainer,
    write_recipe,
)
from hub_server import USER, LoopbackHub
from huggingface_hub import ModelCard
from subprocess_tools import run_clean
from video_files import write_video

from modeling_umt import UMTForPreTraining
from processing_umt import UMTVideoProcessor
from umt_training import RunFacts
from umt_training.cards.run_facts import display_name, hub_name
from umt_training.cards.trainer_card import final_evaluation, trainer_card
from umt_training.runs.resume import save_with_card
from umt_training.trainers.base_trainer import UMTTrainer
from umt_training.trainers.training_arguments import UMTTrainingArguments


def snippet(card: str) -> str:
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    return code


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A trained classifier with run facts, saved with its card."""
    folder = tmp_path_factory.mktemp("cards") / "my-model"
    options = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1, "max_steps": 3}
    best = {"load_best_model_at_end": True, "metric_for_best_model": "loss", "greater_is_better": True}
    trainer = tiny_trainer(folder, eval_dataset=tiny_clips(6, seed=1), ema_decay=0.5, **options, **best)
    trainer.processing_class = UMTVideoProcessor.for_config(trainer.model.config)
    trainer.run_facts = RunFacts(
        data=("someone/clips",),
        eval_data="someone/clips, split test",
        starts=("author/umt-b",),
        license="cc-by-4.0",
        settings={"started from": "author/umt-b", "preset": "full", "LoRA rank": None, "frame sampling": "segments"},
    )
    trainer.train()
    save_with_card(trainer)
    return folder, trainer


def test_metadata(saved):
    folder, trainer = saved
    data = ModelCard.load(folder / "README.md").data
    assert (data.license, data.library_name, data.pipeline_tag) == (
        "cc-by-4.0",
        "transformers",
        "video-classification",
    )
    assert data.base_model == "author/umt-b" and data.datasets == "someone/clips"
    assert "unmasked-teacher" in data.tags and data.model_name == "my-model"
    best = trainer.state.best_global_step
    (logged,) = [e for e in trainer.state.log_history if "eval_top1" in e and e["step"] == best]
    # top-5 accuracy is not defined for three classes
    expected = [("accuracy", round(logged["eval_top1"], 2))]
    assert [(r.metric_type, r.metric_value) for r in data.eval_results] == expected
    for result in data.eval_results:
        assert result.task_type == "video-classification" and result.dataset_type == "someone/clips"
        assert result.dataset_name == "someone/clips, split test" and "single centre view" in result.metric_name


def test_the_card_states_the_settings_that_determine_the_outcome(saved):
    folder, _ = saved
    text = (folder / "README.md").read_text()
    rows = dict(re.findall(r"^\| (.*?) \| (.*?) \|$", text, re.MULTILINE))
    assert rows["effective batch"] == "4 = 1 processes x 4 videos x 1 accumulated x 1 views"
    assert rows["peak learning rate"] == "0.01" and rows["steps"] == "3 (1.5 epochs)"
    assert rows["preset"] == "full" and "LoRA rank" not in rows and rows["frame sampling"] == "segments"
    assert rows["started from"] == "author/umt-b" and rows["precision"] == "float32"
    assert rows["decay of the averaged weights"] == "0.5" and rows["layer-wise learning-rate decay"] == "0.75"
    assert rows["torch"] == torch.__version__.split("+")[0] or rows["torch"] == torch.__version__
    assert "Classes: LABEL_0, LABEL_1, LABEL_2." in text and "3 layers of hidden size 24" in text
    assert "The checkpoint was chosen by this evaluation" in text and "cc-by-4.0." in text
    assert text.endswith("ICCV 2023, [arXiv 2303.16058](https://arxiv.org/abs/2303.16058).\n") and "2403." not in text


def test_code_on_the_card_runs(saved, tmp_path, monkeypatch, capsys):
    folder, _ = saved
    monkeypatch.chdir(folder.parent)
    write_video(folder.parent / "clip.mp4")
    exec(snippet((folder / "README.md").read_text()), {})
    assert "LABEL_" in capsys.readouterr().out


def test_a_trainer_without_run_facts_and_without_evaluation(tmp_path):
    trainer = tiny_trainer(tmp_path / "bare", max_steps=1)
    trainer.train()
    card = trainer_card(trainer, trainer.card_sections(), tags=["mine"])
    assert card.data.eval_results is None and card.data.license is None and "mine" in card.data.tags
    for words in ("Not evaluated during training", "has not stated a licence", "a data set given in Python: 8 videos"):
        assert words in card.content
    # an evaluation of other weights than the saved ones does not count
    trainer.state.log_history.append({"eval_loss": 1.0, "eval_top1": 50.0, "step": 0})
    assert final_evaluation(trainer, "eval_loss") == {}


def test_several_data_sets_and_starts_and_local_paths(tmp_path):
    trainer = tiny_trainer(tmp_path / "bare", max_steps=1)
    trainer.run_facts = RunFacts(
        data=("someone/clips", str(tmp_path), "someone/more"),
        starts=("author/umt-b", "google-bert/bert-base-uncased"),
        settings={"teacher": "/absent/secret/clip"},
    )
    card = trainer_card(trainer, trainer.card_sections())
    assert card.data.datasets == ["someone/clips", "someone/more"]
    assert card.data.base_model == ["author/umt-b", "google-bert/bert-base-uncased"]
    assert f"Trained on `someone/clips`, `{tmp_path.name}`, `someone/more`: 8 videos." in card.text
    assert "| teacher | clip |" in card.text


def test_card_of_an_encoder(tmp_path, monkeypatch, capsys):
    model = UMTForPreTraining.from_pretrained(save_stage1(tmp_path / "start"))
    args = UMTTrainingArguments(output_dir=str(tmp_path / "encoder"), report_to="none")
    processor = UMTVideoProcessor.for_config(model.config)
    trainer = UMTTrainer(model, args, train_dataset=tiny_clips(), processing_class=processor)
    save_with_card(trainer)
    card = ModelCard.load(tmp_path / "encoder" / "README.md")
    assert card.data.pipeline_tag is None and "encodes clips" in card.text and "Classes" not in card.text
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "clip.mp4")
    exec(snippet(card.content), {})
    assert "torch.Size([1, 24])" in capsys.readouterr().out


def test_names_on_the_hub_and_local_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("local/folder").mkdir(parents=True)
    assert hub_name("someone/clips") == "someone/clips"
    assert hub_name("OpenGVLab/UMT:single_modality/b16.pth") == "OpenGVLab/UMT"
    for source in (
        "local/folder",
        "umt-b",
        "/data/clips",
        "../data",
        "./data/x",
        "a/b/c",
        "shards/{000..005}.tar",
    ):
        assert hub_name(source) is None, source
    assert display_name("local/folder") == "folder" and display_name(str(tmp_path)) == tmp_path.name
    assert display_name("/absent/secret/clips") == "clips" and display_name("someone/clips") == "someone/clips"


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A Hub to which two runs of `umt finetune` were pushed: a complete model and an adapter."""
    root = tmp_path_factory.mktemp("push")
    recipe = write_recipe(
        root / "recipe.yaml", init_from=str(save_stage1(root / "stage1")), push_to_hub=True, num_train_epochs=1,
        data=str(save_clips_of_classes(root / "clips", number=2)), eval_data=str(root / "clips"),
        eval_strategy="epoch", save_strategy="epoch",
    )  # fmt: skip
    with LoopbackHub() as server:
        result = run_clean(
            f"""
            from umt_training.cli import main

            main(["finetune", "--config", {recipe!r}, "--output_dir", "whole", "--hub_model_id", "{USER}/mine"])
            main(["finetune", "--config", {recipe!r}, "--output_dir", "small", "--preset", "lora",
                  "--license", "mit", "--hub_model_id", "{USER}/adapter"])
            """,
            cwd=root,
            env=server.env(),
            allow_umt=True,
        )
        assert result.returncode == 0, result.stderr
        yield server


def test_the_pushed_files(hub):
    files = hub.files(f"{USER}/mine")
    expected = {"model.safetensors", "config.json", "modeling_umt.py", "video_preprocessor_config.json"}
    assert expected | {"video_processing_umt.py", "README.md"} <= files.keys()
    assert not any("checkpoint-" in name for name in files)
    card = ModelCard(files["README.md"].decode())
    assert card.data.model_name == "mine" and card.data.eval_results and f'model="{USER}/mine"' in card.text
    adapter = hub.files(f"{USER}/adapter")
    assert {"adapter_model.safetensors", "base/model.safetensors", "base/modeling_umt.py"} <= adapter.keys()
    card = ModelCard(adapter["README.md"].decode())
    assert (card.data.library_name, card.data.license, card.data.base_model) == ("peft", "mit", None)


def test_the_code_on_the_cards_runs_the_pushed_models(hub, tmp_path):
    write_video(tmp_path / "clip.mp4")
    code = "\n".join(snippet(hub.files(f"{USER}/{name}")["README.md"].decode()) for name in ("mine", "adapter"))
    result = run_clean(code, cwd=tmp_path, env=hub.env())  # without the packages of this repository
    assert result.returncode == 0, result.stderr
    first, second = result.stdout.splitlines()[-2:]
    assert "'jump'" in first and "'run'" in first and second in ("jump", "run")
