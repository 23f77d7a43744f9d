"""The frame-ordered head: it tells one order of frames from another, survives saving, and refuses other lengths."""

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
        model.classifier.weight.normal_()  # a fresh head is silent
    return model


def test_the_head_reads_frames_in_their_order(model):
    frames = torch.randn(5, 2, 32, generator=torch.Generator().manual_seed(0))
    assert (model.frame_pooling(frames) - model.frame_pooling(frames.flip(1))).abs().max() > 0.1


def test_every_weight_learns_and_what_is_saved_is_loaded(model, tmp_path):
    clips = torch.randn(2, 4, 3, 32, 32)
    outputs = model(clips, labels=torch.tensor([0, 2]))
    outputs.loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    model.save_pretrained(tmp_path)
    loaded, info = UMTForVideoClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    torch.testing.assert_close(loaded.eval()(clips).logits, outputs.logits)


def test_fresh_weights_start_by_their_inputs(model):
    weight, fan_in = model.frame_pooling.fc1.weight.detach(), 2 * 32
    assert weight.abs().max() <= fan_in**-0.5
    assert weight.std().item() == pytest.approx((3 * fan_in) ** -0.5, rel=0.1)


def test_another_number_of_frames_is_an_error(model):
    with pytest.raises(ValueError, match="The clip has 3 frames of tokens"):
        model(torch.randn(1, 6, 3, 32, 32))
