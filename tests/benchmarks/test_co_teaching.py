"""The comparison of teachers of masked modelling at a few steps: its students, its page, resuming, and the steps in
equal CPU time."""

import json

import pytest
from same_process import SameProcess
from transformers import AutoConfig

from benchmarks import co_teaching
from benchmarks.co_teaching import ALIGNMENT, VARIANTS, Settings, main, steps_in_equal_time

SIZES = {"unlabelled": 64, "labelled": 16, "probe": 16, "test": 16, "seeds": 1}
STEPS = {"teacher_steps": 2, "pretrain_steps": 4, "finetune_steps": 2}
SECONDS = dict(zip(VARIANTS, (0.2, 0.1, 0.4, 0.5), strict=True))  # per step


@pytest.fixture
def few_measured_steps(monkeypatch):
    """Replaces the measurement of steps, which takes 30 of each variant."""
    monkeypatch.setattr(co_teaching, "seconds_per_step", lambda makers, on_step: tuple(SECONDS.values()))


def test_all_variants_get_the_cpu_time_of_the_alignment(few_measured_steps, tmp_path):
    steps = steps_in_equal_time(Settings(pretrain_steps=4), tmp_path)
    assert steps == dict(zip(VARIANTS, (4, 8, 2, 2), strict=True))


def test_every_variant_is_taught_by_its_teachers_and_has_a_row_and_a_second_run_computes_nothing(
    few_measured_steps, monkeypatch, tmp_path
):
    monkeypatch.setattr(co_teaching, "ProcessPoolExecutor", SameProcess)  # whose functions pytest can replace
    folder, output = tmp_path / "folder", tmp_path / "results"
    options = [f"--{name.replace('_', '-')}={value}" for name, value in (SIZES | STEPS).items()]

    def run() -> list[dict]:
        main([*options, "--output", str(output), "--folder", str(folder)])
        return json.loads((output / "co_teaching.json").read_text())["runs"]

    rows = run()
    assert [(row["variant"], row["steps"]) for row in rows] == list(zip(VARIANTS, (4, 8, 2, 2), strict=True))
    configs = {name: AutoConfig.from_pretrained(folder / "cells" / f"{name}-0") for name in VARIANTS}
    assert {name: tuple(config.masked_targets or ()) for name, config in configs.items()} == VARIANTS
    assert {config.position_type for config in configs.values()} == {"space_time"}
    page = (output / "co_teaching.md").read_text()
    assert all(page.count(f"\n| {name} |") == 1 for name in VARIANTS)
    assert "chance level 12.5" in page and str(folder) not in page

    file = folder / "cells" / f"{ALIGNMENT}-0.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"test": 77.0}))
    assert run() == [rows[0] | {"test": 77.0}, *rows[1:]]
