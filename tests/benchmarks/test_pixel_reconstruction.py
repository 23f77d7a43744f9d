"""Pixel reconstruction, the alternative to alignment: its targets, its masks, and the encoder that it saves."""

import numpy as np
import pytest
import torch

from benchmarks import pixel_reconstruction
from benchmarks.pixel_reconstruction import PixelReconstruction, normalised_patches, pixel_trainer
from modeling_umt import UMTModel
from modeling_umt.token_selection_umt import mask_from_visible_indices
from umt_training.demo.motion_clips import NUM_FRAMES, SIZE, MotionClipDataset, render_motion_clips
from umt_training.demo.tiny_runs import classifier, student_config

CONFIG = student_config(SIZE, NUM_FRAMES, 1)
NUM_TOKENS = NUM_FRAMES * 16


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A trainer after 40 steps on eight clips without augmentation, and its folder."""
    frames, _ = render_motion_clips(0, 8)
    clips = MotionClipDataset(np.tile(frames, (8, 1, 1, 1, 1)))
    folder = tmp_path_factory.mktemp("pixels")
    trainer = pixel_trainer(clips, CONFIG, folder, 40)
    trainer.train()
    trainer.model.umt.save_pretrained(folder)
    return trainer, folder


def test_the_loss_falls_below_that_of_constant_predictions(trained):
    trainer, _ = trained
    frames = torch.from_numpy(trainer.train_dataset.frames[:8]).movedim(-1, 2)
    constant = normalised_patches(trainer.pixel_values(frames), CONFIG).square().mean()  # 1, or 0 for one colour
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert losses[0] > constant and losses[-1] < 0.8 * constant


def test_patches_are_in_the_order_of_the_tokens_and_normalised():
    torch.manual_seed(0)
    clips = 5 + 3 * torch.randn(2, NUM_FRAMES, 3, SIZE, SIZE)
    patches = normalised_patches(clips, CONFIG)
    assert patches.shape == (2, NUM_TOKENS, 3 * 64)
    frame, row, column = 2, 1, 3
    patch = clips[1, frame, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8].flatten(1)  # (C, P)
    expected = (patch - patch.mean(1, keepdim=True)) / patch.std(1, keepdim=True)
    torch.testing.assert_close(patches[1, frame * 16 + row * 4 + column], expected.flatten(), atol=1e-4, rtol=1e-4)
    assert normalised_patches(torch.full_like(clips, 0.3), CONFIG).abs().max() < 1e-3  # one colour, no noise


def test_only_masked_patches_are_targets_and_the_encoder_does_not_see_them(monkeypatch):
    torch.manual_seed(0)
    model = PixelReconstruction(CONFIG)
    clips = torch.randn(2, NUM_FRAMES, 3, SIZE, SIZE)
    visible = torch.stack([torch.arange(0, NUM_TOKENS, 4), torch.arange(1, NUM_TOKENS, 4)])
    hidden = mask_from_visible_indices(visible, NUM_TOKENS)
    targets = torch.randn(2, NUM_TOKENS, 3 * 64, requires_grad=True)
    monkeypatch.setattr(pixel_reconstruction, "normalised_patches", lambda clips, config: targets)
    loss = model(clips.requires_grad_(), visible)
    loss.backward()
    assert torch.equal(targets.grad.abs().sum(-1) > 0, hidden)
    seen = clips.grad.unflatten(-2, (4, 8)).unflatten(-1, (4, 8)).abs().sum((2, 4, 6)).flatten(1)  # (B, N)
    assert torch.equal(seen == 0, hidden)
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_the_mask_is_a_tube_of_the_clips_own_seed(trained, monkeypatch):
    trainer, _ = trained
    masks = []
    monkeypatch.setattr(trainer.model, "forward", lambda clips, visible: masks.append(visible) or clips.sum())
    batch = {"pixel_values_videos": torch.zeros(2, NUM_FRAMES, 3, SIZE, SIZE), "sample_seeds": torch.tensor([3, 4])}
    for _ in range(2):
        trainer.compute_loss(trainer.model, batch)
    trainer.compute_loss(trainer.model, batch | {"sample_seeds": torch.tensor([4, 3])})
    in_frame = masks[0].unflatten(1, (NUM_FRAMES, 4)) - 16 * torch.arange(NUM_FRAMES)[:, None]
    assert (in_frame == in_frame[:, :1]).all() and in_frame.min() >= 0 and in_frame.max() < 16
    assert torch.equal(masks[0], masks[1]) and torch.equal(masks[0], masks[2].flip(0))
    assert not torch.equal(masks[0][0], masks[0][1])


def test_the_classifier_starts_from_every_weight_of_the_encoder(trained):
    trainer, folder = trained
    _, info = UMTModel.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values())
    model = classifier(folder, ["a", "b"], 0, pooling="frames")
    weights = trainer.model.umt.state_dict()
    loaded = model.umt.state_dict()
    # a classifier has a norm on the mean of the tokens instead of one on the tokens, as after an alignment
    assert set(weights) - set(loaded) == {"norm.weight", "norm.bias"}
    assert set(loaded) - set(weights) == {"fc_norm.weight", "fc_norm.bias"}
    for name in set(weights) & set(loaded):
        assert torch.equal(weights[name].cpu(), loaded[name]), name
