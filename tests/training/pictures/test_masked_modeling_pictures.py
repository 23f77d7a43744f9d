"""Pictures of masked modelling: what is dimmed, which colours features have, predicted pixels in their place."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_masked_modeling import PIXELS, STUDENT, make_pixel_trainer, make_trainer
from tiny_pretraining import losses_of, write_videos
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from modeling_umt import UMTConfig
from modeling_umt.objectives_umt import pixel_targets
from modeling_umt.token_selection_umt import hidden_indices, tube_token_selection
from umt_training.pictures import run_pictures
from umt_training.pictures.mask_pictures import clip_pixels
from umt_training.pictures.masked_modeling_pictures import (
    clip_rows,
    draw_predictions,
    feature_colours,
    predicted_pixels,
)
from umt_training.pictures.run_pictures import MASKS, PREDICTIONS, first_clip


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return write_videos(tmp_path_factory.mktemp("videos"), number=8)


def some_clip() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(4, 3, 64, 64, generator=generator)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
    return (pixels - mean) / std


def some_mask() -> tuple[torch.Tensor, torch.Tensor]:
    visible = tube_token_selection(torch.zeros(1, 2, 16), 0.75, sample_seeds=torch.tensor([4]))
    return visible[0], hidden_indices(visible, 32)[0]


def test_a_column_is_a_time_step_and_hidden_tokens_are_dimmed():
    clip, (visible, hidden) = some_clip(), some_mask()
    ((_, pixels), (_, dimmed)), foot = clip_rows(clip, visible, UMTConfig(**STUDENT))
    assert np.array_equal(pixels, clip_pixels(clip)[::2]) and foot == "24 of 32 tokens hidden"
    tokens = dimmed.reshape(2, 4, 16, 4, 16, 3).transpose(0, 1, 3, 2, 4, 5).reshape(32, -1).mean(axis=1)
    assert tokens[hidden].max() < tokens[visible].min()


def test_features_have_the_colours_of_their_principal_components():
    """Three directions of different variance; a perfect prediction has the teacher's colours, the mean is grey."""
    generator = torch.Generator().manual_seed(1)
    basis, _ = torch.linalg.qr(torch.randn(24, 24, generator=generator))
    scales = torch.tensor([9.0, 3.0, 1.0] + [0.01] * 21)
    features = torch.randn(500, 24, generator=generator) * scales @ basis.T + 5
    target, prediction = feature_colours(features, features)
    assert np.array_equal(target, prediction) and target.shape == (500, 3)
    components = (features - features.mean(0)) @ basis[:, :3]
    for channel in range(3):
        correlation = np.corrcoef(target[:, channel], components[:, channel])[0, 1]
        assert abs(correlation) > 0.97
    _, mean = feature_colours(features, features.mean(dim=0).expand(500, -1))
    assert np.abs(mean.astype(int) - 127).max() < 25
    # few tokens, and features that are all the same
    for rows in (1, 2):
        assert feature_colours(features[:rows], features[:rows])[0].shape == (rows, 3)
    assert feature_colours(torch.ones(9, 24), torch.ones(9, 24))[1].shape == (9, 3)
    assert feature_colours(features, features * torch.nan)[1].shape == (500, 3)


@pytest.mark.parametrize("normalize", [False, True])
def test_a_perfect_prediction_of_pixels_is_the_clip(normalize):
    clip, (_, hidden) = some_clip(), some_mask()
    config = UMTConfig(**STUDENT | PIXELS | {"normalize_targets": normalize})
    targets = pixel_targets(clip[None], config)[0][hidden]
    frames = predicted_pixels(clip, hidden, targets, config)
    assert np.abs(frames.astype(int) - clip_pixels(clip)[::2]).max() <= 1
    other = predicted_pixels(clip, hidden, torch.full_like(targets, 0.5), config)
    changed = (other != frames).any(axis=-1).reshape(2, 4, 16, 4, 16).any(axis=(2, 4)).reshape(-1)
    assert np.array_equal(np.flatnonzero(changed), hidden.numpy())


def test_the_picture_has_a_row_for_each_target_and_prediction():
    clip, (visible, hidden) = some_clip(), some_mask()
    config = UMTConfig(**STUDENT | {"masked_targets": {"image": 24, "pixels": 1536}})
    predictions = {"image": torch.randn(24, 24), "pixels": torch.rand(24, 1536)}
    features = {"image": torch.randn(24, 24)}
    heights = [
        draw_predictions(clip, visible, hidden, given, taught, config, "A clip").height
        for given, taught in ((predictions, features), ({"image": predictions["image"]}, features), ({}, {}))
    ]
    row = 2 * 64 + 4  # frames of 64 pixels are enlarged twice
    assert heights == [heights[2] + 3 * row, heights[2] + 2 * row, heights[2]]


@pytest.mark.parametrize("make", [make_trainer, make_pixel_trainer])
def test_a_run_draws_the_mask_once_and_the_predictions_at_every_checkpoint(make, videos, tmp_path, monkeypatch):
    seen, drawn = [], run_pictures.draw_predictions
    monkeypatch.setattr(run_pictures, "draw_predictions", lambda *args: seen.append(args) or drawn(*args))
    trainer = make(videos, tmp_path, save_strategy="steps", save_steps=1)
    trainer.train()
    assert len(seen) == 3  # two checkpoints and the end
    for name in (MASKS, PREDICTIONS):
        with Image.open(tmp_path / name) as picture:
            assert picture.format == "PNG"
    clip, visible, hidden, predictions, targets, _, title = seen[-1]
    sample = trainer.train_dataset[0, 0]
    assert torch.equal(clip, trainer.pixel_values(sample["pixel_values_videos"]))
    masks = trainer.select_tokens(clip[None], torch.tensor([sample["sample_seed"]]))
    assert torch.equal(visible, masks[0][0]) and torch.equal(hidden, masks[1][0])
    assert title == "The first training clip at step 2"
    inputs = {"visible_indices": masks[0], "target_indices": masks[1]}
    with torch.no_grad():
        expected = trainer.model.eval()(clip[None], **inputs).predictions
    for name, prediction in predictions.items():
        assert torch.equal(prediction, expected[name][0])
    assert targets.keys() == trainer.teachers.keys()

    # drawing changes nothing
    plain = make(videos, tmp_path / "plain")
    plain.callback_handler.callbacks = [c for c in plain.callback_handler.callbacks if "Picture" not in str(type(c))]
    plain.train()
    assert losses_of(plain) == losses_of(trainer) and not (tmp_path / "plain" / "pictures").exists()


def test_no_clip_is_drawn_of_a_run_that_is_published(videos, tmp_path):
    trainer = make_trainer(videos, tmp_path)
    assert first_clip(trainer) is not None
    trainer.args.push_to_hub = True
    assert first_clip(trainer) is None
