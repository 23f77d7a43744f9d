"""The comparison of teachers of masked modelling at a few steps: its table and the steps in equal CPU time."""

import re

import pytest
from few_demo_steps import FEW
from transformers import AutoConfig

from benchmarks import co_teaching
from benchmarks.co_teaching import ALIGNMENT, VARIANTS, run, steps_of_variants
from umt_training.demo.demo import DemoSettings
from umt_training.demo.worker_pool import Done


def test_every_variant_is_taught_by_its_teachers_and_has_a_row(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        co_teaching, "steps_of_variants", lambda *arguments: dict.fromkeys(VARIANTS, 2)
    )  # the measurement of steps has a test of its own
    results = run(FEW, tmp_path / "run")
    printed = capsys.readouterr().out
    assert [row["arm"] for row in results["runs"]] == list(VARIANTS)
    assert all(re.search(rf"^\| {re.escape(name)} \|", printed, re.MULTILINE) for name in VARIANTS)
    targets = {
        name: AutoConfig.from_pretrained(tmp_path / "run" / f"student-{name.split()[0]}-0").masked_targets or {}
        for name in VARIANTS
    }
    assert {name: tuple(dims) for name, dims in targets.items()} == VARIANTS
    assert all(dim == 128 for name, dims in targets.items() for target, dim in dims.items() if target == "video")


def test_all_variants_get_the_cpu_time_of_the_alignment():
    class Pool:
        """Its worker has measured the seconds per step."""

        def submit(self, *task):
            return self

        def result(self):
            return Done(dict(zip(VARIANTS, (0.2, 0.1, 0.4, 0.5), strict=True)), 1.0, 1.0)

        def say(self, text):
            assert f"{ALIGNMENT} 0.200 (4 steps)" in text

    steps = steps_of_variants(FEW, None, "teacher", None, Pool())
    assert list(steps.values()) == [4, 8, 2, 2]


@pytest.mark.parametrize("seeds", [0, 11])
def test_a_number_of_seeds_without_an_interval_is_an_error(seeds, tmp_path):
    with pytest.raises(ValueError, match="expected 1 to 10"):
        run(DemoSettings(seeds=seeds), tmp_path / "run")
    assert not (tmp_path / "run").exists()
