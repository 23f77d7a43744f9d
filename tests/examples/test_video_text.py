"""The stage-2 example at a few steps: every part runs, and the saved model loads."""

import json
import re
import runpy
from pathlib import Path

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "video_text.py"


def test_the_example_runs(tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    example = runpy.run_path(str(EXAMPLE))
    example["main"](["--output", "out", "--steps", "6", "--teacher-steps", "2", "--clips", "64", "--test-clips", "8"])
    printed = capfd.readouterr().out
    for name in example["OBJECTIVES"].values():
        assert re.search(rf"{name} +\d+\.\d+ -> +\d+\.\d+", printed), printed
    assert re.search(r"text to video +\d", printed) and re.search(r"chance +12\.5 +62\.5 +100\.0", printed)
    assert re.search(r"direction of held-out clips correct for \d+\.\d %", printed)
    held_out = [row["caption"] for row in json.loads(Path("out/test.json").read_text())]
    assert len(held_out) == len(set(held_out)) == 8
    assert {"config.json", "model.safetensors", "processor_config.json", "tokenizer.json"} <= {
        path.name for path in Path("out/model").iterdir()
    }
