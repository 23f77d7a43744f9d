"""The comparison of fine-tuning presets at a few steps, from the clips to the table."""

import json
import re

import pytest
from same_process import SameProcess

from benchmarks import finetuning_presets
from benchmarks.finetuning_presets import CHANGES
from umt_training.trainers.presets import PRESETS


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Folder of a run of the command, with two learning rates for one preset and one for the others."""
    folder = tmp_path_factory.mktemp("results")
    sizes = {"unlabelled": 64, "labelled": 32, "validation": 16, "test": 24, "seeds": 2}
    steps = {"teacher_steps": 2, "pretrain_steps": 2, "finetune_steps": 2}
    options = [f"--{name.replace('_', '-')}={value}" for name, value in (sizes | steps).items()]
    with pytest.MonkeyPatch.context() as patch:
        # in this process, whose output pytest captures
        patch.setattr(finetuning_presets, "RATES", dict.fromkeys(PRESETS, (1e-3,)) | {"linear": (1e-3, 1e-2)})
        patch.setattr(finetuning_presets, "ProcessPoolExecutor", SameProcess)
        finetuning_presets.main([*options, "--output", str(folder)])
    return folder


def test_every_preset_has_a_row_of_every_seed(results):
    found = json.loads((results / "finetuning_presets.json").read_text())
    runs = {(row["preset"], row["seed"]): row for row in found["runs"] if row["change"] is None}
    assert set(runs) == {(preset, seed) for preset in PRESETS for seed in (0, 1)}
    assert len(found["runs"]) == 2 * (len(PRESETS) + len(CHANGES)) + 1
    for row in found["runs"]:
        assert 0 <= row["test"] <= 100 and row["train_loss"] == pytest.approx(2.08, abs=0.5)
    trainable = [runs[preset, 0]["trainable"] for preset in ("linear", "attentive", "lora", "full")]
    assert trainable == sorted(trainable) and trainable[0] == 8 * 128 + 8
    best = max((row for row in found["runs"] if row["preset"] == "linear" and row["seed"] == 0), key=best_of)
    assert found["chosen_rates"]["linear"] == best["rate"]


def best_of(row: dict) -> float:
    return row["validation"]


def test_the_page_describes_its_figures(results):
    text = (results / "finetuning_presets.md").read_text()
    rows = [line for line in text.splitlines() if re.match(r"\| (full|lora|attentive|linear) \|", line)]
    assert len(rows) == len(PRESETS)
    rows += [line for line in text.splitlines() if re.match(r"\| (nothing|\w+_\w+ .*) \|", line)]
    assert len(rows) == len(PRESETS) + 1 + len(CHANGES) and all(line.count("±") == 1 for line in rows)
    assert "chance 12.5" in text and "python -m benchmarks.finetuning_presets --unlabelled=64" in text
    assert sorted(path.name for path in results.iterdir()) == ["finetuning_presets.json", "finetuning_presets.md"]
