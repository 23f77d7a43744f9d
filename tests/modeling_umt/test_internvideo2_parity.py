"""Values recorded from the official code of InternVideo2: classifiers, position tables, students, losses, gradients,
files. Recorded clips are (batch, channels, frames, height, width), and recorded masks have an entry for the class
token."""

import pytest
import torch
from recorded import load_recorded
from recorded_models import internvideo2_config, sub_state

from modeling_umt import (
    InternVideo2Config,
    InternVideo2ForPreTraining,
    InternVideo2ForVideoClassification,
    InternVideo2Model,
    UMTConfig,
    convert_umt_checkpoint,
)
from modeling_umt.convert_umt_checkpoints import UnsupportedCheckpointError, official_state_dict
from modeling_umt.official_internvideo2_umt import (
    internvideo2_classification_key_map,
    internvideo2_pretraining_key_map,
)
from umt_training.trainers.optimization import parameter_groups

implementations = pytest.mark.parametrize("implementation", ["eager", "sdpa"])


def close(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


def clip(tensors: dict) -> torch.Tensor:
    return tensors["input/video"].transpose(1, 2)


def mask(tensors: dict) -> torch.Tensor:
    """Without the entry of the class token, which is always visible."""
    assert not tensors["input/mask"][:, 0].any()
    return tensors["input/mask"][:, 1:]


def assert_back_bit_for_bit(model, state: dict) -> None:
    back = official_state_dict(model)
    assert back.keys() == state.keys()
    assert all(torch.equal(tensor, state[key]) for key, tensor in back.items())


def assert_gradient_norms(model, expected: dict, rounding: list[str]) -> None:
    """Of official parameters, some of which are several of ours; those of `rounding` are zero but for rounding."""
    parameters = dict(model.named_parameters())
    key_map = internvideo2_pretraining_key_map(model.config)
    assert key_map.keys() == expected.keys()
    for name, norm in expected.items():
        gradient = torch.cat([parameters[key].grad.flatten() for key in key_map[name]]).norm().item()
        assert gradient == (pytest.approx(0, abs=1e-6) if name in rounding else pytest.approx(norm, rel=1e-4)), name


@implementations
@pytest.mark.parametrize("name", ["f8", "f16", "epsilons"])
def test_classifiers_predict_as_recorded(name, implementation):
    description, tensors = load_recorded(f"internvideo2_classifier_{name}")
    state = sub_state(tensors)
    model = convert_umt_checkpoint(state, internvideo2_config(description["constructor"]))
    assert type(model) is InternVideo2ForVideoClassification
    model.set_attn_implementation(implementation)
    features = []
    model.classifier.register_forward_pre_hook(lambda module, inputs: features.append(inputs[0]))
    with torch.no_grad():
        outputs = model(clip(tensors), output_hidden_states=True)
        encoder = model.internvideo2(clip(tensors))
    close(outputs.logits, tensors["expected/logits"])
    close(features[0], tensors["expected/features"])
    close(encoder.pooler_output, tensors["expected/pooled"])
    close(encoder.last_hidden_state, tensors["expected/last_hidden_state"])
    if "expected/hidden_states" in tensors:
        close(torch.stack(outputs.hidden_states[1:-1]), tensors["expected/hidden_states"])
    close(outputs.hidden_states[-1], tensors["expected/last_hidden_state"])
    assert_back_bit_for_bit(model, state)


def test_a_table_is_resized_to_the_clips_of_a_configuration_and_of_the_input():
    description, tensors = load_recorded("internvideo2_position_resize")
    state = sub_state(tensors)
    model = convert_umt_checkpoint(state, internvideo2_config(description["constructor"]))
    close(model.internvideo2.embeddings.positions.position_embeddings, tensors["expected/pos_embed"])
    of_the_file = convert_umt_checkpoint(state, internvideo2_config(description["checkpoint"]))
    for each in (model, of_the_file):
        with torch.no_grad():
            close(each(clip(tensors)).logits, tensors["expected/logits"])
    tables = {
        tuple(map(int, key.rpartition("_")[2].split("x"))): table
        for key, table in tensors.items()
        if key.startswith("expected/pos_embed_")
    }
    assert len(tables) == 3
    for grid, table in tables.items():
        close(of_the_file.internvideo2.embeddings.positions(grid), table)
        frames, rows, columns = grid
        fields = {"num_frames": frames, "image_size": [14 * rows, 14 * columns]}
        config = InternVideo2Config.from_dict(of_the_file.config.to_dict(), **fields)
        close(convert_umt_checkpoint(state, config).internvideo2.embeddings.positions.position_embeddings, table)
    with pytest.raises(ValueError, match="'pos_embed' of 7 patches is neither of the configuration's 16 x 6 x 6"):
        convert_umt_checkpoint(state | {"pos_embed": torch.zeros(1, 8, 16)}, model.config)


@pytest.mark.parametrize("way", ["the input", "the configuration"])
def test_both_rules_of_a_single_frame_are_as_recorded(way):
    description, tensors = load_recorded("internvideo2_one_frame")
    frames = {"num_frames": 1} if way == "the configuration" else {}
    for rule, prefix in (("mean", "image"), ("resize", "classifier")):
        config = internvideo2_config(description["constructor"] | frames, single_frame=rule)
        model = convert_umt_checkpoint(sub_state(tensors), config)
        close(model.internvideo2.embeddings.positions((1, 5, 5)), tensors[f"expected/{prefix}_pos_embed"])
        with torch.no_grad():
            if rule == "mean":
                outputs = model.internvideo2(clip(tensors))
                close(outputs.pooler_output, tensors["expected/image_features"])
                close(outputs.last_hidden_state, tensors["expected/image_last_hidden_state"])
            else:
                close(model(clip(tensors)).logits, tensors["expected/classifier_logits"])


def test_the_initial_table_and_scales_are_as_recorded():
    description, tensors = load_recorded("internvideo2_initial_table")
    frames, rows, columns = description["grid"]
    config = InternVideo2Config(
        num_frames=frames,
        image_size=[14 * rows, 14 * columns],
        hidden_size=description["dim"],
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=512,
        num_aligned_layers=1,
        num_second_layers=1,
    )
    torch.manual_seed(0)
    model = InternVideo2ForPreTraining(config)
    for positions in (model.internvideo2.embeddings.positions, model.aligned_positions):
        close(positions.position_embeddings, tensors["expected/pos_embed"], 1e-6)
    close(model.second_positions.position_embeddings, tensors["expected/pos_embed"][:, 1:], 1e-6)
    for i, layer in enumerate(model.internvideo2.layers):
        assert torch.equal(layer.layer_scale1, torch.full((32,), 1e-5))
        assert layer.mlp.fc1.weight.std().item() == pytest.approx(0.02, rel=0.05)
        assert layer.mlp.fc2.weight.std().item() == pytest.approx(0.02 / (2 * (i + 1)) ** 0.5, rel=0.05)
    projection = model.second_decoders[0].projection  # Xavier
    assert projection.weight.abs().max().item() == pytest.approx((6 / (32 + 1408)) ** 0.5, rel=0.01)
    classifier = InternVideo2ForVideoClassification(config).classifier
    assert classifier.weight.std().item() == pytest.approx(2e-5, rel=0.1)


# --- students -------------------------------------------------------------------------------------------------------


@implementations
@pytest.mark.parametrize("name", ["student", "pretrain"])
def test_students_give_the_recorded_features_losses_and_gradients(name, implementation):
    description, tensors = load_recorded(f"internvideo2_{name}")
    state = sub_state(tensors)
    model = convert_umt_checkpoint(state, internvideo2_config(description["constructor"]))
    assert type(model) is InternVideo2ForPreTraining
    assert model.aligned_layers == description.get("returned_layers", description.get("clip_layers"))
    model.set_attn_implementation(implementation)
    outputs = model(clip(tensors), bool_masked_pos=mask(tensors))
    close(outputs.student_features, tensors["expected/aligned"].transpose(0, 1))
    close(outputs.final_features, tensors["expected/final"])
    encoder = model.internvideo2(clip(tensors), bool_masked_pos=mask(tensors))
    close(encoder.last_hidden_state, tensors["expected/last_hidden_state"])
    assert_back_bit_for_bit(model, state)
    if name == "student":
        assert outputs.loss is None and outputs.second_features is None
        with pytest.raises(ValueError, match="`num_second_layers` is 0"):
            model(clip(tensors), target_second=torch.zeros(2, 1, 128, 1))
        return
    assert model.second_layers == description["mae_layers"]
    close(outputs.second_features, tensors["expected/mae_aligned"].transpose(0, 1))
    targets = {
        "target_features": tensors["input/target_aligned"].transpose(0, 1),
        "target_final": tensors["input/target_final"],
        "target_second": tensors["input/target_mae_aligned"].transpose(0, 1),
    }
    for part, (target, features) in zip(description["loss_parts"], targets.items(), strict=True):
        loss = model(clip(tensors), bool_masked_pos=mask(tensors), **{target: features}).loss
        assert loss.item() == pytest.approx(part, abs=1e-5)
    loss = model(clip(tensors), bool_masked_pos=mask(tensors), **targets).loss
    assert loss.item() == pytest.approx(description["loss"], abs=1e-5)
    loss.backward()
    assert_gradient_norms(model, description["grad_norms"], description["gradient_zero_but_for_rounding"])
    for target, features in targets.items():
        with pytest.raises(ValueError, match=r"must be \(batch"):
            model(clip(tensors), bool_masked_pos=mask(tensors), **{target: features[..., :-1]})


def test_the_parts_of_a_file_that_each_model_uses_are_as_recorded(tmp_path):
    description, tensors = load_recorded("internvideo2_finetune")
    state = sub_state(tensors)
    student = convert_umt_checkpoint(state, internvideo2_config(description["distilled"]))
    student.save_pretrained(tmp_path)
    model, info = InternVideo2ForVideoClassification.from_pretrained(
        tmp_path, num_labels=description["classifier"]["num_classes"], output_loading_info=True
    )
    fresh = {key for key, origin in description["where"].items() if origin == "fresh"}
    assert {key.replace("classifier", "head") for key in info["missing_keys"]} == fresh
    assert not info["unexpected_keys"]
    back = official_state_dict(model)
    assert back.keys() == description["where"].keys()
    assert all(torch.equal(tensor, state[key]) for key, tensor in back.items() if key not in fresh)
    assert state.keys() - back.keys() == set(description["unused"])
    encoder, info = InternVideo2Model.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert_back_bit_for_bit(encoder, {key: t for key, t in back.items() if not key.startswith(("fc_norm", "head"))})


def test_layer_decay_and_weight_decay_are_as_recorded():
    description, _ = load_recorded("internvideo2_layer_decay")
    model = InternVideo2ForVideoClassification(internvideo2_config(description["constructor"], num_labels=5))
    official = {}
    groups = parameter_groups(model, 1.0, 0.05, description["layer_decay"])
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    rules = {
        names[id(parameter)]: (group["lr"], group["weight_decay"] > 0)
        for group in groups
        for parameter in group["params"]
    }
    for key, ours in internvideo2_classification_key_map(model.config).items():
        (official[key],) = {rules[name] for name in ours}
    expected = {key: (factor, decayed) for key, (_, factor, decayed) in description["parameters"].items()}
    assert official == expected


# --- files ----------------------------------------------------------------------------------------------------------


def test_the_video_encoder_of_a_clip_model_gives_the_recorded_vectors():
    """After the projection to the joint space, which is not part of the encoder."""
    description, tensors = load_recorded("internvideo2_clip")
    state = sub_state(tensors)
    config = internvideo2_config(description["vision"])
    with pytest.raises(UnsupportedCheckpointError, match=r'text encoder.*part="video"'):
        convert_umt_checkpoint(state, config)
    model = convert_umt_checkpoint(state, config, part="video")
    assert type(model) is InternVideo2Model
    for name, video in (("video", clip(tensors)), ("image", clip(tensors)[:, :1])):
        with torch.no_grad():
            pooled = model(video).pooler_output
        normed = torch.nn.functional.layer_norm(
            pooled, (24,), state["vision_align.0.weight"], state["vision_align.0.bias"], 1e-5
        )
        embeds = normed @ state["vision_align.1.weight"].T + state["vision_align.1.bias"]
        close(embeds, tensors[f"expected/{name}_embeds"])


@pytest.mark.parametrize("wrapper", ["", "backbone.", "encoder."])
def test_files_with_prefixes_are_converted(wrapper):
    description, tensors = load_recorded("internvideo2_classifier_f8")
    state = sub_state(tensors)
    file = {"module": {f"{wrapper}{key}": tensor for key, tensor in state.items()}}
    assert_back_bit_for_bit(convert_umt_checkpoint(file, internvideo2_config(description["constructor"])), state)


def test_wrong_files_and_configurations_are_refused_by_name():
    description, tensors = load_recorded("internvideo2_classifier_f8")
    state, config = sub_state(tensors), internvideo2_config(description["constructor"])
    with pytest.raises(ValueError, match="one of InternVideo2, but `config` is a UMTConfig"):
        convert_umt_checkpoint(state, UMTConfig())
    with pytest.raises(ValueError, match=r"hidden size 32 was never published.*InternVideo2Config\(hidden_size=32"):
        convert_umt_checkpoint(state)
    with pytest.raises(ValueError, match=r"Missing keys \(1\): blocks.1.ls1.gamma"):
        convert_umt_checkpoint({key: t for key, t in state.items() if key != "blocks.1.ls1.gamma"}, config)
    with pytest.raises(ValueError, match=r"Unexpected keys \(1\): img_pos_embed"):
        convert_umt_checkpoint(state | {"img_pos_embed": torch.zeros(1, 17, 32)}, config)
    with pytest.raises(UnsupportedCheckpointError, match="without the blocks of its encoder"):
        convert_umt_checkpoint({f"vision_encoder.{k}": t for k, t in state.items() if k.startswith("clip_projector")})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_norms_and_layer_scales_compute_in_float32_inside_a_model_of_16_bits(dtype):
    description, tensors = load_recorded("internvideo2_classifier_f8")
    model = convert_umt_checkpoint(sub_state(tensors), internvideo2_config(description["constructor"])).to(dtype)
    layer = model.internvideo2.layers[0]
    states = 300 * torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0)).to(dtype)  # squares overflow
    exact = states.double() * (states.double().square().mean(-1, keepdim=True) + 1e-6).rsqrt()
    assert torch.equal(layer.norm1(states), (exact * layer.norm1.weight.double()).to(dtype))
    scaled = layer.scaled(states, layer.layer_scale1)
    assert torch.equal(scaled, (states.double() * layer.layer_scale1.double()).to(dtype))
    with torch.no_grad():
        logits = model(clip(tensors)).logits
    assert logits.dtype == dtype
    close(logits.float(), tensors["expected/logits"], 0.03 * tensors["expected/logits"].abs().max().item())
