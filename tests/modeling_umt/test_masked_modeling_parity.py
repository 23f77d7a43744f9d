"""Values recorded from the official code of MVD, VideoMAE and EVEREST: students, losses, gradients, teachers,
classifiers. Recorded clips are (batch, channels, frames, height, width)."""

import pytest
import torch
from recorded import load_recorded
from recorded_models import masked_student_config, pixel_model_config, sub_state

from modeling_umt import UMTConfig, UMTForMaskedModeling, UMTForVideoClassification, UMTModel, convert_umt_checkpoint
from modeling_umt.convert_umt_checkpoints import official_state_dict
from modeling_umt.objectives_umt import pixel_targets
from modeling_umt.official_masked_modeling_umt import mvd_key_map, videomae_key_map

ENDINGS = {"image": "img", "video": "vid"}


def close(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


def clip(tensors: dict) -> torch.Tensor:
    return tensors["input/video"].transpose(1, 2)


def encoder_config(recorded: dict, **fields) -> UMTConfig:
    """Of a classifier or a VideoMAE encoder."""
    dim, depth, heads = (
        next(recorded[key] for key in (name, f"encoder_{name}") if key in recorded)
        for name in ("embed_dim", "depth", "num_heads")
    )
    sizes = {
        "hidden_size": dim,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "intermediate_size": 4 * dim,
    }
    clips = {"image_size": recorded["img_size"], "patch_size": recorded["patch_size"], "tubelet_size": 2}
    return UMTConfig(**sizes, **clips, num_frames=recorded.get("all_frames", 16), **fields)


def assert_back_bit_for_bit(model, state: dict, left_out: tuple[str, ...] = ()) -> None:
    back = official_state_dict(model)
    assert back.keys() == {key for key in state if not key.startswith(left_out)}
    assert all(torch.equal(tensor, state[key]) for key, tensor in back.items())


def assert_gradient_norms(model, key_map: dict, expected: dict) -> None:
    """Of official parameters, some of which are several of ours."""
    parameters = dict(model.named_parameters())
    for name, norm in expected.items():
        gradients = torch.cat([parameters[key].grad.flatten() for key in key_map[name]])
        assert gradients.norm().item() == pytest.approx(norm, rel=1e-4, abs=1e-12), name
    assert key_map.keys() == expected.keys()


# --- students of MVD ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("name", ["mvd_student", "mvd_student_depth4", "mvd_student_8x14x14"])
def test_students_predict_as_recorded(name, implementation):
    description, tensors = load_recorded(name)
    state = sub_state(tensors)
    model = convert_umt_checkpoint(state, masked_student_config(description["constructor"]))
    assert type(model) is UMTForMaskedModeling
    model.set_attn_implementation(implementation)
    decoder_inputs = []
    model.decoders["image"].layers[0].register_forward_pre_hook(
        lambda module, inputs: decoder_inputs.append(inputs[0])
    )
    with torch.no_grad():
        outputs = model(clip(tensors), bool_masked_pos=tensors["input/mask"])
        encoder = model.umt(clip(tensors), bool_masked_pos=tensors["input/mask"]).last_hidden_state
    close(encoder, tensors["expected/encoder"])
    if "expected/decoder_input_img" in tensors:
        close(decoder_inputs[0], tensors["expected/decoder_input_img"])
    for target, ending in ENDINGS.items():
        close(outputs.predictions[target], tensors[f"expected/output_{ending}"])
        table = model.decoders[target].position_embeddings[None]
        close(table, tensors[f"state/pos_embed_{ending}"], 1e-6)
    close(model.umt.embeddings.position_embeddings[None], tensors["state/pos_embed"], 1e-6)
    assert_back_bit_for_bit(model, state, left_out=("pos_embed",))


LOSSES = {"SmoothL1": "smooth_l1", "L1": "l1", "L2": "mse"}


@pytest.mark.parametrize("name", ["mvd_loss", "mvd_loss_two_sizes"])
def test_losses_and_gradients_of_every_switch_are_as_recorded(name):
    description, tensors = load_recorded(name)
    state = sub_state(tensors, "state/student.")
    targets = {target: tensors[f"expected/targets_{ending}"] for target, ending in ENDINGS.items()}
    runs = 0
    for run in description["runs"]:
        settings = run["settings"]
        if settings["distill_loss_func"] != settings["video_distill_loss_func"]:
            continue  # no recipe has two different losses
        config = masked_student_config(
            description["student"],
            masked_loss=LOSSES[settings["distill_loss_func"]],
            normalize_targets=settings["norm_feature"],
            masked_target_weights={name: settings[f"{name}_teacher_loss_weight"] for name in ENDINGS},
        )
        model = convert_umt_checkpoint(state, config)
        outputs = model(clip(tensors), bool_masked_pos=tensors["input/mask"], target_features=targets)
        assert outputs.loss.item() == pytest.approx(run["loss"], abs=1e-5)
        for target, ending in ENDINGS.items():
            assert outputs.losses[target].item() == pytest.approx(run[f"loss_{ending}_feat"], abs=1e-5)
            close(outputs.predictions[target], tensors[f"expected/output_{ending}"])
        outputs.loss.backward()
        assert_gradient_norms(model, mvd_key_map(config), run["grad_norms"])
        runs += 1
    assert runs == {"mvd_loss": 7, "mvd_loss_two_sizes": 1}[name]


def test_a_stored_table_of_a_student_must_be_the_computed_one():
    description, tensors = load_recorded("mvd_student_depth4")
    config = masked_student_config(description["constructor"])
    for key in ("pos_embed", "pos_embed_img", "pos_embed_vid"):
        state = sub_state(tensors)
        state[key] = state[key] + 1e-3
        with pytest.raises(
            ValueError, match=f"'{key}' .* is not the position table computed for 6 frames of 48 pixels"
        ):
            convert_umt_checkpoint(state, config)
    without = {key: tensor for key, tensor in sub_state(tensors).items() if not key.startswith("pos_embed")}
    assert type(convert_umt_checkpoint(without, config)) is UMTForMaskedModeling


# --- fine-tuning ----------------------------------------------------------------------------------------------------


def test_a_classifier_of_mvd_predicts_as_recorded():
    description, tensors = load_recorded("mvd_classifier")
    state = sub_state(tensors)
    model = convert_umt_checkpoint(state, encoder_config(description["constructor"], position_type="space_time"))
    with torch.no_grad():
        close(model.umt(clip(tensors)).pooler_output, tensors["expected/features"])
        close(model(clip(tensors)).logits, tensors["expected/logits"])
    close(model.umt.embeddings.position_embeddings[None], tensors["expected/pos_embed"], 1e-6)
    assert_back_bit_for_bit(model, state)


def test_a_student_becomes_the_recorded_classifier(tmp_path):
    """With the recorded head, the decoders and the last norm dropped, and a fresh norm of the mean."""
    description, tensors = load_recorded("mvd_student_to_classifier")
    students = {key: t for key, t in sub_state(tensors).items() if not key.startswith("init.")}
    student = convert_umt_checkpoint(
        {key.removeprefix("student."): t for key, t in students.items()}, masked_student_config(description["student"])
    )
    student.save_pretrained(tmp_path)
    model, info = UMTForVideoClassification.from_pretrained(tmp_path, num_labels=6, output_loading_info=True)
    fresh = {"umt.fc_norm.weight", "umt.fc_norm.bias", "classifier.weight", "classifier.bias"}
    assert set(info["missing_keys"]) == fresh and not info["unexpected_keys"]
    config = model.config
    assert (config.position_type, config.position_grid, config.final_norm) == ("space_time", None, "pooled")
    assert torch.equal(model.umt.fc_norm.weight, torch.ones(32)) and torch.equal(
        model.umt.fc_norm.bias, torch.zeros(32)
    )
    initial = sub_state(tensors, "state/init.")
    with torch.no_grad():
        model.classifier.weight.copy_(initial["head.weight"])
        model.classifier.bias.copy_(initial["head.bias"])
        model.umt.fc_norm.weight.copy_(initial["fc_norm.weight"])
        model.umt.fc_norm.bias.copy_(initial["fc_norm.bias"])
        close(model(clip(tensors)).logits, tensors["expected/logits"])
        close(model.umt(clip(tensors)).pooler_output, tensors["expected/features"])


# --- teachers -------------------------------------------------------------------------------------------------------


def test_a_videomae_encoder_gives_the_recorded_targets():
    description, tensors = load_recorded("mvd_video_teacher")
    state, config = sub_state(tensors), encoder_config(description["constructor"])
    decoder = {"encoder_to_decoder.weight": torch.zeros(8, 32), "mask_token": torch.zeros(1, 1, 8)}
    decoder |= {"decoder.norm.weight": torch.zeros(8), "decoder.head.weight": torch.zeros(384, 8)}
    for file, part in ((state, "all"), (state, "video"), (state | decoder, "all"), (state | decoder, "video")):
        model = convert_umt_checkpoint(file, config, part=part)
        assert type(model) is UMTModel
        assert (model.config.final_norm, model.config.position_type, model.config.position_grid) == (
            "none",
            "flat",
            None,
        )
        with torch.no_grad():
            close(model(clip(tensors)).last_hidden_state, tensors["expected/targets"])
        assert_back_bit_for_bit(model, file, left_out=("encoder.norm.", *decoder))
    normed = torch.nn.functional.layer_norm(tensors["expected/targets"], (32,), eps=1e-6)
    close(normed, tensors["expected/targets_normed"])


def test_what_the_loader_of_a_video_teacher_ignores_is_left_out():
    recorded = load_recorded("mvd_teacher_files")[0]["video"]
    torch.manual_seed(0)
    config = encoder_config(recorded["constructor"], final_norm="none", position_grid=None)
    state = official_state_dict(UMTModel(config))
    file = state | {key: torch.zeros(1) for key in recorded["ignored_keys"]}
    assert_back_bit_for_bit(convert_umt_checkpoint(file, config), state)


# --- pixels ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["everest_pretrain", "everest_pretrain_grid14", "everest_pretrain_tube"])
def test_models_of_pixels_reconstruct_as_recorded(name):
    """Only some of the hidden tokens are targets where the others were dropped."""
    description, tensors = load_recorded(name)
    config = pixel_model_config(description["constructor"])
    state = sub_state(tensors)
    model = convert_umt_checkpoint(state, config)
    tolerance = description["tolerance"]["targets_abs"]
    if "expected/encoder_ids" in tensors:
        target_indices = tensors["expected/target_ids"]
        mask = {"visible_indices": tensors["expected/encoder_ids"], "target_indices": target_indices}
    else:
        target_indices = tensors["input/mask"].nonzero()[:, 1].view(len(tensors["input/mask"]), -1)
        mask = {"bool_masked_pos": tensors["input/mask"]}
    outputs = model(clip(tensors), **mask)
    assert outputs.loss.item() == pytest.approx(description["loss"], abs=1e-5)
    for key, expected in tensors.items():  # some files contain the first tokens only
        if key.startswith("expected/predictions") and "mean" not in key:
            close(outputs.predictions["pixels"][:, : expected.shape[1]], expected)
        if key.startswith("expected/targets") and "mean" not in key:
            model.config.normalize_targets = "raw" not in key
            pixels = pixel_targets(clip(tensors), model.config)
            rows = pixels[torch.arange(len(pixels))[:, None], target_indices]
            close(rows[:, : expected.shape[1]], expected, tolerance)
    model.config.normalize_targets = True
    outputs.loss.backward()
    norms = {key: norm for key, norm in description["grad_norms"].items() if norm is not None}
    assert_gradient_norms(model, videomae_key_map(model.config), norms)
    model.config.normalize_targets = False
    assert model(clip(tensors), **mask).loss.item() == pytest.approx(description["loss_raw"], abs=1e-5)
    assert_back_bit_for_bit(model, state)
