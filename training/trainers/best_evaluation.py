"""Which evaluation of a run is the best one."""

import re

from transformers import Trainer

# accuracies and recalls in percent, of all trainers
_PERCENTAGES = re.compile(r"accuracy|top\d+|(.*_)?(r\d+|recall)")


class BestEvaluationMixin(Trainer):
    """An evaluation with an accuracy or recall of 0 % is not the best one of a run.

    Trainer would take the first of several such evaluations, and the weights of its checkpoint. If all are 0 %, the
    weights are those of the last step.
    """

    def _determine_best_metric(self, metrics: dict[str, float], trial) -> bool:
        name = (self.args.metric_for_best_model or "").removeprefix("eval_")
        nothing_is_right = _PERCENTAGES.fullmatch(name) and metrics.get(f"eval_{name}") == 0
        if not (nothing_is_right and self.args.greater_is_better):
            return super()._determine_best_metric(metrics, trial)
        if self.state.best_metric is None:
            self.state.best_metric = 0.0  # a later one must be above it, and early stopping counts this one
        if self.is_world_process_zero():
            print(f"evaluation: {name} is 0 %, so this is not the best evaluation", flush=True)
        return False
