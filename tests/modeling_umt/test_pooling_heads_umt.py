"""`pooling="frames"`: sensitivity to the order of frames, initial weights, number of frames. See also the battery."""

import pytest
import torch

from modeling_umt import UMTConfig, UMTForVideoClassification

CONFIG = {
    "image_size": 32,
    "patch_size": 8,
    "num_frames": 4,
    "tubelet_size": 2,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "position_grid": None,
    "num_aligned_layers": 1,
    "num_labels": 3,
    "pooling": "frames",
}


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = UMTForVideoClassification(UMTConfig(**CONFIG)).eval()
    with torch.no_grad():
        model.classifier.weight.normal_()  # fresh logits are almost zero
    return model


def test_the_head_depends_on_the_order_of_frames(model):
    frames = torch.randn(5, 2, 32, generator=torch.Generator().manual_seed(0))
    assert (model.frame_pooling(frames) - model.frame_pooling(frames.flip(1))).abs().max() > 0.1


def test_initial_weights_scale_with_the_number_of_inputs(model):
    weight, fan_in = model.frame_pooling.fc1.weight.detach(), 2 * 32
    assert weight.abs().max() <= fan_in**-0.5
    assert weight.std().item() == pytest.approx((3 * fan_in) ** -0.5, rel=0.1)


def test_another_number_of_frames_is_an_error(model):
    with pytest.raises(ValueError, match="The clip has 3 frames of tokens"):
        model(torch.randn(1, 6, 3, 32, 32))
