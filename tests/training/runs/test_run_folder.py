"""The settings file of a run: complete runs that nothing changes, other settings, other data, other folders."""

import json
import os
import re
from pathlib import Path

import pytest
import torch
from finetuning_tools import losses, save_clips_of_classes, save_stage1, tiny_trainer, write_recipe
from safetensors.torch import load_file
from tiny_pretraining import STUDENT, make_teacher, write_videos
from transformers import TrainerCallback
from video_files import write_video

from umt_training import finetune, pretrain


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> Path:
    """Clips of two classes, videos without labels, a stage-1 model, and a teacher."""
    folder = tmp_path_factory.mktemp("parts")
    save_clips_of_classes(folder / "clips")
    (folder / "videos").mkdir()
    write_videos(folder / "videos")
    save_stage1(folder / "stage1")
    make_teacher().save_pretrained(folder / "teacher")
    return folder


def recipe_of(parts: Path, path: Path, **keys) -> str:
    return write_recipe(path, init_from=str(parts / "stage1"), data=str(parts / "clips"), num_train_epochs=1, **keys)


def stage1_recipe(parts: Path) -> dict:
    return {
        "task": "stage1", "data": str(parts / "videos"), "teacher": str(parts / "teacher"), "model": STUDENT,
        "mask_ratio": 0.75, "per_device_train_batch_size": 2, "report_to": "none", "disable_tqdm": True,
    }  # fmt: skip


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Bytes and time of the last change of every file."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}


def same_weights(model: torch.nn.Module, other: torch.nn.Module) -> bool:
    state, expected = model.state_dict(), other.state_dict()
    return state.keys() == expected.keys() and all(torch.equal(state[name], expected[name]) for name in expected)


@pytest.mark.parametrize("case", ["full", "averaged", "lora", "merged", "stage1 with max_steps"])
def test_a_complete_run_is_not_changed(parts, tmp_path, case, capsys):
    run = tmp_path / "run"
    if case.startswith("stage1"):
        start, recipe, overrides = pretrain, stage1_recipe(parts), ["--max_steps", "5", "--output_dir", str(run)]
    else:
        keys = {
            "full": {}, "averaged": {"ema_decay": 0.5}, "lora": {"preset": "lora", "lora_rank": 2},
            "merged": {"preset": "lora", "lora_rank": 2, "merge_lora": True},
        }[case]  # fmt: skip
        start, recipe = finetune, recipe_of(parts, tmp_path / "recipe.yaml", **keys)
        overrides = ["--output_dir", str(run)]
    first = start(recipe, overrides)
    before = contents(run)
    assert json.loads(before["run.json"][0])["complete"]
    capsys.readouterr()
    # also from another folder, and with settings that do not change the result
    again = start(recipe, [*overrides, "--dataloader_num_workers", "1", "--logging_steps", "3", "--save_steps", "2"])
    printed = capsys.readouterr().out.splitlines()
    assert f"the run in {run} is complete; nothing is trained or changed" in printed
    assert contents(run) == before
    assert again.optimizer is None and again.state.global_step == first.state.global_step
    assert same_weights(first.model, again.model)


def test_paths_depend_on_neither_the_working_directory_nor_the_place_of_the_run(parts, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(parts)
    keys = {"init_from": "stage1", "data": "clips", "num_train_epochs": 1}
    finetune(write_recipe(tmp_path / "recipe.yaml", **keys), ["--output_dir", os.path.relpath(tmp_path / "run")])
    text = (tmp_path / "run" / "run.json").read_text()
    assert json.loads(text)["settings"]["data"].startswith("clips (") and str(tmp_path) not in text
    assert str(parts) not in text
    monkeypatch.chdir(tmp_path)
    keys |= {"init_from": str(parts / "stage1"), "data": str(parts / "clips")}
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "run").rename(tmp_path / "a" / "b" / "moved")
    finetune(write_recipe(tmp_path / "recipe.yaml", **keys), ["--output_dir", "a/b/moved"])
    assert "is complete" in capsys.readouterr().out


@pytest.mark.parametrize("finished", [True, False])
def test_other_settings_are_refused(parts, tmp_path, finished):
    recipe = recipe_of(parts, tmp_path / "recipe.yaml", save_strategy="steps", save_steps=2, mixup_alpha=0.0)
    run = tmp_path / "run"
    overrides = ["--output_dir", str(run)]
    finetune(recipe, overrides)
    if not finished:
        settings = json.loads((run / "run.json").read_text()) | {"complete": False}
        (run / "run.json").write_text(json.dumps(settings))
        (run / "model.safetensors").unlink()
    before = contents(run)
    for option, value, difference in [
        ("--num_train_epochs", "2", "`num_train_epochs` was 1.0 and is 2.0"),
        ("--base_learning_rate", "0.2", "`base_learning_rate` was 0.1 and is 0.2"),
        ("--per_device_train_batch_size", "4", "`effective_batch_size` was 4 and is 8"),
        ("--preset", "lora", '`preset` was "full" and is "lora"'),
        ("--model", '{"drop_path_rate": 0.3}', '`model` was {} and is {"drop_path_rate": 0.3}'),
        ("--seed", "7", "`seed` was 42 and is 7"),
        ("--data", str(parts / "videos"), r'`data` was "clips (.*)" and is "videos (.*)"'),
        ("--mixup_alpha", "0.8", "`mixup_alpha` was 0.0 and is 0.8"),  # the value of the default
    ]:
        pattern = re.escape(difference).replace(r"\.\*", ".*")
        with pytest.raises(ValueError, match=pattern) as error:
            finetune(recipe, [*overrides, option, value])
        assert "\n" not in str(error.value) and "another --output-dir" in str(error.value)
    assert contents(run) == before
    # the same effective batch
    finetune(recipe, [*overrides, "--per_device_train_batch_size", "1", "--gradient_accumulation_steps", "2"])


def test_other_data_are_refused_when_a_run_resumes(parts, tmp_path):
    data, run = tmp_path / "data", tmp_path / "run"
    save_clips_of_classes(data)
    recipe = recipe_of(parts, tmp_path / "recipe.yaml")
    overrides = ["--data", str(data), "--output_dir", str(run)]
    finetune(recipe, overrides)
    (run / "model.safetensors").unlink()
    write_video(data / "jump" / "more.mp4")
    with pytest.raises(ValueError, match="`training clips` was 8 and is 9"):
        finetune(recipe, overrides)
    (data / "jump" / "more.mp4").unlink()
    (data / "run").rename(data / "sprint")
    with pytest.raises(ValueError, match=r'`classes` was \["jump", "run"\] and is \["jump", "sprint"\]'):
        finetune(recipe, overrides)


def test_a_folder_with_another_model_is_refused(parts, tmp_path):
    stage1 = contents(parts / "stage1")
    with pytest.raises(ValueError, match=r"contains a model, but no run\.json"):
        finetune(recipe_of(parts, tmp_path / "recipe.yaml"), ["--output_dir", str(parts / "stage1")])
    assert contents(parts / "stage1") == stage1


def test_a_complete_run_is_not_pushed_later(parts, tmp_path):
    recipe, overrides = recipe_of(parts, tmp_path / "recipe.yaml"), ["--output_dir", str(tmp_path / "run")]
    finetune(recipe, overrides)
    with pytest.raises(ValueError, match="is complete; upload it with `umt publish"):
        finetune(recipe, [*overrides, "--push_to_hub", "true"])


def test_an_interrupted_run_with_max_steps_is_saved_without_another_step(parts, tmp_path, capsys):
    """Its checkpoint is in the middle of an epoch, where Trainer would train one step more."""
    run = tmp_path / "run"
    recipe, overrides = stage1_recipe(parts), ["--max_steps", "5", "--output_dir", str(run)]
    first = pretrain(recipe, overrides)
    weights = load_file(run / "model.safetensors")
    (run / "model.safetensors").unlink()
    again = pretrain(recipe, overrides)
    assert f"all 5 steps are done; the weights are those of {run / 'checkpoint-5'}" in capsys.readouterr().out
    assert again.state.global_step == 5 and same_weights(first.model, again.model)
    saved = load_file(run / "model.safetensors")
    assert all(torch.equal(saved[name], tensor) for name, tensor in weights.items())


# --- checkpoints of a trainer ---------------------------------------------------------------------------------------


class StopAt(TrainerCallback):
    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop |= state.global_step >= self.step


SAVED = {"save_strategy": "steps", "save_steps": 2, "num_train_epochs": 3}


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (
            {"per_device_train_batch_size": 2},
            r"`effective_batch_size` 4 \(now 2\), `learning_rate` 0.01 \(now 0.005\)",
        ),
        ({"per_device_train_batch_size": 8}, r"`effective_batch_size` 4 \(now 8\), `learning_rate` 0.01 \(now 0.02\)"),
        ({"base_learning_rate": 0.32}, r"`learning_rate` 0.01 \(now 0.005\)"),
        ({"weight_decay": 0.1}, r"`weight_decay` 0.05 \(now 0.1\)"),
        ({"layer_decay": 1.0}, r"`layer_decay` 0.75 \(now 1\)"),
    ],
)
def test_other_settings_of_the_optimiser_are_refused(tmp_path, option, message):
    """The optimiser's state would restore the saved values, whatever the log lines say."""
    tiny_trainer(tmp_path, callbacks=[StopAt(2)], **SAVED).train()
    with pytest.raises(ValueError, match=message):
        tiny_trainer(tmp_path, **SAVED, **option).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


def test_the_same_effective_batch_resumes(tmp_path):
    tiny_trainer(tmp_path, callbacks=[StopAt(2)], **SAVED).train()
    whole = tiny_trainer(tmp_path / "whole", **SAVED)
    whole.train()
    same = tiny_trainer(tmp_path, **SAVED, per_device_train_batch_size=2, gradient_accumulation_steps=2)
    same.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    rates = [
        [entry["learning_rate"] for entry in trainer.state.log_history if "loss" in entry] for trainer in (whole, same)
    ]
    assert rates[0] == rates[1] and losses(same) == pytest.approx(losses(whole), rel=1e-4)


def test_the_best_checkpoint_is_found_in_a_moved_folder(tmp_path):
    """Also by a run in another folder that resumes from it."""
    best = {"load_best_model_at_end": True, "metric_for_best_model": "loss", "eval_strategy": "steps", "eval_steps": 2}
    clips = tiny_trainer(tmp_path).train_dataset
    tiny_trainer(tmp_path / "first", eval_dataset=clips, callbacks=[StopAt(2)], **SAVED, **best).train()
    (tmp_path / "first").rename(tmp_path / "moved")
    checkpoint = tmp_path / "moved" / "checkpoint-2"
    assert json.loads((checkpoint / "trainer_state.json").read_text())["best_model_checkpoint"] == "checkpoint-2"
    # a score that no later step reaches
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    (checkpoint / "trainer_state.json").write_text(json.dumps(state | {"best_metric": -1.0}))
    for folder in ("moved", "other"):
        trainer = tiny_trainer(tmp_path / folder, eval_dataset=clips, **SAVED, **best)
        trainer.train(resume_from_checkpoint=str(checkpoint))
        assert trainer.state.global_step == 6 and trainer.state.best_model_checkpoint == str(checkpoint)
        saved = load_file(checkpoint / "model.safetensors")
        assert all(torch.equal(saved[name], tensor) for name, tensor in trainer.model.state_dict().items())
        stored = json.loads((tmp_path / folder / "checkpoint-6" / "trainer_state.json").read_text())
        assert stored["best_model_checkpoint"] == os.path.relpath(checkpoint, tmp_path / folder)


@pytest.mark.parametrize("content", ["", '{"settings": {', "[]", "{}", '{"settings": {}, "data": {}}'])
def test_a_damaged_run_file_is_named(parts, tmp_path, content):
    output = tmp_path / "run"
    output.mkdir()
    (output / "run.json").write_text(content)
    with pytest.raises(ValueError, match=r"run\.json is damaged"):
        finetune(recipe_of(parts, tmp_path / "recipe.yaml"), ["--output-dir", str(output)])
    assert [path.name for path in output.iterdir()] == ["run.json"]
