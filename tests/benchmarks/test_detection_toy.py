"""The benchmark of action detection at a few steps, and its generated scenes."""

import itertools
import json

import numpy as np
import pytest
from same_process import SameProcess

from benchmarks import detection_toy
from benchmarks.detection_scenes import KEY_FRAME, SIDE, draw_scene, render_single_figures, write_scenes
from umt_training.data.action_records import load_annotated_actions
from umt_training.demo.motion_clips import COLOURS, DIRECTIONS


@pytest.mark.parametrize("num_figures", [1, 2, 3])
def test_boxes_contain_the_figures_of_the_key_frame(num_figures):
    for index in range(30):
        scene = draw_scene(5, index, num_figures)
        assert scene == draw_scene(5, index, num_figures) and len(scene.figures) == num_figures
        in_boxes = np.zeros((SIDE, SIDE), dtype=bool)
        for figure in scene.figures:
            x, y, width, height = figure.box
            assert 5 <= width <= 22 and 5 <= height <= 22 and x + width <= SIDE and y + height <= SIDE
            in_boxes[max(0, y - 2) : y + height + 2, max(0, x - 2) : x + width + 2] = True
        background = 0.5 * np.array(COLOURS[scene.background])
        key_frame = scene.frames()[KEY_FRAME]
        differs = abs(key_frame - background).max(axis=2) > 1
        assert not (differs & ~in_boxes).any()  # antialiased edges are at most two pixels outside
        for x, y, width, height in (figure.box for figure in scene.figures):
            assert differs[y : y + height, x : x + width].mean() > 0.3
        centres = [np.array(figure.centre) for figure in scene.figures]
        for one, other in itertools.combinations(centres, 2):
            assert abs(one - other).max() >= 15


def test_a_direction_moves_the_figure():
    """The centre of mass moves along the compass direction of the label."""
    frames, labels = render_single_figures(7, 40)
    assert len(set(labels.tolist())) == 8
    rows, columns = np.mgrid[:SIDE, :SIDE]
    for clip, label in zip(frames.astype(int), labels, strict=True):
        background = np.median(clip.reshape(-1, 3), axis=0)
        masks = abs(clip - background).sum(axis=3) > 30
        both = masks[[KEY_FRAME - 1, KEY_FRAME]]
        first, last = (np.array([columns[mask].mean(), rows[mask].mean()]) for mask in both)
        heading = label * np.pi / 4
        assert (last - first) @ np.array([np.sin(heading), -np.cos(heading)]) > 0.5


def test_scenes_are_own_data(tmp_path):
    folder = write_scenes(tmp_path / "scenes", seed=1, num_scenes=2, num_figures=3)
    actions = load_annotated_actions(folder, class_names=DIRECTIONS)
    assert len(actions.table) == 6 and set(actions.table.times) == {0.5}
    exchanged = detection_toy.exchange_labels(actions.table)
    for video in range(2):
        mine = exchanged.actions[exchanged.video == video]
        assert mine.tolist() == np.roll(actions.table.actions[actions.table.video == video], 1).tolist()


def test_the_command_writes_a_row_for_each_start_and_chance(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(detection_toy, "ProcessPoolExecutor", SameProcess)
    sizes = {"clips": 32, "classifier_steps": 2, "scenes": 8, "test_scenes": 12, "detection_steps": 2, "figures": 2}
    options = [f"--{name.replace('_', '-')}={value}" for name, value in sizes.items()]
    detection_toy.main([*options, "--seeds=1", "--output", str(tmp_path)])
    found = json.loads((tmp_path / "detection_toy.json").read_text())
    assert [(row["start"], row["seed"]) for row in found["runs"]] == [(start, 0) for start in detection_toy.STARTS]
    for row in found["runs"]:
        assert all(0 <= row[name] <= 100 for name in detection_toy.COLUMNS) and row["train_loss"] > 0
    assert set(found["chance"]) == set(detection_toy.COLUMNS)
    assert found["chance"]["true"] == pytest.approx(20, abs=15)  # high with few boxes
    text = (tmp_path / "detection_toy.md").read_text()
    assert all(f"| {name} |" in text for name in (*detection_toy.STARTS, "chance"))
    assert (
        "python -m benchmarks.detection_toy --clips=32" in text
        and "new weights: classifier" in capsys.readouterr().out
    )
