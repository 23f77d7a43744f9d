"""The command line of an experiment: an option for each of its settings, and results with the command, the date and
the machine. Its runs may be in worker processes of one thread, and an interrupted experiment can be resumed.
"""

import argparse
import contextlib
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from umt_training.atomic_files import atomic_write
from umt_training.demo.tiny_runs import fast_bf16

from .harness import RESULTS, write


def run_experiment(
    name: str,
    description: str,
    settings: type,
    measure: Callable[[Any, Path, int], dict[str, Any]],
    as_markdown: Callable[[dict[str, Any]], str],
    arguments: list[str] | None,
) -> None:
    """Parses the options, measures, and writes `<name>.json` and `<name>.md`.

    Args:
        name: name of the module in this folder.
        description: first line of the help.
        settings: dataclass of integers, each of which is an option.
        measure: from the settings, a folder and the number of worker processes to the results. The folder is temporary
            unless `--folder` names one, whose intermediate results (`remembered`) are used again.
        as_markdown: from the results to the page.
        arguments: the command line; None for that of the process.
    """
    parser = argparse.ArgumentParser(description=description)
    for field, default in asdict(settings()).items():
        parser.add_argument(f"--{field.replace('_', '-')}", type=int, default=default)
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="worker processes")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument(
        "--folder", type=Path, help="folder of intermediate results, from which an interrupted run resumes"
    )
    options = vars(parser.parse_args(arguments))
    processes, output, folder = (options.pop(name) for name in ("processes", "output", "folder"))
    with tempfile.TemporaryDirectory() if folder is None else contextlib.nullcontext(folder) as folder:
        require_same_settings(Path(folder), options)
        results = measure(settings(**options), Path(folder), processes)
    given = "".join(f" {word}" for word in without_folder(sys.argv[1:] if arguments is None else arguments))
    results |= {
        "command": f"python -m benchmarks.{name}{given}",
        "date": date.today().isoformat(),
        "environment": environment(),
    }
    write(output, name, results, as_markdown(results))


def without_folder(words: list[str]) -> list[str]:
    """The command line without `--folder`, which changes no result."""
    kept = [word for word, before in zip(words, ["", *words], strict=False) if before != "--folder"]
    return [word for word in kept if word.split("=")[0] != "--folder"]


def require_same_settings(folder: Path, settings: dict[str, int]) -> None:
    """Record the settings in the folder; a ValueError if it has results with others."""
    recorded = remembered(folder / "settings.json", lambda: settings)
    if recorded != settings:
        raise ValueError(f"{folder} has results with the settings {recorded}; give another --folder.")


def remembered(file: Path, compute: Callable[[], Any]) -> Any:
    """The content of a JSON file, or the result of `compute`, which is then written to it."""
    if not file.exists():
        result = compute()
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as temporary:
            temporary.write_text(json.dumps(result))
    return json.loads(file.read_text())


def environment() -> dict[str, str]:
    """The machine and the versions that results depend on."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    versions = {package: metadata.version(package) for package in ("torch", "transformers", "peft")}
    return {
        "cpu": names[0].split(":")[1].strip(),
        "cores": str(os.cpu_count()),
        "precision": "bfloat16" if fast_bf16() else "float32",
        "python": platform.python_version(),
    } | versions


def in_worker() -> None:
    """Sets up a worker process: one thread, no output."""
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115, open for the lifetime of the process
