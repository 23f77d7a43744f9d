"""Tests specific to the UMT encoder and its heads; those of all classes are in `test_battery.py`."""

import copy
import math

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, AutoModelForPreTraining, AutoModelForVideoClassification

from modeling_umt import UMTConfig, UMTForPreTraining, UMTForVideoClassification, UMTModel
from modeling_umt.position_embeddings_umt import position_table
from modeling_umt.transformer_block_umt import drop_path


def tiny(**fields) -> UMTConfig:
    """4 x 4 x 4 tokens."""
    defaults = {"image_size": 64, "num_frames": 4, "position_grid": [2, 3, 3], "num_labels": 5}
    defaults |= {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
    defaults |= {"num_aligned_layers": 2, "target_dim": 24}
    return UMTConfig(**defaults | fields)


def build(model_class, **fields):
    torch.manual_seed(0)
    model = model_class(tiny(**fields)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def clips(batch=2, frames=4, height=64, width=64) -> torch.Tensor:
    return torch.randn(batch, frames, 3, height, width, generator=torch.Generator().manual_seed(0))


def some_visible(batch=2, visible=24, tokens=64) -> torch.Tensor:
    return torch.rand(batch, tokens, generator=torch.Generator().manual_seed(1)).topk(visible).indices.sort().values


# --- tokens ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model_class", [UMTModel, UMTForPreTraining])
@pytest.mark.parametrize("form", ["visible_indices", "bool_masked_pos"])
def test_patches_of_hidden_tokens_are_never_projected(model_class, form):
    model = build(model_class)
    seen = []
    encoder = model if model_class is UMTModel else model.umt
    encoder.embeddings.patch_embeddings.register_forward_hook(lambda module, args, output: seen.append(args[0]))
    visible = some_visible()
    mask = torch.ones(2, 64, dtype=torch.bool).scatter(1, visible, False) if form == "bool_masked_pos" else visible
    clip = clips()
    model(clip, **{form: mask})
    assert [tuple(patches.shape) for patches in seen] == [(2, 24, 3 * 16 * 16)]
    # a patch is its channels, rows and columns of pixels, at the position that its index gives
    for sample, i in ((0, 0), (1, 11), (1, 23)):
        frame, cell = divmod(visible[sample, i].item(), 16)
        row, column = divmod(cell, 4)
        patch = clip[sample, frame, :, 16 * row : 16 * (row + 1), 16 * column : 16 * (column + 1)]
        assert torch.equal(seen[0][sample, i], patch.flatten())


def test_the_order_of_indices_is_the_order_of_tokens():
    model = build(UMTModel)
    visible = some_visible()
    shuffled = visible[:, torch.randperm(24, generator=torch.Generator().manual_seed(2))]
    with torch.no_grad():
        actual, expected = model(clips(), visible_indices=shuffled), model(clips(), visible_indices=visible)
    assert not torch.equal(shuffled, visible)
    order = shuffled.argsort(dim=1)[..., None].expand(-1, -1, 32)
    torch.testing.assert_close(actual.last_hidden_state.gather(1, order), expected.last_hidden_state)


@pytest.mark.parametrize("frames, height, width, tubelet", [(4, 64, 64, 1), (2, 32, 96, 1), (6, 48, 32, 2)])
def test_feature_map(frames, height, width, tubelet):
    model = build(UMTModel, tubelet_size=tubelet)
    clip = clips(frames=frames, height=height, width=width)
    with torch.no_grad():
        features, tokens = model.get_feature_map(clip), model(clip).last_hidden_state
    grid = frames // tubelet, height // 16, width // 16
    assert features.shape == (2, *grid, 32)
    for frame, row, column in ((0, 0, 1), (1, 1, 0), tuple(length - 1 for length in grid)):
        token = (frame * grid[1] + row) * grid[2] + column
        assert torch.equal(features[:, frame, row, column], tokens[:, token])
    with pytest.raises(ValueError, match="multiples of the `patch_size`"):
        model.get_feature_map(clips(height=60))
    model.config.return_dict = False
    with torch.no_grad():
        assert torch.equal(model.get_feature_map(clip), features)


def test_the_last_norm_is_applied_to_the_tokens_or_to_their_mean():
    for final_norm in ("tokens", "pooled"):
        model = build(UMTModel, final_norm=final_norm)
        with torch.no_grad():
            outputs = model(clips(), output_hidden_states=True)
            embeddings, _ = model.embeddings(clips())
            last = outputs.hidden_states[-1]
            if final_norm == "tokens":
                assert torch.equal(outputs.last_hidden_state, model.norm(last))
                assert torch.equal(outputs.pooler_output, outputs.last_hidden_state.mean(dim=1))
            else:
                assert torch.equal(outputs.last_hidden_state, last)
                assert torch.equal(outputs.pooler_output, model.fc_norm(last.mean(dim=1)))
        assert torch.equal(outputs.hidden_states[0], embeddings)


def test_heads_set_final_norm_and_do_not_change_the_callers_configuration():
    config = tiny(final_norm="pooled")
    assert UMTForPreTraining(config).config.final_norm == "tokens" and config.final_norm == "pooled"
    config = tiny(final_norm="tokens")
    assert UMTForVideoClassification(config).config.final_norm == "pooled" and config.final_norm == "tokens"


# --- stochastic depth -----------------------------------------------------------------------------------------------


def test_drop_path_zeroes_complete_samples_and_keeps_the_mean():
    torch.manual_seed(0)
    branch = torch.rand(4000, 3, 2) + 1
    dropped = drop_path(branch, 0.25)
    kept = dropped[:, 0, 0] != 0
    assert torch.equal(dropped[~kept], torch.zeros_like(dropped[~kept]))
    torch.testing.assert_close(dropped[kept], branch[kept] / 0.75)
    assert 0.72 < kept.float().mean() < 0.78


def test_drop_path_grows_linearly_from_zero_and_branches_drop_independently(monkeypatch):
    model = build(UMTModel, num_hidden_layers=5, drop_path_rate=0.4).train()
    assert [layer.drop_path_rate for layer in model.layers] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    rates = []
    function = "modeling_umt.transformer_block_umt.drop_path"
    monkeypatch.setattr(function, lambda branch, rate: rates.append(rate) or branch)
    model(clips())
    assert rates == pytest.approx([0.1, 0.1, 0.2, 0.2, 0.3, 0.3, 0.4, 0.4])


# --- weights --------------------------------------------------------------------------------------------------------


def test_initial_weights_follow_the_official_code():
    torch.manual_seed(0)
    dim, mlp = 192, 768
    fields = {"hidden_size": dim, "intermediate_size": mlp, "num_attention_heads": 3, "num_hidden_layers": 2}
    student, classifier = UMTForPreTraining(tiny(**fields)), UMTForVideoClassification(tiny(**fields))

    layer = student.umt.layers[0]
    bounds = {"attention.q_proj": math.sqrt(6 / (4 * dim)), "attention.o_proj": math.sqrt(6 / (2 * dim))}
    bounds |= {"attention.k_proj": bounds["attention.q_proj"], "mlp.fc1": math.sqrt(6 / (dim + mlp))}
    for name, bound in bounds.items():
        largest = layer.get_submodule(name).weight.abs().max().item()
        assert 0.99 * bound < largest <= bound, name
    for linear in (classifier.umt.layers[1].mlp.fc1, classifier.umt.layers[1].attention.v_proj):
        assert linear.weight.std().item() == pytest.approx(0.02, rel=0.05) and not linear.bias.any()
    for model in (student, classifier):
        patches = model.umt.embeddings.patch_embeddings
        assert 0.99 < patches.weight.abs().max() * math.sqrt(768) <= 1 and patches.bias.any()
        assert all(torch.equal(layer.norm1.weight, torch.ones(dim)) for layer in model.umt.layers)
    assert 1e-5 < classifier.classifier.weight.std() < 3e-5 and not classifier.classifier.bias.any()


def test_every_repository_contains_an_encoder_and_fresh_weights_are_reported(tmp_path):
    for model_class, fresh in (
        (UMTForVideoClassification, {"norm.weight", "norm.bias"}),
        (UMTForPreTraining, {"fc_norm.weight", "fc_norm.bias"}),
    ):
        model = build(model_class)
        folder = tmp_path / model_class.__name__
        model.save_pretrained(folder)
        encoder, info = AutoModel.from_pretrained(folder, output_loading_info=True)
        assert type(encoder) is UMTModel and not any(info.values()), info
        with torch.no_grad():
            expected = model.umt(clips()).pooler_output
            assert torch.equal(encoder(clips()).pooler_output, expected)
        other = "tokens" if model.config.final_norm == "pooled" else "pooled"
        _, info = UMTModel.from_pretrained(folder, final_norm=other, output_loading_info=True)
        assert set(info["missing_keys"]) == fresh


def test_a_classifier_takes_another_number_of_classes_only_on_request(tmp_path):
    build(UMTForVideoClassification).save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match="mismatched"):
        UMTForVideoClassification.from_pretrained(tmp_path, num_labels=7)
    model, info = UMTForVideoClassification.from_pretrained(
        tmp_path, num_labels=7, ignore_mismatched_sizes=True, output_loading_info=True
    )
    assert {entry[0] for entry in info["mismatched_keys"]} == {"classifier.weight", "classifier.bias"}
    assert model(clips()).logits.shape == (2, 7) and not model.classifier.bias.any()


def test_auto_classes(tmp_path):
    config = tiny()
    assert type(AutoModel.from_config(config)) is UMTModel
    assert type(AutoModelForVideoClassification.from_config(config)) is UMTForVideoClassification
    assert type(AutoModelForPreTraining.from_config(config)) is UMTForPreTraining
    UMTModel(config).save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is UMTConfig


def test_the_position_table_is_not_a_weight():
    model = build(UMTForVideoClassification)
    assert not [name for name in model.state_dict() if "position" in name]
    table = position_table((4, 4, 4), 32, [2, 3, 3])
    assert torch.equal(model.umt.embeddings.position_embeddings, table)
    embeddings = copy.deepcopy(model.umt.embeddings).requires_grad_(True)
    assert not embeddings.position_embeddings.requires_grad


def test_a_configuration_that_is_changed_later_does_not_change_the_positions():
    """The transposed grid has as many tokens as the table that the model stores."""
    model = build(UMTModel, image_size=[64, 32])
    clip = torch.randn(1, 4, 3, 32, 64)
    with torch.no_grad():
        expected = model(clip).pooler_output
        model.config.image_size = [32, 64]
        assert torch.equal(model(clip).pooler_output, expected)


# --- losses ---------------------------------------------------------------------------------------------------------


def test_classification_loss_is_cross_entropy():
    model = build(UMTForVideoClassification)
    labels = torch.tensor([3, 1])
    with torch.no_grad():
        outputs = model(clips(), labels=labels)
        assert torch.equal(outputs.logits, model(clips()).logits) and model(clips()).loss is None
    torch.testing.assert_close(outputs.loss, F.cross_entropy(outputs.logits, labels))


@pytest.mark.parametrize("kind, norm", [("l2", "l2"), ("mse", "none"), ("smooth_l1", "none")])
def test_the_distance_to_a_students_own_features_is_zero(kind, norm):
    model = build(UMTForPreTraining, alignment_loss=kind, target_norm=norm)
    inputs = {"pixel_values_videos": clips(), "visible_indices": some_visible()}
    with torch.no_grad():
        own = model(**inputs)
        assert own.loss is None
        lengths = own.student_features.norm(dim=-1)
        assert torch.allclose(lengths, torch.ones_like(lengths)) == (norm == "l2")
        assert model(**inputs, target_features=own.student_features).loss.abs() < 1e-6
        assert model(**inputs, target_features=-own.student_features).loss > 0.1


def test_targets_of_another_shape_are_refused():
    model = build(UMTForPreTraining)
    targets = torch.randn(2, 2, 64, 24)
    with pytest.raises(ValueError, match=r"\(2, 2, 24, 24\) cannot be aligned with .* \(2, 2, 64, 24\)"):
        model(clips(), visible_indices=some_visible(), target_features=targets)
