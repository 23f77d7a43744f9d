"""`umt show-mask` from a video and a saved teacher to a picture, and mistakes."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_classifier import save_noise
from tiny_pretraining import make_teacher

from modeling_umt import InternVideo2Config, InternVideo2ForPreTraining, UMTConfig, UMTForMaskedModeling, UMTModel
from modeling_umt.token_selection_umt import draw_masks, tokens_with_most_motion
from umt_training.cli import main
from umt_training.cli import show_mask as cli_show_mask
from umt_training.data.video_dataset import mask_seed
from umt_training.pictures.mask_pictures import draw_mask_strip
from umt_training.trainers.teacher_student import MASK_TYPES, TOKEN_SELECTIONS


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
        "umt_training.trainers.scored_clip.draw_mask_strip",
        lambda *args: seen.update(args=args) or draw_mask_strip(*args),
    )
    code, picture = show("--mask-type", mask_type, "--mask-ratio", 0.5, "--num-masks", 2, "--seed", 3)
    assert code == 0 and picture.shape[2] == 3
    assert "64 of 128 tokens are visible" in capsys.readouterr().out
    clip, masks, attention, grid, title, scored = seen["args"]
    assert (
        clip.shape == (8, 3, 64, 64)
        and grid == (4, 4)
        and title == f"clip.mp4 under {mask_type} masking; teacher: tiny"
    )
    assert scored == "attention"
    with torch.no_grad():
        torch.testing.assert_close(attention, make_teacher().eval()(clip[None]).cls_attention[0])
    seeds = torch.tensor([mask_seed(3, 0, 0)])
    assert torch.equal(masks, draw_masks(TOKEN_SELECTIONS[mask_type], attention[None], 0.5, seeds, 2)[0])


@pytest.fixture
def show_motion(video, tmp_path, monkeypatch):
    """Runs the command for masks by motion; returns the arguments of its picture."""
    seen = {}
    monkeypatch.setattr(
        "umt_training.trainers.scored_clip.draw_mask_strip",
        lambda *args: seen.update(args=args) or draw_mask_strip(*args),
    )

    def call(*options):
        output = str(tmp_path / "motion.png")
        command = ["show-mask", str(video), "--mask-type", "motion", "--output", output, *map(str, options)]
        assert main(command) == 0 and Image.open(output).format == "PNG"
        return seen["args"]

    return call


def test_motion_masks_are_those_of_a_saved_student(show_motion, tmp_path, capsys):
    """Its own patch embedding, frames and tubelets; the masks of a clip are disjoint."""
    student = UMTForMaskedModeling(
        UMTConfig(
            image_size=64, num_frames=8, tubelet_size=2, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=64, position_grid=None, masked_targets={"pixels": 1536},
        )
    )  # fmt: skip
    student.save_pretrained(tmp_path / "student")
    arguments = show_motion("--student", tmp_path / "student", "--mask-ratio", 0.8, "--num-masks", 2)
    clip, masks, importance, grid, title, scored = arguments
    assert "13 of 64 tokens are visible" in capsys.readouterr().out
    assert clip.shape == (8, 3, 64, 64) and grid == (4, 4) and scored == "motion"
    assert title == "clip.mp4 under motion masking; student: student"
    torch.testing.assert_close(importance, student.umt.motion_importance(clip[None])[0])
    assert masks.flatten().sort().values.tolist() == tokens_with_most_motion(importance[None], 26)[0].tolist()


def test_motion_masks_are_those_of_a_student_of_internvideo2(show_motion, tmp_path, capsys):
    fields = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    fields |= {"image_size": 56, "num_frames": 4, "num_pooling_heads": 2, "num_aligned_layers": 1}
    student = InternVideo2ForPreTraining(InternVideo2Config(**fields))
    student.save_pretrained(tmp_path / "student")
    clip, masks, importance, grid, *_ = show_motion("--student", tmp_path / "student")
    assert "13 of 64 tokens are visible" in capsys.readouterr().out
    assert clip.shape == (4, 3, 56, 56) and grid == (4, 4)
    torch.testing.assert_close(importance, student.internvideo2.motion_importance(clip[None])[0])
    assert masks.tolist() == tokens_with_most_motion(importance[None], 13).tolist()


def test_motion_masks_without_a_student_are_those_of_new_weights(show_motion, capsys):
    clip, masks, importance, *_ = show_motion("--seed", 5, "--image-size", 64, "--num-frames", 4)
    assert "13 of 64 tokens are visible" in capsys.readouterr().out and clip.shape == (4, 3, 64, 64)
    torch.manual_seed(5)
    new = UMTModel(UMTConfig(num_hidden_layers=1, num_aligned_layers=1))
    torch.testing.assert_close(importance, new.motion_importance(clip[None])[0])
    assert masks.tolist() == tokens_with_most_motion(importance[None], 13).tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--mask-type", "motion", "--teacher", "x"], "--teacher is not used by motion masks; leave it out"),
        (["--mask-type", "motion", "--teacher-image-size", "56"], "--teacher-image-size is not used by motion"),
        (["--mask-type", "tube", "--teacher", "x", "--student", "y"], "--student is not used by tube masks"),
        (["--mask-type", "tube"], "tube masks are shown beside the attention of a teacher; give --teacher"),
        (["--mask-type", "motion", "--student", "nobody/no-such-model"], "nobody/no-such-model"),
        (["--mask-type", "motion", "--image-size", "40"], "Frames of 40 x 40 pixels are not squares of"),
        (["--mask-type", "motion", "--num-frames", "1"], "compares time steps, but 1 in 1 groups leaves 1"),
        (["--mask-type", "motion", "--num-masks", "5"], "5 motion masks of a clip show 314 tokens each"),
    ],
)
def test_options_of_another_type_of_masks_are_refused_in_one_line(options, message, video, tmp_path, capsys):
    assert main(["show-mask", str(video), "--output", str(tmp_path / "mask.png"), *options]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("umt show-mask: ") and message in error and not (tmp_path / "mask.png").exists()


def test_a_teacher_is_no_student(teacher, video, tmp_path, capsys):
    command = ["show-mask", str(video), "--mask-type", "motion", "--student", str(teacher)]
    assert main([*command, "--output", str(tmp_path / "mask.png")]) == 1
    assert "is a 'umt_teacher' model; a student is a saved video model of UMT or" in capsys.readouterr().err


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
    assert set(action.choices) == set(MASK_TYPES)


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
