"""Tests specific to the video-text models; those of all classes are in `test_battery.py`."""

import inspect

import pytest
import torch

from modeling_umt import (
    UMTForVideoQuestionAnswering,
    UMTForVideoTextPreTraining,
    UMTVideoTextConfig,
    UMTVideoTextModel,
)
from modeling_umt.modeling_umt_video_text import similarity_over_temperature
from modeling_umt.objectives_umt import video_text_contrastive_loss
from modeling_umt.video_text_sampling_umt import sample_negatives

VISION = {"image_size": 32, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION |= {"intermediate_size": 32, "num_aligned_layers": 1, "target_dim": 8, "num_frames": 2}
TEXT = {"vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "fusion_layer": 2}
TEXT |= {"intermediate_size": 32, "max_position_embeddings": 12, "cls_token_id": 2, "mask_token_id": 3}


def small_config(**fields) -> UMTVideoTextConfig:
    return UMTVideoTextConfig(vision_config=VISION, text_config=TEXT, projection_dim=8, **fields)


def clips_and_texts() -> dict[str, torch.Tensor]:
    """Three clips and three texts."""
    generator = torch.Generator().manual_seed(0)
    texts = torch.randint(5, 30, (3, 6), generator=generator)
    return {"input_ids": texts, "pixel_values_videos": torch.randn(3, 2, 3, 32, 32, generator=generator)}


@pytest.mark.parametrize("model_class", [UMTVideoTextModel, UMTForVideoTextPreTraining])
def test_a_temperature_missing_from_a_file_gets_the_configured_value(model_class):
    config = small_config(temperature_init_value=0.2)
    complete = model_class(config).state_dict()
    [name] = [key for key in complete if key.endswith("temperature")]
    state = {key: tensor for key, tensor in complete.items() if key != name}
    model, info = model_class.from_pretrained(
        None, config=config, state_dict=state, dtype=torch.float32, output_loading_info=True
    )
    assert set(info["missing_keys"]) == {name}
    assert complete[name].item() == model.get_parameter(name).item() == pytest.approx(0.2)


def test_similarities_are_not_rounded_under_autocast(monkeypatch):
    """The logits, the contrastive loss, and the similarities by which hard negatives are sampled."""
    torch.manual_seed(0)
    student = UMTForVideoTextPreTraining(small_config()).eval()
    sampled_by = []
    monkeypatch.setattr(
        "modeling_umt.modeling_umt_video_text_pretraining.sample_negatives",
        lambda logits, *args: sampled_by.append(logits) or sample_negatives(logits, *args),
    )
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        scored, trained = student.video_text(**clips_and_texts()), student(**clips_and_texts())

    def similarities(outputs) -> torch.Tensor:
        return outputs.video_embeds.float() @ outputs.text_embeds.float().T / 0.07

    torch.testing.assert_close(scored.logits_per_video, similarities(scored))
    torch.testing.assert_close(sampled_by[0], similarities(trained).T)
    torch.testing.assert_close(trained.loss_vtc, video_text_contrastive_loss(similarities(trained)))


@pytest.mark.parametrize("temperature, clamped", [(0.7, 0.5), (-0.1, 0.001), (0.07, 0.07)])
def test_only_clamp_temperature_changes_the_temperature(temperature, clamped):
    student = UMTForVideoTextPreTraining(small_config(temperature_init_value=temperature))
    for training in (True, False):
        student.train(training)(**clips_and_texts()).loss.backward()
        assert student.video_text.temperature.item() == pytest.approx(temperature)
    student.clamp_temperature()
    assert student.video_text.temperature.item() == pytest.approx(clamped)


def test_the_contrast_is_among_the_pairs_of_all_processes():
    """`gather_embeddings` doubles every tensor here, as a second process with the same batch but other ids would."""
    torch.manual_seed(0)
    student = UMTForVideoTextPreTraining(small_config(mlm_weight=0, uta_weight=0)).eval()
    student.gather_embeddings = lambda tensor: torch.cat([tensor, tensor if tensor.ndim > 1 else tensor + 10])
    with torch.no_grad():
        outputs = student(**clips_and_texts(), match_ids=torch.arange(3))
    logits = outputs.video_embeds.repeat(2, 1) @ outputs.text_embeds.repeat(2, 1).T / student.video_text.temperature
    torch.testing.assert_close(outputs.loss_vtc, video_text_contrastive_loss(logits))
    with pytest.raises(ValueError, match="requires `match_ids`"):
        student(**clips_and_texts())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a second device")
def test_the_temperature_may_be_on_another_device():
    vectors, temperature = torch.eye(3), torch.tensor(0.5, device="cuda")
    assert torch.equal(similarity_over_temperature(vectors, vectors, temperature), 2 * vectors)


# --- arguments and outputs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model_class", [UMTVideoTextModel, UMTForVideoTextPreTraining, UMTForVideoQuestionAnswering])
def test_all_classes_take_texts_their_mask_and_clips_in_this_order(model_class):
    _, *names = inspect.signature(model_class.forward).parameters
    assert names[:3] == ["input_ids", "attention_mask", "pixel_values_videos"]
    assert model_class.main_input_name == "input_ids"
    model = model_class(small_config()).eval()
    inputs = clips_and_texts()
    for name in ("input_ids", "pixel_values_videos"):
        with pytest.raises(ValueError, match="Give `input_ids` and `pixel_values_videos`"):
            model(**{key: tensor for key, tensor in inputs.items() if key != name})


@pytest.fixture(scope="module")
def eager():
    torch.manual_seed(0)
    return UMTVideoTextModel._from_config(small_config(), attn_implementation="eager").eval()


def features(model, medium: str, **options):
    inputs = clips_and_texts()
    if medium == "text":
        return model.get_text_features(inputs["input_ids"], **options)
    return model.get_video_features(inputs["pixel_values_videos"], **options)


@pytest.mark.parametrize("medium, tokens", [("text", 6), ("video", 8)])
@torch.no_grad()
def test_features_record_what_is_requested(eager, medium, tokens):
    outputs = features(eager, medium, output_hidden_states=True, output_attentions=True)
    assert [tuple(state.shape) for state in outputs.hidden_states] == [(3, tokens, 16)] * 3
    assert [tuple(weights.shape) for weights in outputs.attentions] == [(3, 2, tokens, tokens)] * 2
    plain = features(eager, medium)
    assert plain.hidden_states is None and plain.attentions is None
    assert torch.equal(plain.pooler_output, outputs.pooler_output)


@pytest.mark.parametrize("medium", ["text", "video"])
@torch.no_grad()
def test_features_as_tuples(eager, medium):
    named, plain = features(eager, medium), features(eager, medium, return_dict=False)
    assert isinstance(plain, tuple) and len(plain) == 2
    assert torch.equal(plain[0], named.last_hidden_state) and torch.equal(plain[1], named.pooler_output)


@pytest.mark.parametrize("medium", ["text", "video"])
@pytest.mark.parametrize("name", ["encoder_hidden_states", "is_causal", "inputs_embeds"])
def test_features_refuse_unknown_keywords(eager, medium, name):
    with pytest.raises(TypeError, match=rf"get_{medium}_features\(\) got the unknown argument `{name}`"):
        features(eager, medium, **{name: torch.ones(3, 8, 16)})
