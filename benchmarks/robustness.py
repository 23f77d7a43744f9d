"""What the package does with odd, damaged and hostile input, bad networks, kills and load: right, refused, or a fault.

    python -m benchmarks.robustness                                    # all cases, about an hour on two cores
    python -m benchmarks.robustness --parts videos --fraction 0.1      # a seeded tenth of the cases about videos

The parts are the modules of `robustness_parts/`; each builds its own corpus. A seeded tenth of the cases runs in the
tests.
"""

import argparse
import collections
import importlib
import os
import random
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before Transformers is imported

import torch

from .harness import RESULTS, environment, write
from .robustness_cases import EXCEPTION, HANG, MEMORY, REFUSED, RIGHT, WRONG, Case, Outcome, run_case

PARTS = ("videos", "network", "sources", "checkpoints", "kills", "load")
COLUMNS = {  # column of the table → verdicts
    "tried": (RIGHT, REFUSED, WRONG, EXCEPTION, HANG, MEMORY),
    "right or rightly refused": (RIGHT, REFUSED),
    "silently wrong": (WRONG,),
    "other exception": (EXCEPTION,),
    "hang or over 1 GiB": (HANG, MEMORY),
}
FAULTS = (WRONG, EXCEPTION, HANG, MEMORY)


def run_part(part: str, seed: int = 0, fraction: float = 1.0) -> list[Outcome]:
    """The outcomes of the cases of a part, or of a seeded fraction of each of its kinds, at least one."""
    module = importlib.import_module(f"{__package__}.robustness_parts.{part}")
    with tempfile.TemporaryDirectory(prefix=f"robustness-{part}-") as folder:
        cases = sample(module.build(Path(folder), seed), fraction, seed)
        outcomes = []
        for number, case in enumerate(cases, 1):
            outcomes.append(run_case(case))
            if outcomes[-1].verdict in FAULTS:
                print(f"{part} {number}/{len(cases)} {case.kind}, {case.name}: {describe(outcomes[-1])}", flush=True)
    return outcomes


def sample(cases: list[Case], fraction: float, seed: int) -> list[Case]:
    """A random fraction of the cases of each kind, at least one, in their order."""
    if len({case.name for case in cases}) < len(cases):
        names = collections.Counter(case.name for case in cases).most_common(1)
        raise ValueError(f"cases have the same name: {names}")
    generator = random.Random(seed)
    chosen = set()
    for kind in dict.fromkeys(case.kind for case in cases):
        names = [case.name for case in cases if case.kind == kind]
        chosen.update(generator.sample(names, max(1, round(fraction * len(names)))))
    return [case for case in cases if case.name in chosen]


def describe(outcome: Outcome) -> str:
    return f"{outcome.verdict}: {outcome.detail}"


def table(outcomes: list[Outcome]) -> list[str]:
    """Lines of a Markdown table with a row for each kind, and their sum."""
    kinds = [*dict.fromkeys(outcome.kind for outcome in outcomes)]
    lines = [f"| kind | {' | '.join(COLUMNS)} |", "|---|" + "---|" * len(COLUMNS)]
    for kind in [*kinds, "all"]:
        verdicts = [outcome.verdict for outcome in outcomes if kind in (outcome.kind, "all")]
        cells = [str(sum(verdict in wanted for verdict in verdicts)) for wanted in COLUMNS.values()]
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return lines


def page(outcomes: list[Outcome], facts: dict[str, object]) -> str:
    """The Markdown page: environment, table, what was measured, faults, and the slowest and largest cases."""
    lines = ["# Robustness", "", ", ".join(f"{key} {value}" for key, value in facts.items()), "", *table(outcomes)]
    if measured := [outcome for outcome in outcomes if outcome.detail and outcome.verdict not in FAULTS]:
        lines += ["", "## Measured", "", *(f"- {outcome.name}: {outcome.detail}" for outcome in measured)]
    slowest = max(outcomes, key=lambda outcome: outcome.seconds)
    largest = max(outcomes, key=lambda outcome: outcome.memory)
    lines += ["", f"Slowest case: {slowest.name}, {slowest.seconds:.1f} s. Largest growth of memory: {largest.name}, "]
    lines[-1] += f"{largest.memory >> 20} MiB."
    faults = [outcome for outcome in outcomes if outcome.verdict in FAULTS]
    for outcome in faults:
        lines += ["", f"## {outcome.kind}: {outcome.name}", "", "```", describe(outcome).rstrip(), "```"]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--fraction", type=float, default=1.0, help="fraction of the cases of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    if not 0 < options.fraction <= 1:
        parser.error(f"--fraction is {options.fraction}; expected more than 0 and at most 1")
    outcomes = []
    for part in options.parts:
        outcomes += run_part(part, options.seed, options.fraction)
        print(f"{part}: finished", flush=True)
    facts = environment(torch.device("cpu"))
    results = {"environment": facts, "cases": [outcome._asdict() for outcome in outcomes]}
    write(options.output, "robustness", results, page(outcomes, facts))
    return int(any(outcome.verdict in FAULTS for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
