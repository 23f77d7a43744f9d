"""Errors under a launcher: once if all processes have them, by the process that has it otherwise."""

from collections import Counter

import pytest
from warm_python import launch

from umt_training.cli import main

# Each case is as a start of its own for the processes, which take the number of the start from the environment.
SCRIPT = """
import datetime, os, time
from umt_training.cli import main, process_errors
from umt_training.cli.process_errors import print_error

rank = int(os.environ["RANK"])

def case(number):
    os.environ["TORCHELASTIC_RESTART_COUNT"] = str(number)

case(0)
time.sleep(1 - rank)  # the main process is the later one
print_error("an error of all")
case(1)
if rank == 0:
    print_error("an error of the main process")
process_errors.WAIT = datetime.timedelta(seconds=1)
case(2)
if rank == 1:
    print_error("an error of the other process")
process_errors.WAIT = datetime.timedelta(seconds=10)
case(3)
print_error(f"an error of process {rank}")
case(4)
assert main(["classify", "clip.mp4", "--model", "model"]) == 1
case(5)
try:
    main(["evaluate", "--dta", "clips"])
except SystemExit as stop:
    assert stop.code == 2
"""


@pytest.fixture(scope="module")
def printed(tmp_path_factory) -> list[str]:
    script = tmp_path_factory.mktemp("errors") / "script.py"
    script.write_text(SCRIPT)
    done = launch(str(script))
    assert done.returncode == 0, done.stderr
    return done.stderr.splitlines()


def test_an_error_of_all_processes_is_printed_once(printed):
    lines = Counter(printed)
    assert lines["an error of all"] == 1
    assert sum("the option --dta does not exist; did you mean --data?" in line for line in printed) == 1


def test_an_error_of_one_process_is_printed(printed):
    lines = Counter(printed)
    for owner in ("the main process", "the other process", "process 0", "process 1"):
        assert lines[f"an error of {owner}"] == 1, owner


def test_a_command_that_is_not_shared_refuses_several_processes(printed):
    (line,) = [line for line in printed if line.startswith("umt classify: ")]
    assert "a launcher started 2" in line and "start it without a launcher" in line


@pytest.mark.parametrize("count", ["WORLD_SIZE", "OMPI_COMM_WORLD_SIZE"])
def test_without_a_store_each_process_prints_its_error(count, monkeypatch, capsys):
    """Launchers other than torchrun and accelerate, such as MPI."""
    monkeypatch.setenv(count, "2")
    monkeypatch.setenv("RANK", "1")
    assert main(["classify", "clip.mp4", "--model", "model"]) == 1
    assert "umt classify: this command runs in one process" in capsys.readouterr().err
