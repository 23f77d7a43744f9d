"""Values recorded from the official code: encoder, classifier, student, alignment loss and its gradients.

The converter creates every model from a state dict in the official layout. Recorded clips are (batch, channels,
frames, height, width), recorded layers are K-first.
"""

import pytest
import torch
from recorded import load_recorded
from recorded_models import encoder_sizes, fold_layer_scale, student_config, sub_state

from modeling_umt import UMTConfig, UMTForPreTraining, UMTForVideoClassification, UMTModel, convert_umt_checkpoint
from modeling_umt.convert_umt_checkpoints import official_state_dict
from modeling_umt.objectives_umt import unmasked_token_alignment_loss
from modeling_umt.position_embeddings_umt import position_table, resize_position_table, sincos_position_table

TOLERANCE = {"rtol": 0, "atol": 1e-5}
IMPLEMENTATIONS = ("eager", "sdpa")


def classifier_config(recorded: dict, **fields) -> UMTConfig:
    return UMTConfig(
        **encoder_sizes(recorded),
        num_frames=recorded["all_frames"],
        tubelet_size=recorded["tubelet_size"],
        **fields,
    )


# --- position tables ------------------------------------------------------------------------------------------------


def test_flat_position_table_has_the_golden_values():
    table = sincos_position_table(1568, 768)
    assert table.dtype == torch.float32 and table.shape == (1568, 768)
    assert table.double().sum().item() == pytest.approx(245744.98956693, abs=1e-3)
    assert table.double().square().sum().item() == pytest.approx(602112.0, abs=1e-2)
    for row, first in {
        0: [0.0, 1.0, 0.0, 1.0],
        1: [0.8414710, 0.5403023, 0.8284308, 0.5600915, 0.8152506, 0.5791082],
        196: [0.9395301, 0.3424664, 0.2785965, -0.9604082, -0.9944890, -0.1048408],
        1567: [0.6089484, -0.7932099, 0.0932316, -0.9956445, -0.9753188, -0.2208011],
    }.items():
        torch.testing.assert_close(table[row, : len(first)], torch.tensor(first), rtol=0, atol=1e-6)
    torch.testing.assert_close(table[1567, -2:], torch.tensor([0.1598157, 0.9871469]), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "grid, dim, total, rows",
    [
        ((16, 14, 14), 768, 491489.97914194, {196: [0.2348825, 0.8356166, 0.0696491, 0.5098979]}),
        ((16, 14, 14), 1024, 655818.41325695, {196: [0.2348825, 0.8356166, -0.1908464, 0.5885143]}),
        (
            (8, 24, 24),
            768,
            722143.84216415,
            {
                0: [-0.1907441, 1.1253662, -0.1765982, 1.0919721],
                196: [0.7767524, -0.6355798, 0.6899475, 0.7682900],
            },
        ),
    ],
    ids=["b16-f16", "l16-f16", "b16-384px"],
)
def test_resized_position_tables_have_the_golden_values(grid, dim, total, rows):
    table = position_table(grid, dim, [8, 14, 14])
    assert table.shape == (grid[0] * grid[1] * grid[2], dim)
    assert table.double().sum().item() == pytest.approx(total, abs=1e-2)
    for row, first in rows.items():
        torch.testing.assert_close(table[row, :4], torch.tensor(first), rtol=0, atol=2e-6)


def test_time_is_resized_linearly_with_half_pixel_centres():
    frames = sincos_position_table(8 * 6, 10).view(8, 6, 10)
    doubled = resize_position_table(frames.flatten(0, 1), (8, 2, 3), (16, 2, 3)).view(16, 6, 10)
    halved = resize_position_table(frames.flatten(0, 1), (8, 2, 3), (4, 2, 3)).view(4, 6, 10)
    torch.testing.assert_close(doubled[0], frames[0])
    torch.testing.assert_close(doubled[1], 0.75 * frames[0] + 0.25 * frames[1])
    torch.testing.assert_close(doubled[2], 0.25 * frames[0] + 0.75 * frames[1])
    torch.testing.assert_close(halved, (frames[0::2] + frames[1::2]) / 2)


def test_without_a_position_grid_a_clip_is_coded_from_frame_0_on():
    # stage 2: 12 frames share the codes of the first 4 and of an image
    long, short = position_table((12, 14, 14), 24, None), position_table((4, 14, 14), 24, None)
    assert torch.equal(long, sincos_position_table(12 * 196, 24)) and torch.equal(long[: 4 * 196], short)


# --- classifiers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    "name", ["classifier_f8_224", "classifier_f16_224", "classifier_f8_288", "classifier_tubelet2_f16_224"]
)
def test_classifier(name, implementation):
    recorded, tensors = load_recorded(name)
    model = convert_umt_checkpoint(sub_state(tensors, "state/"), classifier_config(recorded["constructor"]))
    assert type(model) is UMTForVideoClassification and not model.training
    model.set_attn_implementation(implementation)
    clip = tensors["input/video"].transpose(1, 2)
    with torch.no_grad():
        torch.testing.assert_close(model.umt(clip).pooler_output, tensors["expected/features"], **TOLERANCE)
        torch.testing.assert_close(model(clip).logits, tensors["expected/logits"], **TOLERANCE)
    table = tensors.get("expected/pos_embed_table", tensors.get("state/pos_embed"))
    torch.testing.assert_close(model.umt.embeddings.position_embeddings[None], table, **TOLERANCE)


def test_one_model_takes_clips_of_all_sizes():
    """The 8-frame weights on other clips give the result of a model created for those clips."""
    recorded, tensors = load_recorded("classifier_f8_224")
    model = convert_umt_checkpoint(sub_state(tensors, "state/"), classifier_config(recorded["constructor"]))
    for name in ("classifier_f16_224", "classifier_f8_288"):
        other, others = load_recorded(name)
        sizes = {key: other["constructor"][key] for key in ("img_size", "all_frames")}
        specialised = convert_umt_checkpoint(
            sub_state(tensors, "state/"), classifier_config({**recorded["constructor"], **sizes})
        )
        clip = others["input/video"].transpose(1, 2)
        with torch.no_grad():
            torch.testing.assert_close(model(clip).logits, specialised(clip).logits, **TOLERANCE)


# --- stage 1 --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", ["stage1_student_224", "stage1_student_k3"])
def test_stage1_student(name, implementation):
    recorded, tensors = load_recorded(name)
    model = convert_umt_checkpoint(sub_state(tensors, "state/"), student_config(recorded["constructor"]))
    assert type(model) is UMTForPreTraining and not model.training
    assert model.aligned_layers == sorted(recorded["return_index"])
    model.set_attn_implementation(implementation)
    inputs = {"pixel_values_videos": tensors["input/video"].transpose(1, 2), "bool_masked_pos": tensors["input/mask"]}
    with torch.no_grad():
        outputs = model(**inputs, output_hidden_states=True)
        encoded = model.umt(**inputs)
        layers = torch.stack([model.umt.norm(outputs.hidden_states[1 + depth]) for depth in model.aligned_layers])
    torch.testing.assert_close(layers, tensors["expected/encoder_layers"], **TOLERANCE)
    torch.testing.assert_close(encoded.last_hidden_state, tensors["expected/encoder_visible"], **TOLERANCE)
    torch.testing.assert_close(outputs.student_features.transpose(0, 1), tensors["expected/output"], **TOLERANCE)
    if "expected/clip_pos_embed" in tensors:
        table = model.umt.embeddings.position_embeddings[None]
        torch.testing.assert_close(table, tensors["expected/clip_pos_embed"], **TOLERANCE)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", ["stage1_loss_l2", "stage1_loss_mse", "stage1_loss_smooth_l1"])
def test_stage1_loss_and_gradients_with_the_recorded_teacher(name, implementation):
    recorded, tensors = load_recorded(name)
    state = sub_state(tensors, "state/student.")
    config = student_config(recorded["student"], alignment_loss=recorded["clip_loss_type"])
    model = convert_umt_checkpoint(fold_layer_scale(state), config).train()
    model.set_attn_implementation(implementation)
    outputs = model(
        tensors["input/video"].transpose(1, 2),
        bool_masked_pos=tensors["expected/mask"],
        target_features=tensors["expected/teacher_targets"].transpose(0, 1),
    )
    features = outputs.student_features.transpose(0, 1)
    torch.testing.assert_close(features, tensors["expected/student_output"], **TOLERANCE)
    loss = recorded["clip_loss_ratio"] * outputs.loss
    torch.testing.assert_close(loss, tensors["expected/loss"][0], **TOLERANCE)

    loss.backward()
    for parameter in model.parameters():
        parameter.data = parameter.grad
    gradients = official_state_dict(model)
    folded = {f"{k.rsplit('.', 1)[0]}.{n}." for k in state if "gamma_" in k for n in ("attn.proj", "mlp.fc2")}
    keys = [key for key in gradients if not key.startswith(tuple(folded))]
    assert keys and set(keys) <= recorded["grad_norms"].keys()
    for key in keys:
        assert gradients[key].norm().item() == pytest.approx(recorded["grad_norms"][key], rel=1e-4), key
        if f"expected/grad/{key}" in tensors:
            torch.testing.assert_close(gradients[key], tensors[f"expected/grad/{key}"], **TOLERANCE)


@pytest.mark.parametrize("name", ["stage1_loss_l2", "stage1_loss_mse", "stage1_loss_smooth_l1"])
def test_alignment_loss_of_recorded_features(name):
    recorded, tensors = load_recorded(name)
    student = tensors["expected/student_output"].transpose(0, 1)
    teacher = tensors["expected/teacher_targets"].transpose(0, 1)
    loss = unmasked_token_alignment_loss(student, teacher, recorded["clip_loss_type"])
    torch.testing.assert_close(recorded["clip_loss_ratio"] * loss, tensors["expected/loss"][0], **TOLERANCE)


# --- initialisation from another kind of checkpoint -----------------------------------------------------------------


def test_stage1_repository_becomes_a_classifier(tmp_path):
    recorded, tensors = load_recorded("checkpoint_stage1_to_classifier")
    state = {k: t for k, t in sub_state(tensors, "state/").items() if not k.startswith("init.")}
    student = convert_umt_checkpoint(state, student_config(recorded["student"]))
    assert list(student.config.position_grid) == [4, 4, 4]
    student.save_pretrained(tmp_path)

    # the official classifier resizes the table of 8 x 14 x 14 tokens; at the published size both tables are the same
    fields = {"num_labels": recorded["classifier"]["num_classes"], "position_grid": [8, 14, 14]}
    model, info = UMTForVideoClassification.from_pretrained(tmp_path, output_loading_info=True, **fields)
    fresh = {"umt.fc_norm.weight", "umt.fc_norm.bias", "classifier.weight", "classifier.bias"}
    assert set(info.pop("missing_keys")) == fresh
    assert not any(info.values()), info
    assert model.config.final_norm == "pooled" and not hasattr(model.umt, "norm")
    loaded = student.umt.state_dict()
    for name, tensor in model.umt.state_dict().items():
        if not name.startswith("fc_norm."):
            assert torch.equal(tensor, loaded[name]), name
    assert torch.equal(model.umt.fc_norm.weight, torch.ones(32)) and not model.umt.fc_norm.bias.any()
    assert not model.classifier.bias.any() and 0 < model.classifier.weight.std() < 1e-4

    table = model.umt.embeddings.position_embeddings[None]
    torch.testing.assert_close(table, tensors["expected/pos_embed"], **TOLERANCE)
    model.umt.fc_norm.load_state_dict(sub_state(tensors, "state/init.fc_norm."))
    model.classifier.load_state_dict(sub_state(tensors, "state/init.head."))
    with torch.no_grad():
        logits = model(tensors["input/video"].transpose(1, 2)).logits
    torch.testing.assert_close(logits, tensors["expected/logits"], **TOLERANCE)

    encoder, info = UMTModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["mismatched_keys"]
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in encoder.state_dict().items())


def test_interpolated_checkpoint():
    """The official loader keeps a stored table and resizes it. We refuse a table that is not the computed one (here it
    was overwritten by random values); resizing and logits are the same."""
    recorded, tensors = load_recorded("checkpoint_interpolate")
    state = sub_state(tensors, "state/")
    source = classifier_config(recorded["common"] | recorded["source"])
    with pytest.raises(ValueError, match=r"'pos_embed' of shape \(1, 128, 24\) is not the position table"):
        convert_umt_checkpoint(state, source)
    table = state.pop("pos_embed")
    resized = resize_position_table(table[0], (8, 4, 4), (16, 6, 6))
    torch.testing.assert_close(resized[None], tensors["expected/pos_embed"], **TOLERANCE)

    model = convert_umt_checkpoint(state, source)
    assert torch.equal(model.classifier.weight[:400], tensors["expected/head_weight"])
    model.umt.embeddings.make_position_table = lambda grid, device=None: resized
    with torch.no_grad():
        logits = model(tensors["input/video"].transpose(1, 2)).logits[:, :400]
    torch.testing.assert_close(logits, tensors["expected/logits"], **TOLERANCE)
