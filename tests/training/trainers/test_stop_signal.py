"""Signals that save a checkpoint and end a run."""

import os
import signal
import threading

import pytest
import torch
from finetuning_tools import losses, state_of, tiny_trainer
from subprocess_tools import run_clean
from transformers import TrainerCallback
from warm_python import launch

from umt_training.runs.resume import last_checkpoint
from umt_training.trainers.stop_signal import TrainingStopped

QUICK = {"num_train_epochs": 4, "logging_steps": 1, "mixup_alpha": 0.8}


class SendSignal(TrainerCallback):
    def __init__(self, number: int, step: int):
        self.number, self.step = number, step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_saves_a_checkpoint_from_which_the_run_continues(tmp_path, number, capsys):
    whole = tiny_trainer(tmp_path / "whole", **QUICK)
    whole.train()
    trainer = tiny_trainer(tmp_path / "run", callbacks=[SendSignal(number, 4)], **QUICK)
    before = signal.getsignal(number)
    with pytest.raises(TrainingStopped) as stopped:
        trainer.train()
    checkpoint = tmp_path / "run" / "checkpoint-5"
    assert stopped.value.code == 128 + number and signal.getsignal(number) is before
    line = f"{number.name} received: {checkpoint} is saved; the same command resumes from it"
    assert line in capsys.readouterr().out.splitlines()
    assert last_checkpoint(str(tmp_path / "run")) == str(checkpoint)
    resumed = tiny_trainer(tmp_path / "run", **QUICK)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert all(torch.equal(tensor, state_of(resumed.model)[name]) for name, tensor in state_of(whole.model).items())
    assert losses(resumed)[-1] == losses(whole)[-1]


def test_training_in_another_thread_leaves_the_signals_alone(tmp_path):
    trainer = tiny_trainer(tmp_path, num_train_epochs=1)
    thread = threading.Thread(target=trainer.train)
    thread.start()
    thread.join()
    assert trainer.state.global_step == 2


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {helpers!r})
from finetuning_tools import tiny_trainer
sys.path.insert(0, {here!r})
from test_stop_signal import SendSignal

trainer = tiny_trainer(
    Path({folder!r}), num_train_epochs=20, use_cpu=True, per_device_train_batch_size=2,
    callbacks=[SendSignal(15, 3)] if {process} in ("all", int(__import__("os").environ.get("RANK", 0))) else [],
)
trainer.train()
"""


def script(folder, process) -> str:
    here = os.path.dirname(__file__)
    helpers = os.path.join(here, "..", "..", "helpers")
    return SCRIPT.format(helpers=helpers, here=here, folder=str(folder), process=repr(process))


def test_the_exit_code_is_that_of_the_signal(tmp_path):
    done = run_clean(script(tmp_path / "run", "all"), cwd=tmp_path, allow_umt=True)
    assert done.returncode == 143, done.stderr[-3000:]
    assert "Traceback" not in done.stderr and (tmp_path / "run" / "checkpoint-4" / "trainer_state.json").exists()


def test_processes_agree_on_the_step(tmp_path):
    """A signal to one of two processes stops both after the same step."""
    (tmp_path / "script.py").write_text(script(tmp_path / "run", 1))
    done = launch(str(tmp_path / "script.py"))
    assert done.returncode != 0 and (tmp_path / "run" / "checkpoint-4" / "trainer_state.json").exists(), done.stderr
    assert done.stdout.count("SIGTERM received: ") == 1
