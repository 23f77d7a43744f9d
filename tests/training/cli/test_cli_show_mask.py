"""`umt show-mask` from a video and a saved teacher to a picture, and mistakes."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_classifier import save_noise
from tiny_pretraining import make_teacher

from modeling_umt.token_selection_umt import draw_masks
from umt_training.cli import main
from umt_training.cli import show_mask as cli_show_mask
from umt_training.data.video_dataset import mask_seed
from umt_training.pictures.mask_pictures import draw_mask_strip
from umt_training.trainers.teacher_student import TOKEN_SELECTIONS


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A teacher of 4 x 4 tokens."""
    folder = tmp_path_factory.mktemp("teachers") / "tiny"
    make_teacher().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return save_noise(tmp_path_factory.mktemp("videos") / "clip.mp4", seed=0)


@pytest.fixture
def show(video, teacher, tmp_path):
    """Runs the command with options; returns its exit code and its picture."""

    def call(*options):
        output = tmp_path / f"{len(list(tmp_path.iterdir()))}.png"
        code = main(["show-mask", str(video), "--teacher", str(teacher), "--output", str(output), *map(str, options)])
        return code, np.asarray(Image.open(output)) if output.exists() else None

    return call


@pytest.mark.parametrize("mask_type", TOKEN_SELECTIONS)
def test_the_picture_shows_the_masks_of_the_trainer(mask_type, show, video, monkeypatch, capsys):
    """Clip, masks and attention in the picture are those of the training code for the same seed."""
    seen = {}
    monkeypatch.setattr(
        "umt_training.pictures.mask_pictures.draw_mask_strip",
        lambda *args: seen.update(args=args) or draw_mask_strip(*args),
    )
    code, picture = show("--mask-type", mask_type, "--mask-ratio", 0.5, "--num-masks", 2, "--seed", 3)
    assert code == 0 and picture.shape[2] == 3
    assert "64 of 128 tokens are visible" in capsys.readouterr().out
    clip, masks, attention, grid, title = seen["args"]
    assert (
        clip.shape == (8, 3, 64, 64)
        and grid == (4, 4)
        and title == f"clip.mp4 under {mask_type} masking; teacher: tiny"
    )
    with torch.no_grad():
        torch.testing.assert_close(attention, make_teacher().eval()(clip[None]).cls_attention[0])
    seeds = torch.tensor([mask_seed(3, 0, 0)])
    assert torch.equal(masks, draw_masks(TOKEN_SELECTIONS[mask_type], attention[None], 0.5, seeds, 2)[0])


def test_the_seed_determines_the_picture(show):
    first, again, other = (show("--seed", seed)[1] for seed in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_sizes(show):
    small, large = (show("--image-size", size, "--num-frames", 2)[1] for size in (32, 240))
    assert large.shape[0] > small.shape[0] > 300


def test_choices_are_those_of_the_trainer():
    import argparse

    parser = argparse.ArgumentParser()
    cli_show_mask.add_arguments(parser)
    (action,) = [action for action in parser._actions if action.dest == "mask_type"]
    assert set(action.choices) == set(TOKEN_SELECTIONS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--image-size", "50"], "50 x 50 pixels do not divide into the teacher's 4 x 4 tokens"),
        (["--image-size", "-4"], "do not divide"),
        (["--mask-ratio", "1.5"], "must be in [0, 1)"),
        (["--num-masks", "0"], "--num-masks is 0"),
        (["--num-frames", "0"], "num_frames is 0"),
        (["--teacher", "nobody/no-such-clip"], "The teacher 'nobody/no-such-clip' does not exist"),
        (["--teacher", "nowhere.pth"], "The teacher 'nowhere.pth' does not exist"),
    ],
)
def test_mistakes_are_reported_in_one_line(options, message, show, capsys):
    code, picture = show(*options)
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert code == 1 and picture is None and error.startswith("umt show-mask: ") and message in error


def test_a_missing_video(teacher, tmp_path, capsys):
    assert main(["show-mask", str(tmp_path / "no.mp4"), "--teacher", str(teacher)]) == 1
    assert "no.mp4: the file does not exist" in capsys.readouterr().err


def test_a_folder_without_a_teacher(video, tmp_path, capsys):
    from modeling_umt import UMTConfig

    UMTConfig().save_pretrained(tmp_path)
    assert main(["show-mask", str(video), "--teacher", str(tmp_path)]) == 1
    assert "is a 'umt' model; a teacher is" in capsys.readouterr().err
