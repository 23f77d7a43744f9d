"""The moving average of the weights compared with an explicit loop, alone and in the trainer."""

import pytest
import torch
from finetuning_tools import changed, losses, state_of, tiny_classifier, tiny_clips, tiny_trainer
from safetensors.torch import load_file
from torch import nn
from transformers import TrainerCallback

from umt_training.trainers.ema import FILE_NAME, WeightAverage

DECAY = 0.8


class Record(TrainerCallback):
    """The trained weights before the first and after every step."""

    def __init__(self):
        self.weights = []

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.weights.append(state_of(model))

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.weights.append(state_of(model))


def averages(weights: list[dict]) -> list[dict]:
    """The average after every step, by its definition."""
    average, result = weights[0], []
    for step in weights[1:]:
        average = {name: DECAY * average[name] + (1 - DECAY) * tensor for name, tensor in step.items()}
        result.append(average)
    return result


def assert_close(actual: dict, expected: dict) -> None:
    for name, tensor in expected.items():
        torch.testing.assert_close(actual[name], tensor, rtol=1e-5, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


def test_the_average_equals_an_explicit_loop():
    torch.manual_seed(0)
    model = nn.Linear(3, 2, dtype=torch.float64)
    model.bias.requires_grad_(False)
    average, expected = WeightAverage(model, DECAY), model.weight.detach().clone()
    for _ in range(5):
        with torch.no_grad():
            model.weight.normal_()
        average.update()
        expected = DECAY * expected + (1 - DECAY) * model.weight.detach()
    assert average.average.keys() == {"weight"}
    torch.testing.assert_close(average.average["weight"].double(), expected, rtol=0, atol=1e-6)
    own = model.weight.detach().clone()
    with average.applied():
        torch.testing.assert_close(model.weight.detach(), expected, rtol=0, atol=1e-6)
    assert torch.equal(model.weight, own)
    with pytest.raises(KeyError), average.applied():
        raise KeyError
    assert torch.equal(model.weight, own)


@pytest.mark.parametrize("decay", [0.0, 1.0, 1.5])
def test_an_invalid_decay_is_an_error(decay):
    with pytest.raises(ValueError, match=f"`ema_decay` must be between 0 and 1, but is {decay}"):
        WeightAverage(nn.Linear(2, 2), decay)


def test_folders_without_an_average_or_with_that_of_another_model_are_errors(tmp_path):
    average = WeightAverage(nn.Linear(2, 2), DECAY)
    with pytest.raises(ValueError, match="contains no ema"):
        average.load(tmp_path)
    WeightAverage(nn.Bilinear(2, 2, 2), DECAY).save(tmp_path)
    WeightAverage(nn.Linear(2, 2, bias=False), DECAY).save(tmp_path)
    with pytest.raises(ValueError, match="averages other parameters"):
        average.load(tmp_path)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two epochs of two steps, evaluated and saved after each step."""
    folder, record = tmp_path_factory.mktemp("ema"), Record()
    trainer = tiny_trainer(
        folder, callbacks=[record], eval_dataset=tiny_clips(6, seed=1), num_train_epochs=2, ema_decay=DECAY,
        eval_strategy="steps", eval_steps=1, save_strategy="steps", save_steps=1,
    )  # fmt: skip
    trainer.train()
    return folder, trainer, record.weights


def test_checkpoints_contain_weights_and_average_and_the_final_model_is_the_average(run):
    folder, trainer, weights = run
    expected = averages(weights)
    assert len(expected) == 4
    for step, average in enumerate(expected, start=1):
        checkpoint = folder / f"checkpoint-{step}"
        assert not changed(load_file(checkpoint / "model.safetensors"), weights[step])
        assert_close(load_file(checkpoint / FILE_NAME), average)
    assert_close(state_of(trainer.model), expected[-1])
    trainer.save_model()
    assert_close(load_file(folder / "model.safetensors"), expected[-1])
    assert not (folder / FILE_NAME).exists()


def test_evaluation_uses_the_average(run):
    _, trainer, weights = run
    logged = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    clips = tiny_clips(6, seed=1)
    batch = torch.stack([clip["pixel_values_videos"] for clip in clips])
    labels = torch.tensor([clip["labels"] for clip in clips])
    model = tiny_classifier().eval()
    for loss, average, own in zip(logged, averages(weights), weights[1:], strict=True):
        expected = {}
        for name, state in (("average", average), ("own", own)):
            model.load_state_dict(state)
            with torch.no_grad():
                expected[name] = model(batch, labels=labels).loss.item()
        assert loss == pytest.approx(expected["average"], abs=1e-5)
        assert abs(loss - expected["own"]) > 1e-3


def test_resume_continues_the_average(run, tmp_path):
    folder, uninterrupted, _ = run
    resumed = tiny_trainer(tmp_path, num_train_epochs=2, ema_decay=DECAY)
    resumed.train(resume_from_checkpoint=str(folder / "checkpoint-3"))
    assert losses(resumed)[-1] == pytest.approx(losses(uninterrupted)[-1], abs=1e-7)
    assert not changed(state_of(uninterrupted.model), state_of(resumed.model))


@pytest.mark.parametrize("save_only_model", [False, True])
def test_the_final_model_is_the_average_of_the_best_checkpoint(tmp_path, save_only_model):
    record = Record()
    trainer = tiny_trainer(
        tmp_path, callbacks=[record], eval_dataset=tiny_clips(6, seed=1), num_train_epochs=2, ema_decay=DECAY,
        eval_strategy="steps", eval_steps=1, save_strategy="steps", save_steps=1, load_best_model_at_end=True,
        metric_for_best_model="loss", greater_is_better=True, save_only_model=save_only_model, base_learning_rate=0.06,
        base_min_learning_rate=0.06,
    )  # fmt: skip
    trainer.train()
    best = trainer.state.best_global_step
    assert best < 4  # the worst loss is an early one
    assert_close(state_of(trainer.model), averages(record.weights)[best - 1])
