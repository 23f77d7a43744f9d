"""Timing of training steps: named spans of host or device time, averaged between two log lines.

On a GPU a span is a pair of CUDA events that are read only when a log line is due, so that timing does not make the
host wait for the device within a step.
"""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class StepTimer:
    """Sums named spans: `with timer("teacher"): ...`, then `timer.collect(num_steps)` for seconds a step.

    Args:
        device (`torch.device`): The device of the work. Spans are device time on "cuda", wall-clock time elsewhere.
    """

    def __init__(self, device: torch.device):
        self.on_gpu = device.type == "cuda"
        self.seconds: dict[str, float] = defaultdict(float)
        self.pending: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time the body of a `with` statement, as work on the device."""
        if self.on_gpu:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            yield
            end.record()
            self.pending.append((name, start, end))
        else:
            with self.on_host(name):
                yield

    @contextmanager
    def on_host(self, name: str) -> Iterator[None]:
        """Time the body of a `with` statement on the host, such as waiting for data."""
        start = time.perf_counter()
        yield
        self.seconds[name] += time.perf_counter() - start

    def collect(self, num_steps: int) -> dict[str, float]:
        """Seconds a step of every span since the last call. Waits for the device and resets the spans."""
        for name, start, end in self.pending:
            end.synchronize()
            self.seconds[name] += start.elapsed_time(end) / 1000
        averages = {name: seconds / num_steps for name, seconds in self.seconds.items()}
        self.seconds.clear()
        self.pending.clear()
        return averages
