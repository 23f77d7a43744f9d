"""The search example at a few steps: indexing is killed and resumed, search returns results and writes a page."""

import re
import subprocess
import sys
from pathlib import Path

from tiny_pretraining import python_environment

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "search.py"


def test_the_example_runs(tmp_path):
    sizes = ["--steps", "2", "--clips", "64", "--test-clips", "8", "--search-clips", "24"]
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), "--output", "out", *sizes],
        cwd=tmp_path,
        env=python_environment(),
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "8 videos and 8 texts" in done.stdout and "chance at R@1, R@5 and R@10: 12.5, 62.5, 100.0" in done.stdout
    assert re.search(r"killed: exit code (-9|0), \d+ videos are in the index", done.stdout)
    answers = re.findall(r"^ +\d  0\.\d{3} +-?\d\.\d{3}  0:00\.0-0:01\.0 +out/videos/", done.stdout, re.MULTILINE)
    assert len(answers) == 10
    assert "indexed 1 video in" in done.stderr
    assert (tmp_path / "out" / "found.html").exists()
    assert re.search(r"one of four, correct for \d+\.\d %", done.stdout)
