"""The framework of the robustness benchmark: each verdict is found, and none can be missed."""

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from warm_python import packages

from benchmarks import robustness
from benchmarks.robustness import FAULTS
from benchmarks.robustness_cases import Case, Outcome, Wrong, run_case


def wrong(folder: Path) -> str:
    raise Wrong("frame 3 differs")


def error(folder: Path) -> str:
    raise KeyError("moov")


def leave(folder: Path) -> str:
    raise SystemExit(0)


def hang(folder: Path) -> str:
    if os.fork() == 0:  # a process of the case is stopped with it
        (folder.parent / "pid").write_text(str(os.getpid()))
    time.sleep(60)
    return "right"


def grow(folder: Path) -> str:
    np.ones(9 << 27, np.uint8)
    return "right"


def bomb(folder: Path) -> str:
    np.ones(20 << 30, np.uint8)
    return "right"


def crash(folder: Path) -> str:
    os.kill(os.getpid(), signal.SIGSEGV)
    return "right"


@pytest.mark.parametrize(
    ("run", "verdict", "detail"),
    [
        (lambda folder: "right: 3 ms per file", "right", "3 ms per file"),
        (lambda folder: "refused", "refused", ""),
        (lambda folder: "perhaps", "exception", "the case returned 'perhaps'"),
        (wrong, "wrong", "frame 3 differs"),
        (error, "exception", "KeyError: 'moov'"),
        (leave, "exception", "SystemExit"),
        (hang, "hang", "over 1 s"),
        (grow, "memory", " MiB; right"),
        (bomb, "memory", "MemoryError"),
        (crash, "exception", "the status -11"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_verdicts(run, verdict, detail):
    outcome = run_case(Case("name", "kind", run, 1 if run is hang else 60))
    assert outcome.verdict == verdict and detail in outcome.detail


def test_a_case_has_an_empty_folder_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    run = Case("name", "kind", lambda folder: "right: " + str(os.listdir(folder)) + str(folder.joinpath("x").mkdir()))
    assert run_case(run).detail == "[]None"
    assert not list(tmp_path.iterdir())


def test_the_sample_has_every_kind_and_is_seeded():
    cases = [Case(f"{kind} {number}", kind, wrong) for kind in ("a", "b") for number in range(40)]
    cases.append(Case("c", "c", wrong))
    chosen = robustness.sample(cases, 0.1, seed=1)
    assert [case.kind for case in chosen] == ["a"] * 4 + ["b"] * 4 + ["c"]
    assert chosen == robustness.sample(cases, 0.1, seed=1) != robustness.sample(cases, 0.1, seed=2)
    assert robustness.sample(cases, 1, seed=1) == cases
    with pytest.raises(ValueError, match="the same name"):
        robustness.sample([*cases, cases[0]], 1, seed=1)


def test_the_table_counts_every_verdict():
    verdicts = ["right", "refused", "wrong", "exception", "hang", "memory"]
    outcomes = [Outcome(verdict, "videos", verdict, "why" * (number > 1), 1.0, 0) for number, verdict in
                enumerate(verdicts)] + [Outcome("x", "kills", "right", "3 ms", 2.0, 5 << 20)]  # fmt: skip
    assert robustness.table(outcomes)[2:] == [
        "| videos | 6 | 2 | 1 | 1 | 2 |",
        "| kills | 1 | 1 | 0 | 0 | 0 |",
        "| all | 7 | 3 | 1 | 1 | 2 |",
    ]
    page = robustness.page(outcomes, {"python": "3.11"})
    assert "- x: 3 ms" in page and "Slowest case: x, 2.0 s" in page and "x, 5 MiB" in page
    assert page.count("## videos: ") == 4


# a seeded tenth of the cases of a part, in a process that has loaded nothing that the tests before have
TENTH = """
import json, sys
from benchmarks import robustness
from benchmarks.robustness_parts import load

load.NUM_FILES = 200
outcomes = [outcome._asdict() for outcome in robustness.run_part(sys.argv[1], fraction=0.1)]
print(json.dumps({"outcomes": outcomes, "has_loaded_lancedb": "lancedb" in sys.modules}))
"""


@pytest.mark.parametrize("part", robustness.PARTS)
def test_a_tenth_of_the_cases_has_no_fault(part):
    done = packages.run(["-c", TENTH, part], timeout=900)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    outcomes = [Outcome(**outcome) for outcome in result["outcomes"]]
    faults = [f"{outcome.name}: {robustness.describe(outcome)}" for outcome in outcomes if outcome.verdict in FAULTS]
    assert outcomes and not faults
    assert not result["has_loaded_lancedb"]
