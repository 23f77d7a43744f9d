"""Runs Python programs in processes that are forked from one that has imported what most programs import.

An interpreter takes seconds to import torch and Transformers, which is more than most programs take. A fork differs
from a new interpreter in two ways: libraries are imported already, and C libraries have read the environment before
(one thread of OpenMP). A program that is about imports or about the start of Python needs a new interpreter.
"""

import atexit
import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from recorded import REPOSITORY
from torch.distributed import TCPStore

HELPERS = Path(__file__).parent
# Those that know nothing of the Hub: others read its address and its folders from the environment when they are
# imported. Without torchvision, which a test hides.
LIBRARIES = (
    *("torch", "torch._dynamo", "torch.distributed.tensor", "torch.export", "torchao", "numpy", "scipy.optimize"),
    *("av", "PIL.Image", "jinja2", "yaml", "regex", "psutil"),
)
PACKAGES = (*LIBRARIES, "torchvision", "datasets", "accelerate", "peft", "modeling_umt", "umt_training.runs.tasks")
_POLL_SECONDS = 0.01


class WarmPython:
    """A process that imports `modules`, and forks a process for each program. The first program starts it."""

    def __init__(self, modules: Sequence[str], path: Sequence[str] = ()):
        self.modules, self.path = modules, path
        self.lock = threading.Lock()

    @functools.cached_property
    def server(self) -> subprocess.Popen:
        modules = [name for name in self.modules if find_spec(name.partition(".")[0])]  # torchao is optional
        settings = json.dumps({"path": self.path, "modules": modules})
        self.log = tempfile.TemporaryFile()  # noqa: SIM115
        atexit.register(self.stop)
        flags = "-IB" if sys.dont_write_bytecode else "-I"
        return subprocess.Popen(
            [sys.executable, flags, str(HELPERS / "warm_server.py"), settings],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )

    def stop(self) -> None:
        print(json.dumps(None), file=self.server.stdin, flush=True)
        self.server.wait()

    def ask(self, request: dict | int) -> int | None:
        with self.lock:
            print(json.dumps(request), file=self.server.stdin, flush=True)
            answer = self.server.stdout.readline()
        if not answer:
            self.log.seek(0)
            raise RuntimeError(f"The server of warm_server.py has ended:\n{self.log.read().decode()}")
        return json.loads(answer)

    def start(
        self,
        arguments: Sequence[str],
        stdout: str | Path = os.devnull,
        stderr: str | Path = os.devnull,
        cwd: str | Path | None = None,
        env: dict[str, str] | None = None,
        isolated: bool = False,
    ) -> "WarmProcess":
        """Starts `python *arguments`: a script, or `-c` and code, or `-m` and a module, and the arguments of each.

        Its output is appended to the files `stdout` and `stderr`. With `isolated`, `sys.path` contains neither the
        folder of the program nor PYTHONPATH, as with the option `-I` of Python.
        """
        request = {"arguments": [*map(str, arguments)], "stdout": str(stdout), "stderr": str(stderr)}
        request |= {"cwd": str(cwd or os.getcwd()), "env": dict(os.environ if env is None else env)}
        return WarmProcess(self, self.ask(request | {"isolated": isolated}))

    def run(self, arguments: Sequence[str], timeout: float = 300, **options: object) -> subprocess.CompletedProcess:
        """Runs a program to its end; its output is text. See `start`."""
        with tempfile.TemporaryDirectory() as folder:
            stdout, stderr = Path(folder, "stdout"), Path(folder, "stderr")
            code = self.start(arguments, stdout, stderr, **options).wait(timeout)
            return subprocess.CompletedProcess(arguments, code, stdout.read_text(), stderr.read_text())


class WarmProcess:
    """A program; has the methods of `subprocess.Popen` that tests need."""

    def __init__(self, python: WarmPython, pid: int):
        self.python, self.pid = python, pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self.python.ask(self.pid)
        return self.returncode

    def wait(self, timeout: float = 300) -> int:
        limit = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > limit:
                self.kill()
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
            time.sleep(_POLL_SECONDS)
        return self.returncode

    def terminate(self) -> None:
        os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)


libraries = WarmPython(LIBRARIES)
packages = WarmPython(PACKAGES, [str(REPOSITORY), str(HELPERS)])


def launch(*command: str, timeout: float = 300) -> subprocess.CompletedProcess:
    """A Python program in two processes of one process group, with the environment and the store of `torchrun`. If one
    fails, the other is stopped."""
    with tempfile.TemporaryDirectory() as folder:
        stdout, stderr = Path(folder, "stdout"), Path(folder, "stderr")
        store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)}
        shared |= dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), "2")
        shared |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}
        ranks = [
            packages.start(command, stdout, stderr, env=os.environ | shared | {"RANK": rank, "LOCAL_RANK": rank})
            for rank in ("0", "1")
        ]
        limit = time.monotonic() + timeout
        while running := [process for process in ranks if process.poll() is None]:
            if any(process.returncode for process in ranks):
                for process in running:
                    process.terminate()
            if time.monotonic() > limit:
                for process in running:
                    process.kill()
            time.sleep(_POLL_SECONDS)
        code = next((process.returncode for process in ranks if process.returncode), 0)
        return subprocess.CompletedProcess(command, code, stdout.read_text(), stderr.read_text())
