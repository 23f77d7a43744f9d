"""The ablations of stage 1 at a few steps: their table, the time of pixel reconstruction, and intervals."""

import re

import numpy as np
import pytest
import torch
from few_demo_steps import FEW
from transformers import AutoModel, AutoVideoProcessor

from benchmarks.demo_ablations import ABLATIONS, pixel_steps, pixel_trainer, run_ablation
from benchmarks.demo_variants import interval
from modeling_umt.objectives_umt import pixel_targets
from umt_training.demo.demo import DemoSettings
from umt_training.demo.motion_clips import NUM_FRAMES, SIZE, MotionClipDataset, render_motion_clips
from umt_training.demo.tiny_runs import student_config
from umt_training.demo.worker_pool import Done


def test_an_ablation_has_a_row_for_each_variant(tmp_path, capsys):
    results = run_ablation("masks", FEW, tmp_path / "run")
    printed = capsys.readouterr().out
    assert [row["arm"] for row in results["runs"]] == list(ABLATIONS["masks"])
    assert all(re.search(rf"^\| {name} \|", printed, re.MULTILINE) for name in ABLATIONS["masks"])
    assert "chance level 12.5" in printed and "CPU seconds per step" not in printed
    assert (tmp_path / "run" / "results.md").exists() and (tmp_path / "run" / "results.json").exists()


def test_pixel_reconstruction_gets_the_cpu_time_of_alignment_and_teacher(tmp_path, capsys):
    results = run_ablation("target", FEW, tmp_path / "run")
    printed = capsys.readouterr().out
    alignment, pixels = results["runs"]
    assert (alignment["arm"], pixels["arm"]) == ("alignment", "pixels") and alignment["stage1_steps"] == 4
    measured = re.search(r"alignment ([\d.]+), pixels ([\d.]+)\. .* gets (\d+) steps.* ([\d.]+) s of teacher", printed)
    alignment_seconds, pixel_seconds, num_steps, teacher_seconds = map(float, measured.groups())
    assert num_steps == pixels["stage1_steps"]
    assert num_steps == pytest.approx((4 * alignment_seconds + teacher_seconds) / pixel_seconds, rel=0.05, abs=1)
    start = tmp_path / "run" / "student-pixels-0"
    assert AutoVideoProcessor.from_pretrained(start).num_frames == 8
    assert AutoModel.from_pretrained(start).config.hidden_size == 128
    tried = {path.name for path in (tmp_path / "run" / "runs").iterdir()}
    assert {f"student-pixels-0-rate-0.001-decay-{decay}" for decay in ("0.3", "1")} <= tried


def test_pixels_are_predicted_at_the_tokens_that_a_tube_mask_hides(tmp_path):
    """The loss falls below that of constant predictions, on eight clips without augmentation."""
    frames, _ = render_motion_clips(0, 8)
    clips = MotionClipDataset(np.tile(frames, (8, 1, 1, 1, 1)))
    trainer = pixel_trainer(clips, student_config(SIZE, NUM_FRAMES, 1), tmp_path, 24)
    trainer.train()
    pixels = torch.from_numpy(frames).movedim(-1, 2)
    constant = pixel_targets(trainer.pixel_values(pixels), trainer.model.config).square().mean()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert losses[0] > constant and losses[-1] < 0.9 * constant
    visible, targets = trainer.select_tokens(trainer.pixel_values(pixels), torch.arange(8))
    in_frame = visible.unflatten(1, (NUM_FRAMES, 4)) - 16 * torch.arange(NUM_FRAMES)[:, None]
    assert (in_frame == in_frame[:, :1]).all() and targets.shape == (8, NUM_FRAMES * 12)


def test_the_training_of_the_teacher_counts():
    """A pool whose worker has measured 0.3 and 0.2 seconds per step."""

    class Pool:
        def submit(self, *task):
            return self

        def result(self):
            return Done((0.3, 0.2), 1.0, 1.0)

        def say(self, text):
            assert "gets 80 steps" in text

    assert pixel_steps("teacher", 10.0, 20, None, Pool()) == 80


def test_interval():
    low, high = interval([10.0, 12.0, 14.0])
    assert (low, high) == pytest.approx((12 - 4.968, 12 + 4.968), abs=0.01)


@pytest.mark.parametrize("seeds", [0, 11])
def test_a_number_of_seeds_without_an_interval_is_an_error(seeds, tmp_path):
    with pytest.raises(ValueError, match="expected 1 to 10"):
        run_ablation("masks", DemoSettings(seeds=seeds), tmp_path / "run")
    assert not (tmp_path / "run").exists()
