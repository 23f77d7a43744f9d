"""The pictures that trainers draw: which, when, of what; and a run survives their failure."""

import numpy as np
import pytest
import torch
from finetuning_tools import tiny_trainer
from PIL import Image
from tiny_pretraining import losses_of, make_trainer, write_videos
from transformers.integrations import TensorBoardCallback

from umt_training.pictures import run_pictures
from umt_training.pictures.mask_pictures import draw_mask_strip
from umt_training.pictures.run_pictures import CURVES, MASKS


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return write_videos(tmp_path_factory.mktemp("videos"), number=8)


class Writer:
    """Records the images that TensorBoard's writer receives."""

    def __init__(self):
        self.images = []

    def add_image(self, tag, image, step, dataformats):
        self.images.append((tag, image, step, dataformats))

    def __getattr__(self, name):
        return lambda *args, **kwargs: None


def test_stage1_draws_masks_and_curves(videos, tmp_path, monkeypatch):
    """The strip shows the first clip of epoch 0 with the masks of training."""
    pytest.importorskip("tensorboard")
    seen = []
    monkeypatch.setattr(run_pictures, "draw_mask_strip", lambda *args: seen.append(args) or draw_mask_strip(*args))
    trainer = make_trainer(videos, tmp_path, num_masks_per_clip=2, num_train_epochs=2, save_strategy="epoch")
    writer = Writer()
    trainer.add_callback(TensorBoardCallback(writer))
    trainer.callback_handler.callbacks.insert(0, trainer.callback_handler.callbacks.pop())  # as `report_to` does
    trainer.train()
    for name in (MASKS, CURVES):
        with Image.open(tmp_path / name) as picture:
            assert picture.format == "PNG"
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == {"masks.png", "curves.png"}

    ((clip, masks, attention, grid, title, scored),) = seen  # once, in spite of two checkpoints and an end
    sample = trainer.train_dataset[0, 0]
    pixels = trainer.pixel_values(sample["pixel_values_videos"])
    torch.testing.assert_close(clip, pixels)
    seeds = torch.tensor([sample["sample_seed"]])
    visible, _ = trainer.compute_targets(pixels[None], seeds, trainer.args.mask_ratio, 2)
    assert torch.equal(masks, visible) and attention.shape == (2, 16) and grid == (4, 4)
    assert title == "The first training clip, attention masks" and scored == "attention"
    ((tag, image, step, dataformats),) = writer.images
    assert (tag, step, dataformats) == ("masks", 0, "HWC")
    assert np.array_equal(image, np.asarray(Image.open(tmp_path / MASKS)))


def test_tensorboard_gets_the_image(videos, tmp_path):
    pytest.importorskip("tensorboard")
    make_trainer(videos, tmp_path, max_steps=1, report_to="tensorboard").train()
    (events,) = tmp_path.rglob("events.out.tfevents.*")
    assert b"masks" in events.read_bytes() and b"PNG" in events.read_bytes()


def test_the_curves_are_drawn_at_a_checkpoint_and_shown_on_the_card(tmp_path):
    class Interrupted(Exception):
        pass

    trainer = tiny_trainer(tmp_path, save_strategy="steps", save_steps=1, max_steps=2)
    trainer.create_model_card()
    assert CURVES not in (tmp_path / "README.md").read_text()

    class Stop(run_pictures.TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            raise Interrupted

    trainer.add_callback(Stop)
    with pytest.raises(Interrupted):
        trainer.train()
    assert (tmp_path / CURVES).is_file() and not (tmp_path / MASKS).exists()
    trainer.create_model_card()
    assert f"![Curves of the training run]({CURVES})" in (tmp_path / "README.md").read_text()


def test_no_frames_of_training_videos_are_published(videos, tmp_path, monkeypatch):
    trainer = make_trainer(videos, tmp_path, max_steps=1)
    trainer.args.push_to_hub = True
    monkeypatch.setattr(trainer, "init_hf_repo", lambda token=None: None)
    monkeypatch.setattr(trainer, "_push_from_checkpoint", lambda folder: None)
    trainer.train()
    assert (tmp_path / CURVES).exists() and not (tmp_path / MASKS).exists()


def test_a_picture_that_fails_is_a_warning_and_changes_nothing(videos, tmp_path, monkeypatch):
    plain = make_trainer(videos, tmp_path / "plain", max_steps=2)
    plain.train()

    def fail(*args):
        raise ZeroDivisionError("no such colour")

    for name in ("draw_mask_strip", "draw_curves"):
        monkeypatch.setattr(run_pictures, name, fail)
    trainer = make_trainer(videos, tmp_path / "failing", max_steps=2)
    with pytest.warns(RuntimeWarning) as warned:
        trainer.train()
    messages = [str(warning.message) for warning in warned if "continues without" in str(warning.message)]
    assert [text.splitlines()[0] for text in messages] == [
        "The run continues without the picture of the masks:", "The run continues without the curves:",
    ]  # fmt: skip
    assert all("ZeroDivisionError: no such colour" in text and "in fail" in text for text in messages)
    assert losses_of(trainer) == losses_of(plain) and trainer.state.global_step == 2
    assert not list(tmp_path.glob("failing/pictures/*"))
    # the project's own tests turn this warning into an error
    with pytest.raises(RuntimeWarning, match="continues without"):
        make_trainer(videos, tmp_path / "strict", max_steps=1).train()


def test_data_sets_of_any_kind(tmp_path):
    """Clips in a list have a mask strip; a run without a logged loss has no curves."""
    trainer = make_trainer(None, tmp_path, dataset=[
        {"pixel_values_videos": clip, "sample_seed": 5, "video_index": 0}
        for clip in torch.randint(0, 256, (4, 2, 3, 64, 64), dtype=torch.uint8)
    ], max_steps=1, logging_strategy="no")  # fmt: skip
    trainer.train()
    assert (tmp_path / MASKS).is_file() and not (tmp_path / CURVES).exists()
