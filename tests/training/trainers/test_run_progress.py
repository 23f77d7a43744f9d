"""What a run prints: lines for people, and a bar on a terminal only."""

import io
import sys

import pytest
from finetuning_tools import tiny_clips, tiny_trainer

from umt_training.trainers import base_trainer
from umt_training.trainers.run_progress import log_line


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("logs", "line"),
    [
        ({"loss": 0.51234, "learning_rate": 1e-4}, "step 10/40, epoch 2.50: loss 0.5123, learning rate 0.0001"),
        (
            {"eval_loss": 0.5, "eval_top1": 75.0, "eval_runtime": 3.2, "epoch": 2.5, "eval_steps_per_second": 2.0},
            "evaluation at step 10/40, epoch 2.50: loss 0.5, top1 75",
        ),
        (
            {"temperature": 0.07, "loss": 2.0, "skipped_steps": 3, "teacher_seconds": 0.25, "epoch": 2.5},
            "step 10/40, epoch 2.50: loss 2, teacher 0.25 s, 3 steps skipped, temperature 0.07",
        ),
        ({"loss": float("nan"), "teacher_seconds": 0.0}, "step 10/40, epoch 2.50: loss nan"),
    ],
)
def test_lines(logs, line):
    assert log_line(logs, step=10, max_steps=40, epoch=2.5) == line


@pytest.mark.parametrize("terminal", [True, False])
def test_a_bar_is_shown_on_a_terminal_only(tmp_path, monkeypatch, capsys, terminal):
    stderr = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    trainer = tiny_trainer(
        tmp_path, disable_tqdm=False, num_train_epochs=2, eval_strategy="epoch", eval_dataset=tiny_clips()
    )
    trainer.train()
    printed = capsys.readouterr().out
    assert ("4/4" in stderr.getvalue()) == terminal and bool(stderr.getvalue()) == terminal
    for start in (
        "data: 8 clips, 8 for evaluation; 0 workers",
        "step 1/4, epoch 0.50: loss",
        "evaluation at step 4/4",
    ):
        assert [line for line in printed.splitlines() if line.startswith(start)], printed
    assert "{" not in printed and (" left" in printed) != terminal  # the bar shows the time that is left


def test_workers_are_limited_to_the_cores(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(base_trainer, "cores_per_process", lambda: 1)
    trainer = tiny_trainer(tmp_path, dataloader_num_workers=3)
    assert trainer.args.dataloader_num_workers == 1
    assert trainer.describe_data() == "data: 8 clips; 1 workers (3 given, limited to the cores)"
    assert tiny_trainer(tmp_path).args.dataloader_num_workers == 0


@pytest.mark.parametrize(("epochs", "steps"), [(1, 4), (2, 4), (5, 4)])
def test_the_warmup_is_limited_to_the_run(tmp_path, epochs, steps, capsys):
    trainer = tiny_trainer(tmp_path, num_train_epochs=2, warmup_epochs=epochs)
    trainer.train()
    printed = capsys.readouterr().out
    assert f"4 steps of which {min(2 * epochs, steps)} warm-up" in printed
    assert ("the warm-up takes the whole run" in printed) == (epochs >= 2)
    # the peak is reached at the end of the warm-up, whatever its length
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "loss" in entry]
    assert rates == sorted(rates) and rates[-1] <= trainer.args.learning_rate
