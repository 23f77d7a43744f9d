"""A pool of processes that train small models in parallel, with progress bars in the parent process.

At toy scale two processes of one thread are faster than one process of two threads. The output of each task goes to
its own log file, because the interleaved output of several trainers is unreadable; the parent shows the progress of
each task and reports its cost.
"""

import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

import torch
from tqdm import tqdm
from transformers.utils import logging

from ..processes import fresh_start_method

_MOST_PROCESSES = 4
_worker: Any = None  # in a worker: the queue to the parent, and the folder of the logs


@dataclass(frozen=True)
class Done:
    """Result of a task and its cost in its process."""

    value: Any
    seconds: float
    cpu_seconds: float


class WorkerPool:
    """A pool of processes that share the machine's cores; a context manager.

    Args:
        logs: Folder of the workers' output, one file per task.
        num_processes: Defaults to one per core, at most four.
    """

    def __init__(self, logs: Path, num_processes: int | None = None):
        self.logs = logs
        cores = os.cpu_count() or 1
        self.num_processes = num_processes or min(cores, _MOST_PROCESSES)
        self.num_threads = max(1, cores // self.num_processes)
        self.started = time.perf_counter()

    def __enter__(self) -> "WorkerPool":
        self.logs.mkdir(parents=True, exist_ok=True)
        context = multiprocessing.get_context(fresh_start_method(f"{__package__}.tiny_runs"))
        self._queue = context.Queue()
        self._pool = ProcessPoolExecutor(
            self.num_processes, context, _start_worker, (self._queue, self.num_threads, self.logs)
        )
        self._display = Thread(target=self._show_progress, daemon=True)
        self._display.start()
        return self

    def __exit__(self, kind: type | None, *error: Any) -> None:
        if kind is not None:  # an error or Ctrl-C: stop the running tasks
            for process in list((self._pool._processes or {}).values()):
                process.terminate()
        self._pool.shutdown(cancel_futures=True)
        self._queue.put(None)
        self._display.join()
        self._queue.close()

    def submit(self, name: str, task: Callable[..., Any], *arguments: Any) -> "Future[Done]":
        """Queue `task(*arguments, on_step=on_step)`; `on_step(step, of_steps, loss or None)` updates its progress bar.

        Args:
            name: Name of the task, of its progress bar and of its log file.
        """
        return self._pool.submit(_run_task, name, task, arguments)

    def say(self, text: str) -> None:
        """Print a line with the time since the start, above the progress bars."""
        minutes, seconds = divmod(round(self.elapsed()), 60)
        with tqdm.external_write_mode(sys.stdout):
            print(f"[{minutes:2d}:{seconds:02d}] {text}", flush=True)

    def elapsed(self) -> float:
        """Seconds since the pool was created."""
        return time.perf_counter() - self.started

    def _show_progress(self) -> None:
        """Show a progress bar for each running task, on a terminal only."""
        bars: dict[str, tqdm] = {}
        while (message := self._queue.get()) is not None:
            name, step, of_steps, loss = message
            if name not in bars:
                free = next(row for row in range(len(bars) + 1) if all(bar.pos != -row for bar in bars.values()))
                bars[name] = tqdm(
                    desc=name, total=of_steps, position=free, leave=False, disable=None, dynamic_ncols=True
                )
            bar = bars[name]
            bar.update(step - bar.n)
            if loss is not None:
                bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
            if step >= of_steps:
                bars.pop(name).close()
        for bar in bars.values():
            bar.close()


def _start_worker(queue: Any, num_threads: int, logs: Path) -> None:
    global _worker
    _worker = queue, logs
    torch.set_num_threads(num_threads)
    logging.set_verbosity_error()  # no warnings about newly initialised heads
    logging.disable_progress_bar()


def _run_task(name: str, task: Callable[..., Any], arguments: tuple[Any, ...]) -> Done:
    queue, logs = _worker
    last_sent = 0.0

    def on_step(step: int, of_steps: int, loss: float | None = None) -> None:
        nonlocal last_sent
        if loss is not None or step >= of_steps or time.monotonic() - last_sent > 0.2:
            last_sent = time.monotonic()
            queue.put((name, step, of_steps, loss))

    started, cpu_started = time.perf_counter(), time.process_time()
    log = logs / f"{name.replace(',', '').replace(' ', '-')}.txt"
    with log.open("w", buffering=1) as file, redirect_stdout(file), redirect_stderr(file):
        value = task(*arguments, on_step=on_step)
    return Done(value, time.perf_counter() - started, time.process_time() - cpu_started)
