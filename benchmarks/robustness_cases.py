"""A case of the robustness benchmark, and its verdict, found in a process of its own.

The process is forked, so that a crash, a hang or a leak of one case touches no other, and nothing is imported again.
It has a time limit; its peak memory is that of `wait4`, as growth over the memory at the fork.
"""

import contextlib
import faulthandler
import gc
import json
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch

from .harness import resident

MEMORY_LIMIT = 1 << 30  # bytes of growth
_ADDRESS_SPACE = 8 << 30  # bytes that a case may reserve in addition, so that a bomb fails instead of the machine
_POLL_SECONDS = 0.005

RIGHT, REFUSED, WRONG, EXCEPTION, HANG, MEMORY = "right", "refused", "wrong", "exception", "hang", "memory"


class Wrong(Exception):
    """A wrong result without an error."""


class Case(NamedTuple):
    """One check.

    Args:
        name: what is tried; unique within its part.
        kind: row of the table.
        run: called with an empty folder; returns "right" (the result equals a reference that is independent of the
            code under test) or "refused" (the expected error, which names the file), optionally followed by ": " and
            what was measured. Raises `Wrong` for a result that differs from the reference; every other exception is a
            fault.
        seconds: time after which the case hangs.
    """

    name: str
    kind: str
    run: Callable[[Path], str]
    seconds: float = 60.0


class Outcome(NamedTuple):
    name: str
    kind: str
    verdict: str
    detail: str
    seconds: float
    memory: int
    """Growth in bytes of the peak memory of the case."""


def result_in_fork(function: Callable[..., Any], *arguments: object) -> Any:
    """What a function returns in a forked process.

    What it loads is not loaded here: a process forked from one that has loaded LanceDB can crash, as LanceDB's threads
    do not exist in it.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as executor:
        return executor.submit(function, *arguments).result()


def run_case(case: Case) -> Outcome:
    """Runs a case in a forked process, and removes its files."""
    folder = Path(tempfile.mkdtemp(prefix="robustness-"))
    try:
        return _run(case, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(case: Case, folder: Path) -> Outcome:
    gc.collect()
    sys.stdout.flush()
    sys.stderr.flush()
    started = time.monotonic()
    process = os.fork()
    if process == 0:
        _run_forked(case, folder)
    while True:
        finished, status, usage = os.wait4(process, os.WNOHANG)
        seconds = time.monotonic() - started
        if finished:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process, signal.SIGKILL)  # processes that the case has left
            break
        if seconds > case.seconds:
            os.killpg(process, signal.SIGKILL)
            _, status, usage = os.wait4(process, 0)
            return Outcome(case.name, case.kind, HANG, f"over {case.seconds:g} s", seconds, 0)
        time.sleep(_POLL_SECONDS)
    memory = max(0, 1024 * usage.ru_maxrss - int((folder / "memory.txt").read_text()))
    try:
        verdict, detail = json.loads((folder / "verdict.json").read_text())
    except (OSError, ValueError):
        verdict, detail = EXCEPTION, f"the process ended with the status {os.waitstatus_to_exitcode(status)}"
    if memory > MEMORY_LIMIT:
        verdict, detail = MEMORY, f"{memory >> 20} MiB; {verdict} {detail}"
    return Outcome(case.name, case.kind, verdict, detail, seconds, memory)


def _run_forked(case: Case, folder: Path) -> None:
    """The forked process: never returns."""
    try:
        os.setsid()
        log = os.open(folder / "log.txt", os.O_WRONLY | os.O_CREAT)
        os.dup2(log, 1)
        os.dup2(log, 2)
        # those of a test process do not write to these descriptors
        sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))  # noqa: SIM115
        torch.set_num_threads(1)  # the threads of a process do not exist in its forks
        faulthandler.disable()  # that of a test process has a copy of its stderr
        (folder / "memory.txt").write_text(str(resident("VmRSS")))  # less than before: a fork maps no files
        limit = resident("VmSize") + _ADDRESS_SPACE
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        (folder / "verdict.json").write_text(json.dumps(_verdict(case, folder)))
    finally:
        os._exit(0)


def _verdict(case: Case, folder: Path) -> tuple[str, str]:
    (folder / "work").mkdir()
    try:
        verdict, _, detail = case.run(folder / "work").partition(": ")
    except Wrong as error:
        return WRONG, str(error)
    except MemoryError:
        return MEMORY, traceback.format_exc(limit=-3)
    except BaseException:  # also SystemExit: a case handles what it expects
        return EXCEPTION, traceback.format_exc(limit=-8)
    if verdict not in (RIGHT, REFUSED):
        return EXCEPTION, f"the case returned {verdict!r}"
    return verdict, detail
