"""Checkpoints that training does not resume from: damaged, partial, of another model."""

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from finetuning_tools import losses, tiny_classifier, tiny_trainer
from safetensors.torch import load_file, save_file

from umt_training.runs.resume import last_checkpoint
from umt_training.trainers.checkpoint_files import checkpoint_problem, write_checksums

SAVED = {"save_strategy": "steps", "save_steps": 2, "num_train_epochs": 3}
FILES = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "config.json", "ema.safetensors")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """Checkpoints of the steps 2, 4 and 6."""
    folder = tmp_path_factory.mktemp("run")
    tiny_trainer(folder, ema_decay=0.5, **SAVED).train()
    return folder


def remove(path: Path) -> None:
    path.unlink()


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_checkpoints_of_a_run_are_complete(run):
    for step in (2, 4, 6):
        assert checkpoint_problem(run / f"checkpoint-{step}", tiny_classifier()) is None
    sums = json.loads((run / "checkpoint-6" / "checksums.json").read_text())
    assert set(FILES) < set(sums)
    assert {path.name for path in (run / "checkpoint-6").iterdir()} - set(sums) == {
        "trainer_state.json", "checksums.json"
    }  # fmt: skip
    assert last_checkpoint(str(run)) == str(run / "checkpoint-6") and last_checkpoint(str(run / "absent")) is None


@pytest.mark.parametrize("damage", [remove, truncate, empty, flip])
@pytest.mark.parametrize("name", [*FILES, "trainer_state.json", "checksums.json"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(run, tmp_path, name, damage, capsys):
    if (name, damage) == ("trainer_state.json", flip):
        pytest.skip("the state file has no checksum; a run was interrupted while it was written, or it is complete")
    shutil.copytree(run, tmp_path / "run")
    newest = tmp_path / "run" / "checkpoint-6"
    damage(newest / name)
    kinds = {remove: "missing", truncate: "damaged", empty: "damaged", flip: "damaged"}
    capsys.readouterr()
    assert last_checkpoint(str(tmp_path / "run")) == str(tmp_path / "run" / "checkpoint-4")
    [line] = capsys.readouterr().out.splitlines()
    if name == "checksums.json" and damage is flip:
        assert line.startswith(f"{newest} is not used: ")
    else:
        assert line == f"{newest} is not used: {name} is {kinds[damage]}"
    with pytest.raises(ValueError, match=r"can't resume from .*checkpoint-6: "):
        tiny_trainer(tmp_path / "run", ema_decay=0.5, **SAVED).train(resume_from_checkpoint=str(newest))


def test_no_complete_checkpoint(run, tmp_path, capsys):
    shutil.copytree(run, tmp_path / "run")
    for step in (2, 4, 6):
        remove(tmp_path / "run" / f"checkpoint-{step}" / "optimizer.pt")
    capsys.readouterr()
    assert last_checkpoint(str(tmp_path / "run")) is None
    assert len(capsys.readouterr().out.splitlines()) == 3


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(run, tmp_path, value):
    checkpoint = shutil.copytree(run / "checkpoint-4", tmp_path / "checkpoint-4")
    weights = load_file(checkpoint / "model.safetensors")
    weights["classifier.bias"][1] = value
    save_file(weights, checkpoint / "model.safetensors", {"format": "pt"})
    write_checksums(checkpoint)
    assert checkpoint_problem(checkpoint) == "classifier.bias in model.safetensors is not finite"


def test_another_model(run):
    assert checkpoint_problem(run / "checkpoint-4", tiny_classifier(4)) == (
        "it is a checkpoint of another model, with classifier.bias of the shape (3,)"
    )


def test_a_checkpoint_without_optimiser(tmp_path):
    tiny_trainer(tmp_path, save_only_model=True, **SAVED).train()
    assert "`save_only_model`" in checkpoint_problem(tmp_path / "checkpoint-4")


def test_the_run_before_the_damage_is_continued(run, tmp_path):
    whole = json.loads((run / "checkpoint-6" / "trainer_state.json").read_text())["log_history"]
    shutil.copytree(run, tmp_path / "run")
    flip(tmp_path / "run" / "checkpoint-6" / "optimizer.pt")
    trainer = tiny_trainer(tmp_path / "run", ema_decay=0.5, **SAVED)
    trainer.train(resume_from_checkpoint=last_checkpoint(str(tmp_path / "run")))
    assert losses(trainer) == [entry["loss"] for entry in whole if "loss" in entry]
    expected = load_file(run / "checkpoint-6" / "model.safetensors")
    saved = load_file(tmp_path / "run" / "checkpoint-6" / "model.safetensors")
    assert all(torch.equal(saved[name], tensor) for name, tensor in expected.items())


class Code:
    """Pickled, it creates a folder when it is read."""

    def __init__(self, folder: Path):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def edit_state(checkpoint: Path, **fields) -> None:
    path = checkpoint / "trainer_state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda folder: edit_state(folder, field_of_a_later_version=1), "trainer_state.json is of another version"),
        (lambda folder: edit_state(folder, global_step=2), "trainer_state.json is of step 2"),
        (lambda folder: (folder / "trainer_state.json").write_text("[]"), "trainer_state.json is damaged"),
        (lambda folder: (folder / "checksums.json").write_text("[]"), "checksums.json is damaged"),
        (lambda folder: (folder / "optimizer.pt").write_bytes(pickle.dumps(Code(folder / "executed"))),
         "optimizer.pt is not a file that PyTorch loads without executing code"),
    ],
    ids=["later version", "another step", "state is a list", "checksums are a list", "code"],
)  # fmt: skip
def test_files_of_a_checkpoint_that_are_whole_but_wrong(run, tmp_path, change, problem):
    checkpoint = shutil.copytree(run / "checkpoint-4", tmp_path / "checkpoint-4")
    change(checkpoint)
    if "optimizer" in problem:
        write_checksums(checkpoint)
    assert checkpoint_problem(checkpoint).startswith(problem)
    assert not (checkpoint / "executed").exists()


def test_a_checkpoint_may_be_renamed(run, tmp_path):
    assert checkpoint_problem(Path(shutil.copytree(run / "checkpoint-4", tmp_path / "best"))) is None
