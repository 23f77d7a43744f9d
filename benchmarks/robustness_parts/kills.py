"""Commands that are killed at a random time, once or twice, and given again: the result is that of a command that was
not interrupted, bit for bit."""

import os
import pickle
import signal
import time
from pathlib import Path
from random import Random

from ..robustness_cases import Case, Wrong
from .commands import COMMANDS, Command, Corpus, differences, run, start

KILLS = 12  # of each command


def build(folder: Path, seed: int) -> list[Case]:
    corpus = Corpus(folder).make()
    generator = Random(seed)
    cases = []
    for command in COMMANDS:
        for number in range(KILLS):
            # spread over the duration, with the others at a random time
            moments = [(number + generator.random()) / KILLS, *(generator.random() for _ in range(number % 2))]
            name = f"{command.name} killed at {', '.join(f'{moment:.0%}' for moment in moments)}, case {number}"
            cases.append(Case(name, f"killed: {command.name}", lambda work, command=command, moments=moments: kill(
                command, corpus, moments, work), 180))  # fmt: skip
    return cases


def kill(command: Command, corpus: Corpus, moments: list[float], work: Path) -> str:
    expected, seconds = reference(command, corpus)
    output, log = work / "output", work / "log.txt"
    arguments = command.arguments(corpus, output)
    for moment in moments:
        process = start(arguments, log)
        time.sleep(moment * seconds)
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
    code, _ = run(arguments, log)
    if code and not (command.name == "convert" and output.is_dir()):  # killed after its last step: it exists already
        raise RuntimeError(f"exit code {code}: {log.read_text()[-1000:]}")
    if wrong := list(differences(expected, command.result(output))):
        raise Wrong("; ".join(wrong))
    return "right"


def reference(command: Command, corpus: Corpus) -> tuple[object, float]:
    """The result of the command without an interruption, and its seconds; computed once."""
    kept = corpus.folder / f"{command.name}.reference"
    if not kept.exists():
        output, log = corpus.folder / f"{command.name}-output", corpus.folder / "log.txt"
        code, seconds = run(command.arguments(corpus, output), log)
        if code:
            raise RuntimeError(f"exit code {code}: {log.read_text()[-1000:]}")
        kept.write_bytes(pickle.dumps((command.result(output), seconds)))
    return pickle.loads(kept.read_bytes())
