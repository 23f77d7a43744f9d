"""The example of distillation at a few steps: teacher, students, fine-tunings at all learning rates, and the table."""

import re
import statistics
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))
from distillation import clips, interval, main

from umt_training.demo.motion_clips import DIRECTIONS, draw_motion_clip


def test_the_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("distillation.TEST_CLIPS", 32)
    monkeypatch.setattr("distillation.VALIDATION_CLIPS", 16)
    monkeypatch.setattr("distillation.CANDIDATES", (("full", 1e-3), ("linear", 1e-2)))
    sizes = ["--teacher-steps", "2", "--steps", "2", "--finetune-steps", "2", "--clips", "64", "--seeds", "2"]
    main(["--output", str(tmp_path / "models"), *sizes])
    printed = capsys.readouterr().out
    assert re.search(r"teacher: \d+\.\d % of the test clips", printed)
    assert "| student, 8 labels | top-1, % | 95 % interval | each seed | trained, learning rate |" in printed
    for name in ("distilled", "without the teacher"):
        values = r"([\d.]+) \| [\d.]+ to [\d.]+ \| ([\d.]+) / ([\d.]+) \| (.+)"
        row = re.search(rf"^\| {name} \| {values} \|$", printed, re.MULTILINE)
        mean, *each = (float(value) for value in row.groups()[:3])
        assert mean == pytest.approx(statistics.mean(each), abs=0.11) and row[4] in ("full, 0.001", "linear, 0.01")
    assert re.search(r"gain from the teacher: -?\d+\.\d points, 95 % interval \S+ to \S+, of pairs", printed)
    assert "chance: 50.0 %; 32 test clips" in printed
    assert (tmp_path / "models" / "student-1" / "config.json").exists()


def test_classes_do_not_depend_on_the_direction_of_motion():
    labels = clips(seed=5, number=16).labels
    directions = [draw_motion_clip(5, index).direction for index in range(16)]
    assert sorted(zip(directions, labels.tolist(), strict=True)) == [
        (direction, label) for direction in sorted(DIRECTIONS) for label in (0, 1)
    ]


def test_the_interval_is_students():
    assert interval([90.0, 92.0, 94.0]) == "87.0 to 97.0"  # 92 +- 4.303 * 2 / sqrt(3)
    assert interval([99.0, 100.0]) == "93.1 to 100.0"
    assert interval([-1.0, 1.0], lowest=-100.0) == "-12.7 to 12.7"
