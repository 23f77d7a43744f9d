"""The tiny CLIP: tokenisation, loss, training and its reproducibility, and the teacher loaded from it."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import CLIPModel
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from modeling_umt import UMTTeacherModel
from umt_training.demo.motion_clips import SIZE, draw_motion_clip, render_motion_clips
from umt_training.demo.tiny_clip import matching_loss, tiny_clip_config, tokenize, train_tiny_clip


@pytest.fixture(scope="module")
def still_frames() -> tuple[np.ndarray, list[str]]:
    """The first frames of 64 clips, (64, SIZE, SIZE, 3), and their captions."""
    return render_motion_clips(0, 64)[0][:, 0], [draw_motion_clip(0, index).caption(0) for index in range(64)]


def test_captions_become_token_ids():
    token_ids, words = tokenize(["Red circle, left", "blue circle"])
    assert words == ["blue", "circle", "left", "red"]
    assert token_ids.tolist() == [[3, 1, 2, 4], [0, 1, 4, 4]]


def test_the_loss_is_the_mean_of_clips_loss_and_that_of_the_mean_patch_token(still_frames):
    frames, captions = still_frames
    token_ids, words = tokenize(captions)
    torch.manual_seed(0)
    model = CLIPModel(tiny_clip_config(len(words), token_ids.shape[1] - 1)).eval()
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        clip = model(input_ids=token_ids, pixel_values=pixels, return_loss=True)
        patches = model.vision_model.post_layernorm(clip.vision_model_output.last_hidden_state[:, 1:])
        images = F.normalize(model.visual_projection(patches).mean(dim=1), dim=-1)
        scores = model.logit_scale.exp() * images @ clip.text_embeds.T
        both_ways = [side.log_softmax(dim=1).diagonal().mean() for side in (scores, scores.T)]
        loss = matching_loss(model, pixels, token_ids)
    torch.testing.assert_close(loss, (clip.loss - sum(both_ways) / 2) / 2, atol=1e-5, rtol=1e-5)


def test_training_reduces_the_loss(still_frames):
    losses = []
    options = {"num_steps": 60, "batch_size": 16, "learning_rate": 5e-4, "seed": 3}
    model = train_tiny_clip(*still_frames, **options, on_step=lambda step, loss: losses.append((step, loss)))
    assert [step for step, _ in losses] == list(range(1, 61)) and not model.training
    first, last = (np.mean([loss for _, loss in part]) for part in (losses[:5], losses[-5:]))
    assert first == pytest.approx(np.log(16), abs=0.5)
    assert last < first - 0.8


def test_training_is_a_function_of_its_seed_and_keeps_the_global_random_state(still_frames):
    def weights(seed: int) -> dict[str, torch.Tensor]:
        return train_tiny_clip(*still_frames, num_steps=2, batch_size=8, seed=seed).state_dict()

    state = torch.random.get_rng_state()
    one = weights(0)
    assert (torch.random.get_rng_state() == state).all()
    torch.rand(3)
    same, other = weights(0), weights(1)
    assert all((one[name] == same[name]).all() for name in one)
    assert not all((one[name] == other[name]).all() for name in one)


def test_the_umt_teacher_has_the_image_features_of_the_clip(still_frames, tmp_path):
    frames, captions = still_frames
    train_tiny_clip(frames, captions, num_steps=2, batch_size=8).save_pretrained(tmp_path)
    clip = CLIPModel.from_pretrained(tmp_path)
    teacher = UMTTeacherModel.from_clip(tmp_path, image_size=SIZE, num_aligned_layers=2)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
    pixels = (torch.from_numpy(frames[:4]).permute(0, 3, 1, 2) / 255 - mean) / std
    with torch.no_grad():
        outputs = teacher(pixels[:, None], output_hidden_states=True)
        images = clip.vision_model(pixels).pooler_output
    assert outputs.features.shape == (4, 2, 16, 128)
    torch.testing.assert_close(teacher.post_norm(outputs.hidden_states[-1][:, 0]), images, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("num_captions", [1, 3])
def test_every_frame_needs_a_caption(num_captions):
    with pytest.raises(ValueError, match=f"not {num_captions} for"):
        train_tiny_clip(np.zeros((num_captions // 2 + 1, 32, 32, 3), np.uint8), ["red"] * num_captions)
