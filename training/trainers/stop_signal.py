"""SIGTERM and SIGUSR1 save a checkpoint at the next step and end the process: schedulers send them before a time limit
or a preemption.

The exit code is 128 + the number of the signal, as shells report it: 143 for SIGTERM, 138 for SIGUSR1. The same
command resumes from the checkpoint.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from transformers import TrainerCallback

from .delayed_value import DelayedValue

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class TrainingStopped(SystemExit):
    """Raised in all processes after the checkpoint is saved; its code is the exit code."""


class StopOnSignal(TrainerCallback):
    """Saves a checkpoint and stops after a signal to any process.

    Unusual: a signal arrives at processes in different steps, so they agree on the step in which they stop, by a
    reduction after every step. On a GPU its result is read one step later, without waiting for the device.

    Args:
        accelerator (`Accelerator`): The accelerator of the trainer.
    """

    def __init__(self, accelerator: Accelerator):
        self.accelerator = accelerator
        self.received = 0  # number of the signal
        self.lag = 1 if accelerator.device.type == "cuda" else 0
        self.pending: list[DelayedValue] = []
        self.stopped_by = 0  # on which all processes agree

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Context manager in which the signals are received. Python allows handlers in the main thread only."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = {number: signal.signal(number, self.receive) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def receive(self, number: int, frame) -> None:
        self.received = number

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step >= state.max_steps:  # the run ends and saves its checkpoint by itself
            return
        self.stopped_by = self.received if args.world_size == 1 else self.agreed_signal()
        if self.stopped_by:
            control.should_log = control.should_save = True

    def agreed_signal(self) -> int:
        """The number of a signal that any process had received at this step, on a GPU at the step before; or 0."""
        own = torch.full((1,), float(self.received), device=self.accelerator.device)
        self.pending.append(DelayedValue(self.accelerator.gather(own).max()))
        return int(self.pending.pop(0).read()) if len(self.pending) > self.lag else 0

    def on_save(self, args, state, control, **kwargs):
        if not self.stopped_by:
            return
        if state.is_world_process_zero:
            name = signal.Signals(self.stopped_by).name
            checkpoint = os.path.join(args.output_dir, f"checkpoint-{state.global_step}")
            print(f"{name} received: {checkpoint} is saved; the same command resumes from it", flush=True)
        raise TrainingStopped(128 + self.stopped_by)
