"""The example of the vision tower: a recorded tower, converted by the command line, encodes a video clip by clip."""

import sys
from pathlib import Path

import pytest
import torch
from recorded import load_recorded
from recorded_models import encoder_sizes, sub_state
from video_files import write_video

from modeling_umt import UMTConfig, UMTModel
from umt_training.cli import main as umt

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))
from vision_tower import main


@pytest.fixture(scope="module")
def tower(tmp_path_factory):
    """The folder of a tower that `umt convert` made from a file of VideoChat's name."""
    folder = tmp_path_factory.mktemp("tower")
    description, tensors = load_recorded("umt_tower_f4_224")
    recorded = description["constructor"]
    config = UMTConfig(**encoder_sizes(recorded), num_frames=4)
    config.save_pretrained(folder / "config")
    torch.save(sub_state(tensors), folder / "UMT-L_f4_vision.pt")
    files = [str(folder / name) for name in ("UMT-L_f4_vision.pt", "model")]
    assert umt(["convert", *files, "--config", str(folder / "config")]) == 0
    return folder / "model"


@pytest.mark.parametrize("frames", [1, 4, 8])
def test_the_features_have_all_tokens_of_every_frame(tower, frames, tmp_path, capsys):
    video = write_video(tmp_path / "clip.mp4", num_frames=16)
    main([str(video), "--model", str(tower), "--frames", str(frames), "--output", str(tmp_path / "features.pt")])
    features = torch.load(tmp_path / "features.pt")
    dim = UMTModel.from_pretrained(tower).config.hidden_size
    assert features.shape == (1, frames * 196, dim) and features.isfinite().all()
    assert f"features (1, {frames * 196}, {dim})" in capsys.readouterr().out


def test_other_numbers_of_frames_are_refused(tower, tmp_path):
    with pytest.raises(ValueError, match="--frames is 6; expected 1 or a multiple of 4"):
        main([str(write_video(tmp_path / "clip.mp4")), "--model", str(tower), "--frames", "6"])
