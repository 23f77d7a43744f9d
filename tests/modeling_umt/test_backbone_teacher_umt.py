"""SigLIP, SigLIP 2 and DINOv3 as teachers: Transformers' own features and attentions, normalisation, loading. Masks,
errors, sizes and graphs are tested for all teachers together in `test_modeling_umt_teacher.py`."""

import json

import pytest
import torch
from torch.nn import functional as F
from transformers import (
    DINOv3ViTConfig,
    DINOv3ViTModel,
    Siglip2Config,
    Siglip2Model,
    Siglip2VisionConfig,
    Siglip2VisionModel,
    SiglipConfig,
    SiglipForImageClassification,
    SiglipModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from transformers.models.siglip2.image_processing_siglip2 import convert_image_to_patches

from modeling_umt import UMTDinov3Teacher, UMTSiglipTeacher

TOLERANCE = {"rtol": 0, "atol": 1e-5}
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "patch_size": 14,
}
TEXT = {"vocab_size": 20, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
TEXT |= {"bos_token_id": 1, "eos_token_id": 2}
SATELLITE = {"image_mean": [0.430, 0.411, 0.296], "image_std": [0.213, 0.156, 0.143]}


@torch.no_grad()
def randomized(model):
    """The model with all weights random, so that no term is zero or one."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def dinov3(**fields) -> DINOv3ViTModel:
    torch.manual_seed(0)
    return randomized(DINOv3ViTModel(DINOv3ViTConfig(**{**SIZES, "num_register_tokens": 3, **fields})))


def siglip(model_class=SiglipVisionModel, **fields):
    """A tiny SigLIP for 56 x 56 pixels."""
    torch.manual_seed(0)
    vision = {**SIZES, "image_size": 56, **fields}
    if model_class is SiglipVisionModel:
        return randomized(model_class(SiglipVisionConfig(**vision)))
    return randomized(model_class(SiglipConfig(vision_config=vision, text_config=TEXT)))


def siglip2(model_class=Siglip2VisionModel, **fields):
    """A tiny SigLIP 2 of flexible resolution with a table of 5 x 5 positions."""
    torch.manual_seed(0)
    vision = {**SIZES, "num_patches": 25, **fields}
    if model_class is Siglip2VisionModel:
        return randomized(model_class(Siglip2VisionConfig(**vision)))
    return randomized(model_class(Siglip2Config(vision_config=vision, text_config=TEXT)))


def images(height: int, width: int) -> torch.Tensor:
    """Two clips of three frames, values from 0 to 1."""
    return torch.rand(2, 3, 3, height, width, generator=torch.Generator().manual_seed(1))


def normalized(videos: torch.Tensor, mean, std) -> torch.Tensor:
    return (videos - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


def clips(height: int = 56, width: int = 56) -> torch.Tensor:
    """The student's clips of these images."""
    return normalized(images(height, width), IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)


def dinov3s_own(model, frames, layers):
    """Normed patch tokens of some layers, and the attention row, by Transformers."""
    model.set_attn_implementation("eager")
    outputs = model(frames, output_hidden_states=True, output_attentions=True)
    prefix = 1 + model.config.num_register_tokens
    states = [model.norm(outputs.hidden_states[1 + layer])[:, prefix:] for layer in layers]
    torch.testing.assert_close(states[-1], outputs.last_hidden_state[:, prefix:])
    return states, outputs.attentions[-1].mean(dim=1)[:, 0, prefix:]


def siglips_own(model, frames, layers):
    """Normed patch tokens of some layers, and the attention of the pooling head's probe, by Transformers."""
    if isinstance(model, Siglip2VisionModel):
        patches = torch.stack([convert_image_to_patches(frame, 14) for frame in frames])
        shape = torch.tensor([[frames.shape[-2] // 14, frames.shape[-1] // 14]]).expand(len(frames), -1)
        mask = torch.ones(patches.shape[:2], dtype=torch.int64)
        inputs = {"pixel_values": patches, "spatial_shapes": shape, "pixel_attention_mask": mask}
    else:
        inputs = {"pixel_values": frames, "interpolate_pos_encoding": True}
    outputs = model(**inputs, output_hidden_states=True)
    states = [model.post_layernorm(outputs.hidden_states[1 + layer]) for layer in layers]
    last = outputs.last_hidden_state
    torch.testing.assert_close(states[-1], last)
    probe = model.head.probe.expand(len(last), -1, -1)
    return states, model.head.attention(probe, last, last, need_weights=True)[1][:, 0]


# family -> teacher class, backbone, Transformers' own values, statistics of its images
FAMILIES = {
    "dinov3": (UMTDinov3Teacher, dinov3, dinov3s_own, (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)),
    "dinov3-gated": (
        UMTDinov3Teacher,
        lambda: dinov3(use_gated_mlp=True, key_bias=True, num_register_tokens=0),
        dinov3s_own,
        (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD),
    ),
    "siglip": (UMTSiglipTeacher, siglip, siglips_own, ([0.5] * 3, [0.5] * 3)),
    "siglip2": (UMTSiglipTeacher, siglip2, siglips_own, ([0.5] * 3, [0.5] * 3)),
}


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("height, width", [(56, 56), (84, 42)])
def test_features_and_attention_are_those_of_transformers(family, implementation, height, width):
    teacher_class, make, own, statistics = FAMILIES[family]
    backbone = make()
    backbone.set_attn_implementation(implementation)
    teacher = teacher_class(backbone, image_size=56, num_aligned_layers=3, target_norm="none").eval()
    assert teacher.aligned_layers == [1, 2, 3]
    frames = normalized(images(height, width), *statistics).flatten(0, 1)
    states, row = own(make(), frames, teacher.aligned_layers)
    features = torch.stack([state.unflatten(0, (2, 3)).flatten(1, 2) for state in states], dim=1)
    outputs = teacher(clips(height, width), interpolate_pos_encoding=True)
    assert outputs.cls_attention.shape == (2, 3, height * width // 196)
    torch.testing.assert_close(outputs.cls_attention, row.unflatten(0, (2, 3)), **TOLERANCE)
    torch.testing.assert_close(outputs.features, features, **TOLERANCE)
    teacher.config.target_norm = "l2"
    normed = teacher(clips(height, width), interpolate_pos_encoding=True).features
    torch.testing.assert_close(normed, F.normalize(features, dim=-1), **TOLERANCE)


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_frames_are_resized_to_14_patches_a_side(family):
    teacher = FAMILIES[family][0](FAMILIES[family][1](), num_aligned_layers=2).eval()
    assert (teacher.config.image_size, teacher.config.patch_size, teacher.config.projection_dim) == (196, 14, 32)
    clip = clips(224, 224)[:1, :2]
    outputs = teacher(clip)
    assert outputs.features.shape == (1, 2, 392, 32) and outputs.cls_attention.shape == (1, 2, 196)
    small = F.interpolate(clip[0], size=(196, 196), mode="bicubic", align_corners=False)
    assert torch.equal(teacher(small[None]).features, outputs.features)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision_is_close(family, dtype):
    teacher = FAMILIES[family][0](FAMILIES[family][1](), image_size=56, num_aligned_layers=2).eval()
    expected, actual = teacher(clips()), teacher.to(dtype)(clips())
    assert actual.features.dtype is dtype and actual.cls_attention.dtype is torch.float32
    error = (actual.features.float() - expected.features).norm() / expected.features.norm()
    assert error < 0.03


# --- loading --------------------------------------------------------------------------------------------------------

SAVED = {
    "dinov3": (UMTDinov3Teacher, dinov3, lambda model: model),
    "siglip vision": (UMTSiglipTeacher, siglip, lambda model: model),
    "siglip": (UMTSiglipTeacher, lambda: siglip(SiglipModel), lambda model: model.vision_model),
    "siglip classifier": (
        UMTSiglipTeacher,
        lambda: siglip(SiglipForImageClassification),
        lambda model: model.vision_model,
    ),
    "siglip2 vision": (UMTSiglipTeacher, siglip2, lambda model: model),
    "siglip2": (UMTSiglipTeacher, lambda: siglip2(Siglip2Model), lambda model: model.vision_model),
}


@pytest.mark.parametrize("saved", SAVED)
def test_from_pretrained(tmp_path, capfd, saved):
    teacher_class, make, tower = SAVED[saved]
    model = make()
    model.save_pretrained(tmp_path)
    teacher = teacher_class.from_pretrained(tmp_path, image_size=56, num_aligned_layers=2, target_norm="none")
    assert not teacher.training and (teacher.config.image_size, teacher.config.target_norm) == (56, "none")
    weights = tower(model).state_dict()
    assert teacher.backbone.state_dict().keys() == weights.keys()
    for name, tensor in weights.items():
        assert torch.equal(teacher.backbone.state_dict()[name], tensor), name
    assert "UNEXPECTED" not in capfd.readouterr().err


@torch.no_grad()
@pytest.mark.parametrize("nested", [False, True], ids=["image processor", "processor"])
def test_the_statistics_are_those_of_the_checkpoint(tmp_path, nested):
    backbone = dinov3()
    backbone.save_pretrained(tmp_path)
    if nested:
        (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": SATELLITE}))
    else:
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(SATELLITE))
    teacher = UMTDinov3Teacher.from_pretrained(tmp_path, image_size=56, num_aligned_layers=1, target_norm="none")
    frames = normalized(images(56, 56), *SATELLITE.values()).flatten(0, 1)
    (state,), row = dinov3s_own(backbone, frames, [3])
    outputs = teacher(clips())
    torch.testing.assert_close(outputs.features[:, 0], state.unflatten(0, (2, 3)).flatten(1, 2), **TOLERANCE)
    torch.testing.assert_close(outputs.cls_attention, row.unflatten(0, (2, 3)), **TOLERANCE)


def test_a_siglip_without_a_pooling_head_is_refused(tmp_path):
    siglip(vision_use_head=False).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"no pooling head \(`vision_use_head` is False\)"):
        UMTSiglipTeacher.from_pretrained(tmp_path, num_aligned_layers=2)


def test_a_siglip_whose_file_lacks_weights_is_refused(tmp_path):
    siglip(vision_use_head=False).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | {"vision_use_head": True}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"lacks \d+ weights of SigLIP's vision tower, among them 'head\."):
        UMTSiglipTeacher.from_pretrained(tmp_path, num_aligned_layers=2)


def test_statistics_that_do_not_fit_the_channels_are_refused():
    with pytest.raises(ValueError, match=r"has 1 channels.*mean \[0.5, 0.5, 0.5\].*can't be converted"):
        UMTSiglipTeacher(siglip(num_channels=1), num_aligned_layers=2)
    with pytest.raises(ValueError, match=r"the mean \[0.5\].*can't be converted"):
        UMTDinov3Teacher(dinov3(), image_mean=[0.5], num_aligned_layers=2)
