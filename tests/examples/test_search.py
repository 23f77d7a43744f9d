"""The search example at a few steps: indexing is killed and resumed, search returns results and writes a page."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from warm_python import WarmProcess, packages

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "search.py"


def run(command: list[str], check: bool, stdout: int | None, stderr: int | None) -> None:
    """As `subprocess.run`."""
    done = packages.run(command[1:])
    assert check and done.returncode == 0, done.stderr
    for text, target, stream in ((done.stdout, stdout, sys.stdout), (done.stderr, stderr, sys.stderr)):
        stream.write("" if target == subprocess.DEVNULL else text)


def start(command: list[str], stdout: int, stderr: int) -> WarmProcess:
    """As `subprocess.Popen`."""
    assert stdout == stderr == subprocess.DEVNULL
    return packages.start(command[1:])


@pytest.fixture
def example(monkeypatch):
    """The example, whose commands are processes with the packages imported."""
    monkeypatch.syspath_prepend(EXAMPLE.parent)
    spec = importlib.util.spec_from_file_location("search_example", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.UMT[0] == sys.executable
    stand_in = SimpleNamespace(run=run, Popen=start, DEVNULL=subprocess.DEVNULL)
    monkeypatch.setattr(module, "subprocess", stand_in)
    return module


def test_the_example_runs(example, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    sizes = ["--steps", "2", "--clips", "64", "--test-clips", "8", "--search-clips", "24"]
    example.main(["--output", "out", *sizes])
    printed = capsys.readouterr()
    assert "8 videos and 8 texts" in printed.out and "chance at R@1, R@5 and R@10: 12.5, 62.5, 100.0" in printed.out
    assert re.search(r"killed: exit code (-9|0), \d+ videos are in the index", printed.out)
    answers = re.findall(r"^ +\d  0\.\d{3} +-?\d\.\d{3}  0:00\.0-0:01\.0 +out/videos/", printed.out, re.MULTILINE)
    assert len(answers) == 10
    assert "indexed 1 video in" in printed.err
    assert (tmp_path / "out" / "found.html").exists()
    assert re.search(r"one of four, correct for \d+\.\d %", printed.out)
