"""The example of distillation at a few steps: teacher, student, and both fine-tunings."""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))
from distillation import main


def test_the_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("distillation.TEST_CLIPS", 32)
    sizes = ["--teacher-steps", "2", "--steps", "2", "--finetune-steps", "2", "--clips", "64", "--labelled", "32"]
    main(["--output", str(tmp_path / "models"), *sizes])
    printed = capsys.readouterr().out
    assert re.search(r"teacher: \d+\.\d % of held-out clips", printed)
    for name in ("distilled", "without the teacher"):
        assert re.search(rf"student, {name}, after 32 labels: \d+\.\d % of held-out clips", printed)
    assert "chance: 6.2 %" in printed
    assert (tmp_path / "models" / "student" / "config.json").exists()
