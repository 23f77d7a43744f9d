"""Masked modelling: which tokens are predicted, losses and their errors, initial weights, pixels as targets."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_umt import UMTConfig, UMTForMaskedModeling, UMTForVideoClassification
from modeling_umt.objectives_umt import IMAGENET_MEAN, IMAGENET_STD, masked_prediction_loss, pixel_targets
from modeling_umt.position_embeddings_umt import space_time_position_table
from modeling_umt.token_selection_umt import hidden_indices

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
CLIPS = {"image_size": 32, "num_frames": 4, "tubelet_size": 2, "patch_size": 8}  # 2 x 4 x 4 tokens
TARGETS = {"image": 12, "video": 8}


def make(targets: dict[str, int] = TARGETS, **fields) -> UMTForMaskedModeling:
    torch.manual_seed(0)
    return UMTForMaskedModeling(UMTConfig(**SIZES, **CLIPS, masked_targets=targets, **fields)).eval()


def clips(batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 4, 3, 32, 32, generator=torch.Generator().manual_seed(1))


VISIBLE = torch.tensor([[0, 3, 9, 30], [1, 2, 5, 31]])


def features(tokens: int = 28, **dims) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {name: torch.randn(2, tokens, dim, generator=generator) for name, dim in (dims or TARGETS).items()}


# --- which tokens ---------------------------------------------------------------------------------------------------


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_hidden_indices_are_the_ascending_complement(data):
    num_tokens = data.draw(st.integers(2, 40))
    count = data.draw(st.integers(1, num_tokens - 1))
    rows = [sorted(data.draw(st.permutations(range(num_tokens)))[:count]) for _ in range(2)]
    hidden = hidden_indices(torch.tensor(rows), num_tokens)
    assert hidden.tolist() == [sorted(set(range(num_tokens)) - set(row)) for row in rows]


def test_every_hidden_token_is_predicted_by_default():
    model = make()
    expected = model(clips(), visible_indices=VISIBLE, target_indices=hidden_indices(VISIBLE, 32)).predictions
    actual = model(clips(), visible_indices=VISIBLE).predictions
    assert {name: tensor.shape for name, tensor in actual.items()} == {"image": (2, 28, 12), "video": (2, 28, 8)}
    assert all(torch.equal(actual[name], tensor) for name, tensor in expected.items())


def test_tokens_that_are_neither_visible_nor_predicted_change_nothing():
    model, clip = make({"pixels": 384}), clips()
    targets = torch.tensor([[1, 2, 20], [0, 3, 4]])
    expected = model(clip, visible_indices=VISIBLE, target_indices=targets)
    used = torch.zeros(2, 32).scatter(1, torch.cat([VISIBLE, targets], dim=1), 1.0).view(2, 2, 1, 1, 4, 4).bool()
    used = used.expand(2, 2, 2, 1, 4, 4).flatten(1, 2).repeat_interleave(8, dim=-1).repeat_interleave(8, dim=-2)
    actual = model(torch.where(used, clip, torch.nan), visible_indices=VISIBLE, target_indices=targets)
    assert torch.equal(actual.predictions["pixels"], expected.predictions["pixels"])
    assert torch.equal(actual.loss, expected.loss) and expected.loss.isfinite()


# --- losses ---------------------------------------------------------------------------------------------------------


def test_the_configuration_is_read_at_each_forward():
    model, targets = make(), features()
    plain = model(clips(), visible_indices=VISIBLE, target_features=targets)
    assert plain.loss.item() == pytest.approx(sum(plain.losses.values()).item())
    model.config.masked_target_weights = {"image": 0.5, "video": 2.0}
    model.config.masked_loss, model.config.normalize_targets = "mse", True
    changed = model(clips(), visible_indices=VISIBLE, target_features=targets)
    for name, loss in changed.losses.items():
        normed = torch.nn.functional.layer_norm(targets[name], targets[name].shape[-1:], eps=1e-6)
        torch.testing.assert_close(loss, (changed.predictions[name] - normed).square().mean())
    assert changed.loss.item() == pytest.approx(
        0.5 * changed.losses["image"].item() + 2 * changed.losses["video"].item()
    )


def test_a_target_of_weight_0_is_predicted_and_gets_gradients_of_0():
    model = make(masked_target_weights={"image": 1.0, "video": 0.0})
    model(clips(), visible_indices=VISIBLE, target_features=features()).loss.backward()
    assert all(parameter.grad.abs().max() == 0 for parameter in model.decoders["video"].parameters())
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_losses_are_computed_in_float32():
    prediction, target = torch.randn(2, 3, 4).half(), torch.randn(2, 3, 4).half()
    for kind in ("smooth_l1", "l1", "mse"):
        assert masked_prediction_loss(prediction, target, kind).dtype == torch.float32


def indices(*shape: int, dtype: torch.dtype = torch.int64) -> dict[str, torch.Tensor]:
    return {"target_indices": torch.zeros(shape, dtype=dtype)}


WRONG = {
    "no mask": ({}, "requires a mask; give `bool_masked_pos` or `visible_indices`"),
    "nothing hidden": ({"visible_indices": torch.arange(32).repeat(2, 1)}, "All 32 tokens are visible"),
    "int32": (indices(2, 3, dtype=torch.int32), r"`target_indices` must be int64 .*torch.int32"),
    "another batch": (indices(3, 3), r"\(batch 2, 1 to 32 tokens\).*\(3, 3\)"),
    "no target": (indices(2, 0), r"1 to 32 tokens.*\(2, 0\)"),
    "a feature missing": ({"target_features": features(image=12)}, "features of image, video, but has image"),
    "a feature too many": ({"target_features": features(image=12, video=8, text=4)}, "but has image, video, text"),
    "features of other tokens": ({"target_features": features(27)}, r"\(2, 28, 12\), but is \(2, 27, 12\)"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_inputs_that_do_not_fit_are_refused(wrong):
    inputs, message = WRONG[wrong]
    mask = {} if wrong == "no mask" else {"visible_indices": VISIBLE}
    with pytest.raises(ValueError, match=message):
        make()(clips(), **mask | inputs)


def test_features_for_pixels_are_refused():
    with pytest.raises(ValueError, match=r"features of no teacher, but has pixels\. The target 'pixels' is computed"):
        make({"pixels": 384})(clips(), visible_indices=VISIBLE, target_features=features(pixels=384))


@pytest.mark.parametrize("targets", [None, {"type": 8}], ids=["none", "an attribute of modules"])
def test_targets_that_no_model_can_have_are_refused(targets):
    with pytest.raises(ValueError, match="masked_targets"):
        make(targets)


# --- parts ----------------------------------------------------------------------------------------------------------


def test_decoders_use_the_attention_implementation_of_the_model():
    """Their configuration has other sizes, but a later change of the model's must reach them."""
    model = make(decoder_hidden_size=16, decoder_num_attention_heads=2)
    for implementation in ("eager", "sdpa"):
        model.set_attn_implementation(implementation)
        for decoder in model.decoders.values():
            for layer in decoder.layers:
                assert layer.attention.config._attn_implementation == implementation
                assert (layer.attention.head_dim, layer.attention.q_proj.out_features) == (8, 16)
                assert layer.mlp.fc1.out_features == 64


def test_decoders_have_the_drop_path_rates_of_their_own_depth():
    model = make(drop_path_rate=0.3, decoder_num_hidden_layers=4)
    for decoder in model.decoders.values():
        assert [layer.drop_path_rate for layer in decoder.layers] == pytest.approx([0, 0.1, 0.2, 0.3])


def test_initial_weights_are_those_of_the_official_code():
    for bias in (True, False):
        model = make({"pixels": 384}, decoder_projection_bias=bias, decoder_hidden_size=256, drop_path_rate=0.1)
        decoder = model.decoders["pixels"]
        assert 0.015 < decoder.mask_token.abs().max() <= 0.02
        # Xavier-uniform, or PyTorch's default in the models of pixels
        bound = math.sqrt(6 / (32 + 256)) if bias else 32**-0.5
        assert 0.97 * bound < decoder.projection.weight.abs().max() <= bound
        fused = math.sqrt(6 / (4 * 256))
        assert 0.97 * fused < decoder.layers[0].attention.q_proj.weight.abs().max() <= fused
        assert decoder.head.bias.abs().max() == 0 and torch.equal(decoder.norm.weight, torch.ones(256))


def test_dropout_of_a_classifier_acts_in_training_before_its_last_layer():
    torch.manual_seed(0)
    model = UMTForVideoClassification(UMTConfig(**SIZES, **CLIPS, num_labels=3, classifier_dropout=0.5))
    with torch.no_grad():
        model.classifier.weight.normal_()
        logits = model.eval()(clips()).logits
        torch.testing.assert_close(logits, model.classifier(model.umt(clips()).pooler_output))
        assert not torch.equal(model.train()(clips()).logits, logits)


# --- tables and pixels ----------------------------------------------------------------------------------------------


@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5), st.sampled_from([16, 32, 48]))
@settings(max_examples=30, deadline=None)
def test_a_space_time_table_codes_frame_column_and_row(frames, rows, columns, dim):
    """By its definition, value by value."""
    table = space_time_position_table((frames, rows, columns), dim).view(frames, rows, columns, dim)

    def code(position: int, channels: int) -> list[float]:
        angles = [position * 10000 ** (-k / (channels // 2)) for k in range(channels // 2)]
        return [*map(math.sin, angles), *map(math.cos, angles)]

    for t, row, column in {(0, 0, 0), (frames - 1, 0, columns - 1), (frames // 2, rows - 1, columns // 2)}:
        expected = code(t, dim // 4) + code(column, 3 * dim // 8) + code(row, 3 * dim // 8)
        torch.testing.assert_close(table[t, row, column], torch.tensor(expected), rtol=0, atol=1e-6)


@pytest.mark.parametrize("height, width", [(32, 32), (16, 40)])
def test_pixels_of_a_token_are_ordered_by_frame_row_column_and_colour(height, width):
    config = UMTConfig(**SIZES, **CLIPS)
    raw = torch.rand(2, 4, 3, height, width, generator=torch.Generator().manual_seed(3))
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    targets = pixel_targets((raw - mean) / std, config)
    rows, columns = height // 8, width // 8
    assert targets.shape == (2, 2 * rows * columns, 384)
    values = targets.view(2, 2, rows, columns, 2, 8, 8, 3)
    torch.testing.assert_close(values[1, 1, 1, 2, 1, 5, 6, 2], raw[1, 3, 2, 8 + 5, 16 + 6])
    config.normalize_targets = True
    normed = pixel_targets((raw - mean) / std, config).view(2, -1, 128, 3)
    torch.testing.assert_close(normed.mean(dim=2), torch.zeros_like(normed[:, :, 0]), rtol=0, atol=1e-5)
    torch.testing.assert_close(normed.var(dim=2), torch.ones_like(normed[:, :, 0]), rtol=0, atol=1e-4)


def test_pixels_of_other_than_three_channels_are_refused():
    with pytest.raises(ValueError, match=r"3 colour channels.*these have 4"):
        pixel_targets(torch.zeros(1, 4, 4, 32, 32), UMTConfig(**SIZES, **CLIPS, num_channels=4))
