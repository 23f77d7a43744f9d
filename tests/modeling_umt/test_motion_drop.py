"""Tokens dropped by motion: `UMTConfig.motion_drop_ratio` in every model, against values recorded from EVEREST."""

import pytest
import torch
from recorded import load_recorded
from recorded_models import encoder_sizes, sub_state
from tiny_classifier import CLASSES, save_noise, save_tiny_classifier, tiny_classifier
from torch.nn import functional as F
from torch.testing import assert_close

from modeling_umt import (
    InternVideo2Config,
    InternVideo2ForPreTraining,
    InternVideo2Model,
    UMTConfig,
    UMTForActionDetection,
    UMTForMaskedModeling,
    UMTForPreTraining,
    UMTForVideoClassification,
    UMTForVideoQuestionAnswering,
    UMTModel,
    UMTVideoTextConfig,
    UMTVideoTextModel,
    convert_umt_checkpoint,
)
from modeling_umt.official_masked_modeling_umt import videomae_key_map
from modeling_umt.token_selection_umt import motion_token_selection

SIZES = {"image_size": 64, "num_frames": 4, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZES |= {"intermediate_size": 64, "num_aligned_layers": 1, "target_dim": 8}
TEXT = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "fusion_layer": 1}
TEXT |= {"intermediate_size": 64, "cls_token_id": 2, "sep_token_id": 3, "mask_token_id": 4}


def clips(frames: int = 4, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, frames, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def model_of(model_class: type, **fields):
    torch.manual_seed(0)
    return model_class(UMTConfig(**SIZES, **fields)).eval()


def internvideo2(model_class: type, **fields):
    torch.manual_seed(0)
    pooling = {"patch_size": 16, "num_pooling_heads": 2, "pooled_size": 16, "layer_scale_init_value": 1.0}
    return model_class(InternVideo2Config(**SIZES | pooling | fields)).eval()


def video_text(model_class: type, **fields):
    torch.manual_seed(0)
    config = UMTVideoTextConfig(vision_config=SIZES | fields, text_config=TEXT, projection_dim=16)
    return model_class(config).eval()


@pytest.mark.parametrize("name", ["everest_finetune", "everest_finetune_grid14"])
def test_a_classifier_of_everest_predicts_and_learns_as_recorded(name):
    description, tensors = load_recorded(name)
    recorded, video = description["constructor"], tensors["input/video"].transpose(1, 2)
    config = UMTConfig(
        **encoder_sizes(recorded),
        num_frames=16,
        tubelet_size=2,
        position_grid=None,
        motion_drop_ratio=recorded["mcm_ratio"],
    )
    model = convert_umt_checkpoint(sub_state(tensors), config)
    assert type(model) is UMTForVideoClassification and model.config.motion_drop_ratio == 0.4

    importance = model.umt.motion_importance(video)
    assert_close(importance.flatten(1), tensors["expected/importance"], atol=1e-5, rtol=0)
    assert torch.equal(motion_token_selection(importance, 0.4), tensors["expected/kept_ids"])
    logits = model.train()(video).logits
    assert torch.equal(model.eval()(video).logits, logits)
    assert_close(logits, tensors["expected/logits"], atol=1e-5, rtol=0)
    assert_close(model.umt(video).pooler_output, tensors["expected/features"], atol=1e-5, rtol=0)

    loss = F.cross_entropy(logits, tensors["input/labels"], label_smoothing=0.1)
    assert loss.item() == pytest.approx(description["loss"], abs=1e-5)
    loss.backward()
    parameters, key_map = dict(model.named_parameters()), videomae_key_map(model.config)
    key_map |= {"fc_norm.weight": ["umt.fc_norm.weight"], "fc_norm.bias": ["umt.fc_norm.bias"]}
    key_map |= {"head.weight": ["classifier.weight"], "head.bias": ["classifier.bias"]}
    for key, norm in description["grad_norms"].items():
        ours = key_map.get(key) or key_map[f"encoder.{key}"]
        gradient = torch.cat([parameters[name].grad.flatten() for name in ours])
        assert gradient.norm().item() == pytest.approx(norm, rel=1e-4), key

    model.config.motion_drop_ratio = 0.0
    assert_close(model(video).logits, tensors["expected/logits_all_tokens"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("final_norm", ["tokens", "pooled", "none"])
def test_dropping_tokens_equals_hiding_them(final_norm, groups):
    model = model_of(UMTModel, final_norm=final_norm, motion_groups=groups)
    kept = motion_token_selection(model.motion_importance(clips(), groups), 0.4, groups=groups)
    masked = model(clips(), visible_indices=kept)
    model.config.motion_drop_ratio = 0.4  # read at each forward pass
    dropped = model(clips())
    assert dropped.last_hidden_state.shape == (2, 38 if groups == 1 else 2 * 19, 32)
    assert_close(dropped.last_hidden_state, masked.last_hidden_state)
    assert_close(dropped.pooler_output, masked.pooler_output)


@pytest.mark.parametrize("groups", [1, 2])
def test_internvideo2_drops_patches_and_keeps_its_class_token(groups):
    model = internvideo2(InternVideo2Model, motion_groups=groups)
    kept = motion_token_selection(model.motion_importance(clips(), groups), 0.4, groups=groups)
    masked, complete = model(clips(), visible_indices=kept), model(clips())
    model.config.motion_drop_ratio = 0.4
    dropped = model(clips())
    assert dropped.last_hidden_state.shape == (2, 1 + kept.shape[1], 32) and kept.shape[1] == 38
    assert_close(dropped.last_hidden_state, masked.last_hidden_state)
    assert_close(dropped.pooler_output, masked.pooler_output)
    assert not torch.allclose(dropped.pooler_output, complete.pooler_output)


def test_a_student_of_internvideo2_without_a_mask_decodes_the_kept_tokens():
    fields = {"num_second_layers": 1, "second_target_dim": 8}
    model = internvideo2(InternVideo2ForPreTraining, motion_drop_ratio=0.4, **fields)
    kept = motion_token_selection(model.internvideo2.motion_importance(clips()), 0.4)
    dropped, masked = model(clips()), model(clips(), visible_indices=kept)
    assert dropped.student_features.shape == (2, 1, 1 + 38, 8) and dropped.second_features.shape == (2, 1, 38, 8)
    for actual, expected in zip(dropped.to_tuple(), masked.to_tuple(), strict=True):
        assert_close(actual, expected)


def test_patches_are_embedded_once_and_blocks_receive_the_kept_tokens():
    model = model_of(UMTForVideoClassification, motion_drop_ratio=0.7)
    shapes = {}
    for name in ("umt.embeddings.patch_embeddings", "umt.layers.0", "umt.layers.1"):
        calls = shapes.setdefault(name, [])
        model.get_submodule(name).register_forward_hook(
            lambda _, inputs, output, calls=calls: calls.append(output.shape)
        )
    model(clips())
    assert shapes == {
        "umt.embeddings.patch_embeddings": [(2, 64, 32)],
        "umt.layers.0": [(2, 19, 32)],
        "umt.layers.1": [(2, 19, 32)],
    }


def test_a_mask_replaces_the_selection():
    kept = torch.arange(5).expand(2, -1)
    for model_class, fields, mask in (
        (UMTModel, {}, {"visible_indices": kept}),
        (UMTForPreTraining, {}, {"visible_indices": kept}),
        (
            UMTForMaskedModeling,
            {"masked_targets": {"pixels": 768}},
            {"bool_masked_pos": (torch.arange(64) >= 5).expand(2, -1)},
        ),
    ):
        plain = model_of(model_class, **fields)(clips(), **mask)
        dropping = model_of(model_class, **fields, motion_drop_ratio=0.4)(clips(), **mask)
        for actual, expected in zip(dropping.to_tuple(), plain.to_tuple(), strict=True):
            assert_close(actual, expected)
    tokens = video_text(UMTVideoTextModel, motion_drop_ratio=0.4).get_video_features(clips(), visible_indices=kept)
    assert tokens.last_hidden_state.shape == (2, 5, 32)


def test_loading_sets_the_ratio_and_saving_keeps_it(tmp_path):
    model_of(UMTForVideoClassification).save_pretrained(tmp_path / "all")
    model = UMTForVideoClassification.from_pretrained(tmp_path / "all", motion_drop_ratio=0.4, motion_groups=2)
    model.save_pretrained(tmp_path / "fewer")
    loaded = UMTForVideoClassification.from_pretrained(tmp_path / "fewer")
    assert (loaded.config.motion_drop_ratio, loaded.config.motion_groups) == (0.4, 2)
    assert torch.equal(loaded(clips()).logits, model.eval()(clips()).logits)
    assert UMTModel.from_pretrained(tmp_path / "fewer")(clips()).last_hidden_state.shape == (2, 38, 32)


@pytest.mark.parametrize("pooling", ["mean", "attention"])
def test_every_view_selects_its_own_tokens(pooling):
    model = model_of(UMTForVideoClassification, pooling=pooling, motion_drop_ratio=0.4, num_labels=5)
    torch.nn.init.normal_(model.classifier.weight)
    views = clips(batch=6)
    together = model(views.unflatten(0, (2, 3))).logits.softmax(-1)
    one_by_one = torch.cat([model(view[None]).logits for view in views]).softmax(-1)
    assert_close(together, one_by_one.unflatten(0, (2, 3)).mean(1), atol=1e-6, rtol=1e-5)


def test_moving_tokens_are_kept():
    """A square that moves over a still background, in a corner of 2 x 2 patches."""
    video = torch.zeros(1, 4, 3, 64, 64)
    for frame in range(4):
        video[0, frame, :, 4 * frame : 4 * frame + 16, :32] = 1.0
    importance = model_of(UMTModel).motion_importance(video)
    assert importance.shape == (1, 4, 16)
    assert (importance[0] > 0).any(dim=0).nonzero().flatten().tolist() == [0, 1, 4, 5]


def test_half_precision_keeps_nearly_the_same_tokens():
    model = model_of(UMTModel)
    expected = motion_token_selection(model.motion_importance(clips()), 0.4)
    for dtype in (torch.bfloat16, torch.float16):
        importance = model.to(dtype).motion_importance(clips())
        assert importance.dtype == torch.float32
        actual = motion_token_selection(importance, 0.4)
        common = [len({*a} & {*b}) for a, b in zip(actual.tolist(), expected.tolist(), strict=True)]
        assert min(common) >= 36  # of 38


def test_video_text_towers_have_one_vector_per_clip():
    model = video_text(UMTVideoTextModel, motion_drop_ratio=0.4)
    texts = torch.randint(5, 50, (2, 6), generator=torch.Generator().manual_seed(0))
    features = model.get_video_features(clips())
    assert features.last_hidden_state.shape == (2, 38, 32) and features.pooler_output.shape == (2, 1, 16)
    kept = motion_token_selection(model.vision_model.motion_importance(clips()), 0.4)
    masked = model.get_video_features(clips(), visible_indices=kept)
    assert_close(features.pooler_output, masked.pooler_output)
    assert_close(model(texts, pixel_values_videos=clips()).video_embeds.norm(dim=1), torch.ones(2))
    model.config.vision_config.motion_drop_ratio = 0.0
    assert model.get_video_features(clips()).pooler_output.shape == (2, 4, 16)

    answerer = video_text(UMTForVideoQuestionAnswering, motion_drop_ratio=0.4)
    answers = torch.tensor([[2, 7, 3]]).expand(2, -1)
    all_tokens = video_text(UMTForVideoQuestionAnswering)
    losses = [m(texts, pixel_values_videos=clips(), labels=answers).loss for m in (answerer, all_tokens)]
    assert losses[0].isfinite() and losses[0] != losses[1]


def test_pipeline_classifies_with_fewer_tokens(tmp_path):
    from transformers import pipeline

    video = str(save_noise(tmp_path / "clip.mp4", 0))
    classify = pipeline(
        "video-classification", str(save_tiny_classifier(tmp_path / "model", motion_drop_ratio=0.4)), device="cpu"
    )
    scores = {entry["label"]: entry["score"] for entry in classify(video, top_k=len(CLASSES))}
    with torch.no_grad():
        expected = tiny_classifier(motion_drop_ratio=0.4).eval()(**classify.preprocess(video)).logits.softmax(-1)[0]
    assert_close(torch.tensor([scores[name] for name in CLASSES]), expected)


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"motion_drop_ratio": 1.0}, r"`motion_drop_ratio` must be in \[0, 1\), but is 1.0"),
        ({"motion_drop_ratio": -0.1}, r"`motion_drop_ratio` must be in \[0, 1\), but is -0.1"),
        ({"motion_drop_ratio": float("nan")}, r"`motion_drop_ratio` must be in \[0, 1\), but is nan"),
        ({"motion_groups": 0}, "`motion_groups` must be at least 1, but is 0"),
        ({"motion_drop_ratio": 0.4, "motion_groups": 3}, "the 4 steps of a clip.*3 groups"),
        ({"motion_drop_ratio": 0.4, "motion_groups": 4}, "4 groups .* two steps or more"),
        ({"motion_drop_ratio": 0.4, "num_frames": 1}, "the 1 steps of a clip"),
        ({"motion_drop_ratio": 0.4, "tubelet_size": 4}, "the 1 steps of a clip"),
        ({"motion_drop_ratio": 0.4, "pooling": "frames"}, '`pooling="frames"` requires all tokens .* is 0.4; set it'),
    ],
)
def test_configurations_that_cannot_drop_tokens_are_refused(fields, message, tmp_path):
    with pytest.raises(Exception, match=message) as error:
        UMTConfig(**SIZES | fields)
    assert isinstance(error.value.__cause__ or error.value, ValueError)
    model_of(UMTForVideoClassification).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        UMTForVideoClassification.from_pretrained(tmp_path, **fields)


def boxes() -> torch.Tensor:
    return torch.tensor([[[4.0, 4.0, 40.0, 40.0]]]).expand(2, -1, -1)


@pytest.mark.parametrize(
    ("model", "call", "message"),
    [
        (
            lambda: model_of(UMTForVideoClassification, pooling="frames"),
            lambda model: model(clips()),
            '`pooling="frames"` requires all tokens',
        ),
        (
            lambda: model_of(UMTModel),
            lambda model: model.get_feature_map(clips()),
            "A feature map requires all tokens",
        ),
        (
            lambda: internvideo2(InternVideo2Model),
            lambda model: model.get_feature_map(clips()),
            "A feature map requires all tokens",
        ),
        (
            lambda: internvideo2(InternVideo2Model),
            lambda model: model(clips(1)),
            "1 in 1 groups leaves 1 in each.*longer clip",
        ),
        (
            lambda: model_of(UMTForActionDetection),
            lambda model: model(clips(), boxes()),
            "Action detection requires all tokens",
        ),
        (
            lambda: video_text(UMTVideoTextModel),
            lambda model: model.get_video_features(clips(), keep_temporal=True),
            "`keep_temporal=True` without a mask requires all tokens",
        ),
        (lambda: model_of(UMTModel), lambda model: model(clips(1)), "1 in 1 groups leaves 1 in each.*longer clip"),
        (lambda: model_of(UMTModel, motion_groups=2), lambda model: model(clips(3)), "3 time steps .* 2 groups"),
    ],
    ids=[
        *("frames", "feature map", "InternVideo2 feature map", "InternVideo2 image", "detection", "vectors of frames"),
        *("image", "groups"),
    ],
)
def test_what_requires_all_tokens_refuses_a_ratio_that_is_set_later(model, call, message):
    model = model()
    getattr(model.config, "vision_config", model.config).motion_drop_ratio = 0.4
    with pytest.raises(ValueError, match=message):
        call(model)


def test_action_detection_is_not_created_from_a_configuration_that_drops_tokens(tmp_path):
    model_of(UMTForVideoClassification, motion_drop_ratio=0.4).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"Action detection requires all tokens .* is 0.4; set it to 0"):
        UMTForActionDetection.from_pretrained(tmp_path)
    UMTForActionDetection.from_pretrained(tmp_path, motion_drop_ratio=0)
