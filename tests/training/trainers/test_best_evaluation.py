"""The best evaluation of a run: one at 0 % is not it."""

from types import SimpleNamespace

import pytest
from transformers import TrainerState
from transformers.trainer_utils import SaveStrategy

from umt_training import UMTFineTuningTrainer, UMTQuestionAnsweringTrainer
from umt_training.trainers.retrieval import UMTRetrievalTrainer


def best_of(values, trainer_class, name, greater_is_better=True):
    """Steps that were the best when they were evaluated, and the state after the last of them."""
    trainer = object.__new__(trainer_class)
    state = trainer._state = TrainerState()
    trainer.args = SimpleNamespace(
        metric_for_best_model=name, greater_is_better=greater_is_better, save_strategy=SaveStrategy.EPOCH
    )
    trainer.is_world_process_zero = lambda: True
    best = []
    for step, value in enumerate(values, 1):
        state.global_step = step
        if trainer._determine_best_metric({f"eval_{name.removeprefix('eval_')}": value}, None):
            best.append(step)
    return best, state


METRICS = [
    (UMTQuestionAnsweringTrainer, "accuracy"),
    (UMTQuestionAnsweringTrainer, "eval_accuracy"),
    (UMTFineTuningTrainer, "top1"),
    (UMTRetrievalTrainer, "mean_recall"),
    (UMTRetrievalTrainer, "text_to_video_r1"),
    (UMTRetrievalTrainer, "dual_encoder_video_to_text_r10"),
]


@pytest.mark.parametrize(("trainer_class", "name"), METRICS)
def test_an_evaluation_at_0_percent_is_not_the_best(trainer_class, name, capsys):
    best, state = best_of([0.0, 0.0], trainer_class, name)
    assert best == [] and not state.best_global_step and state.best_metric == 0.0
    printed = capsys.readouterr().out.splitlines()
    assert printed == [f"evaluation: {name.removeprefix('eval_')} is 0 %, so this is not the best evaluation"] * 2
    best, state = best_of([0.0, 12.5, 0.0, 12.5, 50.0, 25.0], trainer_class, name)
    assert best == [2, 5] and (state.best_global_step, state.best_metric) == (5, 50.0)


def test_other_metrics_may_be_0():
    assert best_of([0.0, 1.0], UMTFineTuningTrainer, "loss", greater_is_better=False)[0] == [1]
    assert best_of([-1.0, 0.0], UMTFineTuningTrainer, "negative_error")[0] == [1, 2]
    with pytest.raises(KeyError, match="eval_top2"):
        trainer = object.__new__(UMTFineTuningTrainer)
        trainer._state = TrainerState()
        trainer.args = SimpleNamespace(metric_for_best_model="top2", greater_is_better=True)
        trainer._determine_best_metric({"eval_top1": 0.0}, None)
