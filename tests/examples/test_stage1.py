"""The plain loop of stage 1: it trains exactly as the Trainer does, and its command saves a student that loads."""

import runpy
from pathlib import Path

import pytest
import torch
from tiny_pretraining import GLOBAL_BATCH, losses_of, make_student, make_teacher, make_trainer, write_videos
from transformers import AutoModel, AutoVideoProcessor, CLIPModel

from umt_training.demo.tiny_clip import tiny_clip_config

EXAMPLE = runpy.run_path(str(Path(__file__).resolve().parents[2] / "examples" / "stage1.py"))


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return write_videos(tmp_path_factory.mktemp("videos"), 10)


def test_losses_and_weights_are_those_of_the_trainer(videos, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)  # the trainer of the tests uses the CPU
    student, teacher = make_student(), make_teacher()
    dataset = EXAMPLE["load_clips"](str(videos), student.config)
    losses = EXAMPLE["pretrain"](student, teacher, dataset, 4, GLOBAL_BATCH, base_learning_rate=0.05)

    trainer = make_trainer(
        videos,
        tmp_path,
        num_train_epochs=4,
        warmup_steps=round(EXAMPLE["WARMUP_FRACTION"] * 8),
        mask_ratio=EXAMPLE["MASK_RATIO"],
    )
    trainer.train()
    assert losses == losses_of(trainer) and len(losses) == 8 and losses[-1] < losses[0]
    trained = trainer.model.state_dict()
    assert all(torch.equal(weight, trained[name]) for name, weight in student.state_dict().items())


def test_the_command_trains_and_saves_a_student(videos, tmp_path, capsys):
    torch.manual_seed(0)
    CLIPModel(tiny_clip_config(num_words=4, max_words=4)).save_pretrained(tmp_path / "clip")
    options = ["--aligned-layers", "2", "--epochs", "1", "--batch-size", "4", "--num-workers", "1"]
    EXAMPLE["main"]([str(videos), "--teacher", str(tmp_path / "clip"), "--output", str(tmp_path / "out"), *options])
    assert "step 2 of 2: loss" in capsys.readouterr().out
    assert AutoModel.from_pretrained(tmp_path / "out").config.hidden_size == 128
    assert AutoVideoProcessor.from_pretrained(tmp_path / "out").num_frames == 8
