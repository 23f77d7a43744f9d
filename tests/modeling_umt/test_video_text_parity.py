"""Values recorded from the official multi-modality code: encoders, losses, gradients, matching, re-ranking.

The converter creates every model from a state dict in the official layout. Recorded layers are K-first, and recorded
student and teacher features are not normalised.
"""

import pytest
import torch
from recorded import load_recorded
from recorded_models import student_config, sub_state, teacher_config
from torch.nn import functional as F

from modeling_umt import (
    UMTForVideoTextPreTraining,
    UMTTextConfig,
    UMTVideoTextConfig,
    UMTVideoTextModel,
    convert_umt_checkpoint,
)
from modeling_umt.convert_umt_checkpoints import official_state_dict
from modeling_umt.video_text_sampling_umt import sample_negatives

TOLERANCE = {"rtol": 0, "atol": 1e-5}
CASES = ("multimodal_pretrain", "multimodal_finetune", "multimodal_tube_mask", "retrieval_rerank")
IMPLEMENTATIONS = pytest.mark.parametrize("implementation", ("eager", "sdpa"))


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual.detach().view_as(expected), expected, **TOLERANCE)


def recorded_config(description: dict) -> UMTVideoTextConfig:
    """The configuration of a recorded model."""
    config = description["config"]
    vision, bert, criterion = config["vision_encoder"], config["text_encoder"]["bert_config"], config["criterion"]
    side = vision["img_size"] // vision["patch_size"]
    table_frames = vision.get("ckpt_num_frame", -1)
    return UMTVideoTextConfig(
        vision_config=student_config(
            vision,
            target_norm=criterion["uta_norm_type"],
            alignment_loss=criterion["uta_loss_type"],
            **({"position_grid": [table_frames, side, side]} if table_frames > 0 else {}),
        ),
        text_config=UMTTextConfig(
            **{key: value for key, value in bert.items() if key in UMTTextConfig().to_dict() and key != "model_type"}
            | {"architectures": None}
        ),
        projection_dim=config["embed_dim"],
        temperature_init_value=config["temp"],
        mlm_weight=criterion["loss_weight"]["mlm"],
        uta_weight=criterion["loss_weight"]["uta"],
        vtm_hard_negatives=criterion["vtm_hard_neg"],
    )


def build(name: str, implementation: str = "eager"):
    """`(description, tensors, model)` of a recorded case."""
    description, tensors = load_recorded(name)
    model = convert_umt_checkpoint(sub_state(tensors), recorded_config(description))
    model.set_attn_implementation(implementation)
    return description, tensors, model


def as_pretraining(model: UMTVideoTextModel) -> UMTForVideoTextPreTraining:
    """A retrieval model with the losses of fine-tuning."""
    trained = UMTForVideoTextPreTraining(model.config).eval()
    trained.video_text.load_state_dict(model.state_dict())
    return trained


def recorded_teacher(description: dict, tensors: dict):
    teacher, vision = description["config"]["clip_teacher"], description["config"]["vision_encoder"]
    config = teacher_config(
        teacher,
        image_size=vision["clip_img_size"],
        num_aligned_layers=vision["clip_return_layer"],
        aligned_layer_interval=vision["clip_return_interval"],
        target_norm="none",
    )
    return convert_umt_checkpoint(sub_state(tensors), config, part="teacher")


def recorded_pairs(tensors: dict, medium: str = "video") -> dict[str, torch.Tensor]:
    """The inputs of a recorded pre-training step on clips or images."""
    names = {"pixel_values_videos": medium, "match_ids": "idx"}
    names |= {"negative_video_indices": "vision_neg_indices", "negative_text_indices": "text_neg_indices"}
    names |= {name: name for name in ("input_ids", "attention_mask", "mlm_input_ids", "mlm_labels")}
    return {ours: tensors[f"input/{theirs}"] for ours, theirs in names.items()}


@pytest.mark.parametrize("name", CASES)
def test_conversion_is_complete_and_reversible_bit_for_bit(name):
    _, tensors, model = build(name)
    official = official_state_dict(model)
    learned = {
        key: tensor
        for key, tensor in sub_state(tensors).items()
        if not key.startswith("clip_teacher.") and not key.endswith("position_ids")
    }
    assert official.keys() == learned.keys()
    assert all(torch.equal(official[key], tensor) for key, tensor in learned.items())


# --- pre-training ---------------------------------------------------------------------------------------------------


@IMPLEMENTATIONS
@pytest.mark.parametrize("medium", ("video", "image"))
def test_pretraining_masked(implementation, medium):
    description, tensors, model = build("multimodal_pretrain", implementation)
    clips = tensors[f"input/{medium}"]
    prefix = f"expected/{medium}_masked/"
    expected = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}

    teacher = recorded_teacher(description, tensors)
    with torch.no_grad():
        masked = teacher(clips, bool_masked_pos=expected["mask"])
        unmasked = teacher(clips)
    close(masked.features.transpose(0, 1), expected["teacher_targets"])
    close(unmasked.features.transpose(0, 1), expected["teacher_features"])
    close(unmasked.cls_attention, expected["teacher_attention"])

    model.clamp_temperature()
    outputs = model(
        **recorded_pairs(tensors, medium),
        bool_masked_pos=expected["mask"],
        target_features=F.normalize(masked.features, dim=-1),
    )
    for name in ("loss_vtc", "loss_vtm", "loss_mlm", "loss_uta", "vtm_logits", "mlm_logits"):
        close(outputs[name], expected[name])
    close(outputs.student_features.transpose(0, 1), F.normalize(expected["student_output"], dim=-1))
    video = model.video_text.get_video_features(clips, bool_masked_pos=expected["mask"])
    close(video.last_hidden_state, expected["vision_embeds"])
    close(video.pooler_output, expected["vision_proj"])
    if medium == "video":
        assert outputs.loss.item() == pytest.approx(description["total_loss_video"], abs=1e-5)


@IMPLEMENTATIONS
def test_pretraining_gradients(implementation):
    description, tensors, model = build("multimodal_pretrain", implementation)
    teacher = recorded_teacher(description, tensors)
    mask = tensors["expected/video_masked/mask"]
    with torch.no_grad():
        targets = F.normalize(teacher(tensors["input/video"], bool_masked_pos=mask).features, dim=-1)
    model.clamp_temperature()
    model(**recorded_pairs(tensors), bool_masked_pos=mask, target_features=targets).loss.backward()
    with torch.no_grad():
        for parameter in model.parameters():  # so that `official_state_dict` contains gradients
            parameter.copy_(parameter.grad)
    gradients = official_state_dict(model)
    norms = description["gradients"]["norms"]
    assert len(norms) > 150
    for key, norm in norms.items():
        assert gradients[key].norm().item() == pytest.approx(norm, rel=1e-4, abs=1e-6), key


@IMPLEMENTATIONS
@pytest.mark.parametrize("medium", ("video", "image"))
def test_pretraining_without_mask(implementation, medium):
    _, tensors, model = build("multimodal_pretrain", implementation)
    base, prefix = model.video_text, f"expected/{medium}_full/"
    ids, mask, clips = tensors["input/input_ids"], tensors["input/attention_mask"], tensors[f"input/{medium}"]
    with torch.no_grad():
        text = base.get_text_features(ids, mask)
        close(text.last_hidden_state, tensors["expected/text/text_embeds"])
        close(text.pooler_output, tensors["expected/text/text_proj"])
        for keep in (True, False):
            name = str(keep).lower()
            video = base.get_video_features(clips, keep_temporal=keep)
            close(video.last_hidden_state, tensors[f"{prefix}vision_embeds"])
            pooled = tensors[f"{prefix}pooled_keep_temporal_{name}"]
            close(video.pooler_output, base.video_projection(pooled))
            base.config.keep_temporal = keep
            outputs = base(ids, mask, clips)
            close(outputs.logits_per_video, tensors[f"{prefix}sim_v2t_keep_temporal_{name}"])
            close(outputs.logits_per_text, tensors[f"{prefix}sim_v2t_keep_temporal_{name}"].T)
        fused = base.text_model.fuse(text.last_hidden_state, mask, video.last_hidden_state)
        close(fused, tensors[f"{prefix}fusion_output"])
        if medium == "video":
            complete = base.text_model(ids, mask, encoder_hidden_states=video.last_hidden_state).last_hidden_state
            close(complete, tensors[f"{prefix}multi_modal_output"])


def test_negatives_are_sampled_by_the_recorded_weights():
    """20,000 samples per row against the recorded weights, and never a matching pair."""
    _, tensors, model = build("multimodal_pretrain")
    with torch.no_grad():
        base, mask = model.video_text, tensors["expected/video_masked/mask"]
        frames = base.get_video_features(tensors["input/video"], bool_masked_pos=mask).pooler_output
        text = base.get_text_features(tensors["input/input_ids"], tensors["input/attention_mask"]).pooler_output
        logits = F.normalize(text, dim=-1) @ F.normalize(frames, dim=-1).mean(1).T / base.temperature
    generator = torch.Generator().manual_seed(0)
    counts = torch.zeros(2, 4, 4)
    for _ in range(20_000):
        for side, indices in enumerate(sample_negatives(logits, tensors["input/idx"], generator=generator)):
            counts[side, torch.arange(4), indices] += 1
    for side, name in enumerate(("vision", "text")):
        weights = tensors[f"expected/video_masked/vtm_weights_for_{name}_negatives"]
        assert (counts[side][weights == 0] == 0).all()
        torch.testing.assert_close(counts[side] / 20_000, weights / weights.sum(1, keepdim=True), rtol=0, atol=0.015)


def test_tube_masks_allow_one_vector_per_frame():
    description, tensors, model = build("multimodal_tube_mask")
    mask = tensors["input/mask"]
    with torch.no_grad():
        targets = recorded_teacher(description, tensors)(tensors["input/video"], bool_masked_pos=mask).features
        model.clamp_temperature()
        outputs = model(**recorded_pairs(tensors), bool_masked_pos=mask, target_features=targets, keep_temporal=True)
        features = model.video_text.get_video_features(tensors["input/video"], mask, keep_temporal=True)
    for name in ("loss_vtc", "loss_vtm", "loss_mlm", "loss_uta", "vtm_logits", "mlm_logits"):
        close(outputs[name], tensors[f"expected/{name}"])
    close(features.pooler_output, tensors["expected/vision_proj"])


# --- fine-tuning and retrieval --------------------------------------------------------------------------------------


@IMPLEMENTATIONS
def test_finetuning(implementation):
    _, tensors, model = build("multimodal_finetune", implementation)
    assert isinstance(model, UMTVideoTextModel)
    ids, mask, clips = tensors["input/input_ids"], tensors["input/attention_mask"], tensors["input/video"]
    with torch.no_grad():
        video, text = model.get_video_features(clips), model.get_text_features(ids, mask)
        close(video.last_hidden_state, tensors["expected/vision_embeds"])
        close(video.pooler_output, tensors["expected/vision_proj"])
        close(text.pooler_output, tensors["expected/text_proj"])
        fused = model.text_model.fuse(text.last_hidden_state, mask, video.last_hidden_state)
        close(fused, tensors["expected/fusion_output"])
        close(model.vision_model.embeddings.position_embeddings, tensors["expected/pos_embed"])
        trained = as_pretraining(model)
        trained.clamp_temperature()
        outputs = trained(
            ids,
            mask,
            clips,
            match_ids=tensors["input/idx"],
            negative_video_indices=tensors["input/vision_neg_indices"],
            negative_text_indices=tensors["input/text_neg_indices"],
        )
    close(outputs.loss_vtc, tensors["expected/loss_vtc"])
    close(outputs.loss_vtm, tensors["expected/loss_vtm"])
    close(outputs.vtm_logits, tensors["expected/vtm_logits"])
    close(trained.video_text.temperature, tensors["expected/temp_after_forward"])
    assert outputs.loss_mlm is None and outputs.loss_uta is None


@IMPLEMENTATIONS
def test_retrieval_scores(implementation):
    """All pairs, with the videos' keys and values computed once; the 35 highest scores of each row are recorded."""
    _, tensors, model = build("retrieval_rerank", implementation)
    ids, mask = tensors["input/input_ids"], tensors["input/attention_mask"]
    with torch.no_grad():
        video, text = model.get_video_features(tensors["input/video"]), model.get_text_features(ids, mask)
        dual = F.normalize(video.pooler_output, dim=-1).mean(1) @ F.normalize(text.pooler_output, dim=-1).T
        videos, texts = len(video.last_hidden_state), len(ids)
        logits = model.match(
            text.last_hidden_state.repeat(videos, 1, 1), mask.repeat(videos, 1), video.last_hidden_state, chunk_size=16
        )[:, 1].view(videos, texts)
    close(dual, tensors["expected/i2t_dual"])
    for scores, expected in ((logits, tensors["expected/i2t_rerank"]), (logits.T, tensors["expected/t2i_rerank"])):
        ranked = expected > -100
        assert ranked.any()
        close(scores[ranked], expected[ranked])
