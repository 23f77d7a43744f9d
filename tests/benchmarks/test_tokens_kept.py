"""Accuracy against tokens kept at a few steps: its cells, its page and picture, and resuming."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from same_process import SameProcess

from benchmarks import tokens_kept
from benchmarks.tokens_kept import CHOICES, Selection, draw, select_tokens
from umt_training.demo.motion_clips import NUM_FRAMES, SIZE, render_motion_clips
from umt_training.demo.tiny_runs import classifier, student_config

SIZES = {"unlabelled": 64, "labelled": 16, "test": 16, "seeds": 1}
STEPS = {"teacher_steps": 2, "pretrain_steps": 2, "finetune_steps": 2}


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    """Runs the command with two fractions in a folder of its own; returns results and the folder of finished runs."""
    output, folder = tmp_path_factory.mktemp("results"), tmp_path_factory.mktemp("folder")
    options = [f"--{name.replace('_', '-')}={value}" for name, value in (SIZES | STEPS).items()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokens_kept, "ProcessPoolExecutor", SameProcess)  # whose output pytest captures
        patch.setattr(tokens_kept, "TIMED", "tiny")
        patch.setattr(tokens_kept, "ROUNDS", 1)
        patch.setattr(tokens_kept, "KEPT", (60,))
        patch.setattr(tokens_kept, "SELECTIONS", [Selection(choice, 60) for choice in CHOICES])

        def run() -> dict:
            tokens_kept.main([*options, "--output", str(output), "--folder", str(folder)])
            return json.loads((output / "tokens_kept.json").read_text())

        run.output, run.folder = output, folder
        yield run


def test_every_cell_has_its_accuracies_on_the_page_and_a_second_run_computes_nothing(experiment, tmp_path):
    results = experiment()
    assert [(row["choice"], row["kept"]) for row in results["runs"]] == [
        ("motion", 100), ("motion", 60), ("groups", 60), ("random", 60),
    ]  # fmt: skip
    assert results["runs"][0]["applied"].keys() == {"motion-60", "groups-60", "random-60"}
    page = (experiment.output / "tokens_kept.md").read_text()
    assert page.count("\n| 60 % |") == page.count("\n| 100 % |") == 3
    assert "chance level 12.5" in page and str(experiment.folder) not in page and "--unlabelled=64" in page
    draw(results, tmp_path / "picture.png")
    assert np.asarray(Image.open(tmp_path / "picture.png")).shape[2] == 3

    file = experiment.folder / "cells" / "groups-60-0.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"test": 77.0}))
    assert experiment()["runs"][2]["test"] == 77.0
    with pytest.raises(ValueError, match="has results with the settings"):
        tokens_kept.main(["--seeds=2", "--folder", str(experiment.folder)])


@pytest.mark.parametrize("choice", CHOICES)
def test_a_selection_encodes_its_number_of_tokens(choice):
    model = classifier(student_config(SIZE, NUM_FRAMES, 1), ["a", "b"], 0).eval()
    frames = torch.from_numpy(render_motion_clips(0, 2)[0]).movedim(-1, 2) / 255
    select_tokens(model, Selection(choice, 40), seed=0)
    with torch.inference_mode():
        embeddings, indices = model.umt.embeddings.embed_motion(frames)
        again = model.umt.embeddings.embed_motion(frames)[1]
    assert embeddings.shape[1] == (48 if choice == "groups" else 51)
    assert torch.equal(indices, again) == (choice != "random")
    select_tokens(model, Selection("motion", 100), seed=0)
    assert model.umt(frames).last_hidden_state.shape[1] == 128
