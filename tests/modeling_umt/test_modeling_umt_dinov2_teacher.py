"""DINOv2 as teacher: Transformers' own values, loading, and a student aligned with it. Masks, errors, sizes and graphs
are tested for all teachers together in `test_modeling_umt_teacher.py`."""

import pytest
import torch
from torch.nn import functional as F
from transformers import CLIPVisionConfig, CLIPVisionModel, Dinov2Config, Dinov2ForImageClassification, Dinov2Model

from modeling_umt import UMTConfig, UMTDinov2Teacher, UMTForPreTraining

TOLERANCE = {"rtol": 0, "atol": 1e-5}
SIZES = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "mlp_ratio": 2, "patch_size": 14}


def dinov2(model_class=Dinov2Model, **fields):
    """A tiny DINOv2 for 56 x 56 pixels, every weight random."""
    torch.manual_seed(0)
    model = model_class(Dinov2Config(**{**SIZES, "image_size": 56, **fields}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def clips(batch: int = 2, frames: int = 3, height: int = 56, width: int = 56) -> torch.Tensor:
    return torch.randn(batch, frames, 3, height, width, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
@pytest.mark.parametrize("fields", [{}, {"use_swiglu_ffn": True}, {"qkv_bias": False}], ids=str)
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("height, width", [(56, 56), (84, 42)])
def test_features_and_attention_are_those_of_transformers(height, width, implementation, fields):
    backbone, reference = dinov2(**fields), dinov2(**fields)
    backbone.set_attn_implementation(implementation)
    reference.set_attn_implementation("eager")
    teacher = UMTDinov2Teacher(backbone, image_size=56, num_aligned_layers=3, target_norm="none")
    assert teacher.aligned_layers == [1, 2, 3]
    clip = clips(height=height, width=width)
    outputs = teacher(clip, interpolate_pos_encoding=True)

    own = reference(clip.flatten(0, 1), output_hidden_states=True, output_attentions=True)
    states = [reference.layernorm(own.hidden_states[1 + layer])[:, 1:] for layer in teacher.aligned_layers]
    features = torch.stack([state.unflatten(0, (2, 3)).flatten(1, 2) for state in states], dim=1)
    torch.testing.assert_close(outputs.features, features, **TOLERANCE)
    last = own.last_hidden_state[:, 1:].unflatten(0, (2, 3)).flatten(1, 2)
    torch.testing.assert_close(outputs.features[:, -1], last, **TOLERANCE)
    row = own.attentions[-1].mean(dim=1)[:, 0, 1:].unflatten(0, (2, 3))
    torch.testing.assert_close(outputs.cls_attention, row, **TOLERANCE)

    teacher.config.target_norm = "l2"
    normed = teacher(clip, interpolate_pos_encoding=True).features
    torch.testing.assert_close(normed, F.normalize(features, dim=-1), **TOLERANCE)


@torch.no_grad()
def test_frames_are_resized_to_14_patches_a_side():
    teacher = UMTDinov2Teacher(dinov2(), num_aligned_layers=2)
    config = teacher.config
    assert (config.image_size, config.patch_size, config.projection_dim) == (196, 14, 32)
    outputs = teacher(clips(batch=1, frames=2, height=224, width=224))
    assert outputs.features.shape == (1, 2, 392, 32) and outputs.cls_attention.shape == (1, 2, 196)
    small = F.interpolate(clips(1, 2, 224, 224)[0], size=(196, 196), mode="bicubic", align_corners=False)
    assert torch.equal(teacher(small[None]).features, outputs.features)


def test_the_number_of_channels_is_that_of_the_backbone():
    teacher = UMTDinov2Teacher(dinov2(num_channels=1), image_size=56, num_aligned_layers=2)
    with pytest.raises(ValueError, match="1 channels"):
        teacher(clips())
    assert teacher(clips()[:, :, :1]).features.shape == (2, 2, 48, 32)


def test_from_pretrained(tmp_path):
    backbone = dinov2(image_size=70)
    backbone.save_pretrained(tmp_path)
    teacher = UMTDinov2Teacher.from_pretrained(tmp_path, image_size=56, num_aligned_layers=2, target_norm="none")
    assert not teacher.training and (teacher.config.image_size, teacher.config.target_norm) == (56, "none")
    for name, tensor in backbone.state_dict().items():
        assert torch.equal(teacher.backbone.state_dict()[name], tensor), name


def test_from_pretrained_takes_the_backbone_of_a_classifier(tmp_path):
    classifier = dinov2(Dinov2ForImageClassification)
    classifier.save_pretrained(tmp_path)
    teacher = UMTDinov2Teacher.from_pretrained(tmp_path, num_aligned_layers=2)
    for name, tensor in classifier.dinov2.state_dict().items():
        assert torch.equal(teacher.backbone.state_dict()[name], tensor), name


def test_from_pretrained_refuses_other_families(tmp_path):
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    CLIPVisionModel(CLIPVisionConfig(**sizes, image_size=28, patch_size=14)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"contains a 'clip_vision_model' model; a DINOv2 checkpoint was expected"):
        UMTDinov2Teacher.from_pretrained(tmp_path)


def test_a_student_is_aligned_with_it():
    teacher = UMTDinov2Teacher(dinov2(), image_size=56, num_aligned_layers=2).requires_grad_(False)
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    torch.manual_seed(0)
    student = UMTForPreTraining(
        UMTConfig(**sizes, image_size=64, num_frames=3, num_aligned_layers=2, target_dim=32, position_grid=None)
    )
    clip = clips(height=64, width=64)
    targets = teacher(clip, token_selector=lambda attention: attention.flatten(1).topk(12).indices.sort().values)
    outputs = student(clip, visible_indices=targets.visible_indices, target_features=targets.features)
    assert outputs.student_features.shape == targets.features.shape == (2, 2, 12, 32)
    by_hand = (2 - 2 * (outputs.student_features * targets.features).sum(-1)).mean()
    torch.testing.assert_close(outputs.loss, by_hand)
