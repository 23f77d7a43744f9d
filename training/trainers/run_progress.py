"""What a run prints while it trains: a progress bar on a terminal, and a line for each log entry and evaluation."""

import datetime
import sys
import time

from tqdm.auto import tqdm
from transformers import ProgressCallback

# entries of a log line in their order, with their formats; others follow with four significant digits
FORMATS = {
    "loss": "loss {:.4g}",
    "grad_norm": "gradient norm {:.3g}",
    "learning_rate": "learning rate {:.3g}",
    "clips_per_second": "{:.3g} clips/s",
    "data_seconds": "data {:.2g} s",
    "teacher_seconds": "teacher {:.2g} s",
    "student_seconds": "student {:.2g} s",
    "skipped_steps": "{:d} steps skipped",
}
# known from the position in the run, or of Transformers' own bookkeeping
HIDDEN = ("epoch", "total_flos", "runtime", "samples_per_second", "steps_per_second")


class RunProgress(ProgressCallback):
    """Trainer's progress bar, on a terminal only, with log lines for people in place of dictionaries."""

    def __init__(self):
        super().__init__()
        self.started_at = (0, time.perf_counter())  # step and time

    def on_train_begin(self, args, state, control, **kwargs):
        self.started_at = (state.global_step, time.perf_counter())
        if shows_bar(args):
            super().on_train_begin(args, state, control, **kwargs)
            if state.is_world_process_zero:
                self.training_bar.update(state.global_step)
                self.current_step = state.global_step

    def on_step_end(self, args, state, control, **kwargs):
        if self.training_bar is not None:
            super().on_step_end(args, state, control, **kwargs)

    def on_prediction_step(self, args, state, control, **kwargs):
        if shows_bar(args):
            super().on_prediction_step(args, state, control, **kwargs)

    def on_train_end(self, args, state, control, **kwargs):
        if self.training_bar is not None:
            super().on_train_end(args, state, control, **kwargs)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not state.is_world_process_zero or "train_runtime" in logs:
            return
        line = log_line(logs, state.global_step, state.max_steps, state.epoch)
        if self.training_bar is None:
            print(f"{line}{self.time_left(state)}", flush=True)
        else:
            tqdm.write(line, file=sys.stdout)

    def time_left(self, state) -> str:
        """Estimate from the mean time of a step since training started or resumed, evaluations included."""
        step, start = self.started_at
        done, left = state.global_step - step, state.max_steps - state.global_step
        if done == 0 or left <= 0:
            return ""
        seconds = (time.perf_counter() - start) / done * left
        return f"; {datetime.timedelta(seconds=round(seconds))} left"


def shows_bar(args) -> bool:
    return not args.disable_tqdm and sys.stderr.isatty()


def log_line(logs: dict[str, float], step: int, max_steps: int, epoch: float | None) -> str:
    """A log entry or an evaluation as text.

    >>> log_line({"loss": 0.51234, "learning_rate": 1e-4}, step=10, max_steps=40, epoch=2.5)
    'step 10/40, epoch 2.50: loss 0.5123, learning rate 0.0001'
    >>> log_line({"eval_loss": 0.5, "eval_top1": 75.0, "eval_runtime": 3.2}, step=10, max_steps=40, epoch=2.5)
    'evaluation at step 10/40, epoch 2.50: loss 0.5, top1 75'
    """
    is_evaluation = any(name.startswith("eval_") for name in logs)
    values = {name.removeprefix("eval_"): value for name, value in logs.items()}
    names = [name for name in FORMATS if name in values] + [name for name in values if name not in FORMATS]
    text = ", ".join(format_value(name, values[name]) for name in names if not is_hidden(name, values[name]))
    position = f"step {step}/{max_steps}" + ("" if epoch is None else f", epoch {epoch:.2f}")
    return f"evaluation at {position}: {text}" if is_evaluation else f"{position}: {text}"


def is_hidden(name: str, value: float) -> bool:
    return name in HIDDEN or (name == "teacher_seconds" and value == 0)  # a run without a teacher


def format_value(name: str, value: float) -> str:
    if name in FORMATS:
        return FORMATS[name].format(value)
    return f"{name} {value:.4g}" if isinstance(value, (int, float)) else f"{name} {value}"
