"""The image teacher of masked modelling: recorded values, official files, Transformers' MAE. The battery has a row for
`UMTImageTeacherModel`."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded import load_recorded
from recorded_models import encoder_sizes, sub_state
from transformers import AutoModel, ViTConfig, ViTMAEConfig, ViTMAEForPreTraining, ViTMAEModel, ViTModel
from transformers import logging as transformers_logging

from modeling_umt import (
    UMTImageTeacherConfig,
    UMTImageTeacherModel,
    convert_umt_checkpoint,
    image_teacher_from_vit_mae,
)
from modeling_umt.convert_umt_checkpoints import official_state_dict
from modeling_umt.position_embeddings_umt import plane_position_table
from umt_training.cli import main

TOLERANCE = {"rtol": 0, "atol": 1e-5}
UNUSED = ("pos_embed", "norm.weight", "norm.bias")


def recorded_teacher(name: str) -> tuple[UMTImageTeacherConfig, dict, dict]:
    """The configuration, the official state dict and all tensors of a recorded teacher."""
    recorded, tensors = load_recorded(name)
    config = UMTImageTeacherConfig(**encoder_sizes(recorded["constructor"]))
    return config, sub_state(tensors, "state/"), tensors


RECORDED = pytest.mark.parametrize("name", ["mvd_image_teacher", "mvd_image_teacher_p14"])


@RECORDED
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_recorded_targets(name, implementation):
    config, state, tensors = recorded_teacher(name)
    model = convert_umt_checkpoint(state, config)
    model.set_attn_implementation(implementation)
    assert type(model) is UMTImageTeacherModel and not model.training
    with torch.no_grad():
        targets = model(tensors["input/video"].transpose(1, 2)[:, ::2]).last_hidden_state
    torch.testing.assert_close(targets, tensors["expected/targets"], **TOLERANCE)
    normed = torch.nn.functional.layer_norm(targets, targets.shape[-1:], eps=1e-6)
    torch.testing.assert_close(normed, tensors["expected/targets_normed"], **TOLERANCE)


@RECORDED
def test_the_official_layout_comes_back_bit_for_bit(name):
    config, state, _ = recorded_teacher(name)
    back = official_state_dict(convert_umt_checkpoint(state, config))
    assert back.keys() == state.keys() - set(UNUSED)
    for key, tensor in back.items():
        assert torch.equal(tensor, state[key]), key


# --- official files -------------------------------------------------------------------------------------------------


def official_state(**fields) -> tuple[UMTImageTeacherConfig, dict[str, torch.Tensor]]:
    """A tiny MAE in the official layout, without a position table."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    config = UMTImageTeacherConfig(**{"image_size": 28, "patch_size": 7, **sizes, **fields})
    torch.manual_seed(0)
    return config, official_state_dict(UMTImageTeacherModel(config))


def mae_table(side: int, dim: int) -> torch.Tensor:
    return torch.cat([torch.zeros(1, dim), plane_position_table((side, side), dim)])[None]


def test_decoder_norm_and_head_are_left_out_and_the_table_is_computed():
    """As recorded from the official loader: a table for 8 x 8 patches in a file for a teacher of 4 x 4."""
    recorded, _ = load_recorded("mvd_teacher_files")
    config, state = official_state()
    ignored = {key: torch.ones(3) for key in recorded["image"]["ignored_keys"] + recorded["dropped_first"]}
    ignored |= {"norm.weight": torch.ones(32), "norm.bias": torch.ones(32), "decoder_pos_embed": torch.ones(1, 65, 16)}
    for table in ({}, {"pos_embed": mae_table(8, 32)}, {"pos_embed": mae_table(8, 32).half()}):
        for wrap in (lambda s: s, lambda s: {"model": s}, lambda s: {f"backbone.{key}": t for key, t in s.items()}):
            model = convert_umt_checkpoint(wrap(state | ignored | table), config)
            for key, tensor in official_state_dict(model).items():
                assert torch.equal(tensor, state[key]), key


WRONG_FILES = {
    "table of another ViT": ({"pos_embed": torch.randn(1, 17, 32)}, r"\(1, 17, 32\) is not the one that MAE computes"),
    "class token with a position": ({"pos_embed": mae_table(4, 32) + 0.1}, "not the one that MAE computes"),
    "two class tokens": ({"pos_embed": torch.zeros(1, 18, 32)}, "not the one that MAE computes.*inf"),
    "not finite": ({"pos_embed": torch.full((1, 17, 32), math.nan)}, "not the one that MAE computes"),
    "fine-tuned": ({"fc_norm.weight": torch.ones(32)}, r"Unexpected keys \(1\): fc_norm.weight"),
    "wrong shape": ({"blocks.1.attn.qkv.bias": torch.ones(32)}, r"blocks.1.attn.qkv.bias \(32,\) instead of \(96,\)"),
}


@pytest.mark.parametrize("wrong", WRONG_FILES)
def test_files_of_other_models_are_refused(wrong):
    tensors, message = WRONG_FILES[wrong]
    config, state = official_state()
    with pytest.raises(ValueError, match=message):
        convert_umt_checkpoint(state | tensors, config)


@pytest.mark.parametrize("size, image_size", [("b", 224), ("l", 224), ("h", 196)])
def test_published_keys_convert_with_nothing_left_over(monkeypatch, size, image_size):
    recorded, _ = load_recorded("mvd_full_size_keys")
    recorded = recorded["models"][f"image_teacher_{size}"]
    state = {key: torch.empty(shape, device="meta") for key, shape in recorded["keys"].items()}
    loaded = classmethod(lambda cls, path, config, state_dict, dtype: (config, state_dict))
    monkeypatch.setattr(UMTImageTeacherModel, "from_pretrained", loaded)
    config, ours = convert_umt_checkpoint(state)
    unused = sum(state[key].numel() for key in UNUSED)
    assert sum(tensor.numel() for tensor in ours.values()) == recorded["parameters"] - unused
    heads, patch_size = {"b": (12, 16), "l": (16, 16), "h": (16, 14)}[size]
    assert (config.image_size, config.patch_size, config.num_attention_heads) == (image_size, patch_size, heads)


def test_an_unpublished_size_needs_a_configuration():
    with pytest.raises(ValueError, match=r"hidden size 32 was never published.*UMTImageTeacherConfig\(hidden_size=32"):
        convert_umt_checkpoint(official_state()[1])


def test_the_command_converts_both_ways(tmp_path, capsys):
    config, state = official_state()
    torch.save({"model": state | {"decoder_pred.bias": torch.ones(3)}}, tmp_path / "mae.pth")
    config.save_pretrained(tmp_path / "config")
    folder = str(tmp_path / "teacher")
    assert main(["convert", str(tmp_path / "mae.pth"), folder, "--config", str(tmp_path / "config")]) == 0
    assert "UMTImageTeacherModel" in capsys.readouterr().out
    assert type(AutoModel.from_pretrained(folder)) is UMTImageTeacherModel
    assert main(["convert", folder, str(tmp_path / "back.pth"), "--to-official"]) == 0
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    assert back.keys() == state.keys() and all(torch.equal(back[key], tensor) for key, tensor in state.items())


# --- Transformers' MAE ----------------------------------------------------------------------------------------------


def vit_mae(model_class=ViTMAEModel, **fields):
    """A tiny MAE for 4 x 4 patches, every weight but the position table random."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
    decoder = {"decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2}
    torch.manual_seed(0)
    fields = {"image_size": 56, "patch_size": 14, "decoder_intermediate_size": 16, **sizes, **decoder, **fields}
    model = model_class(ViTMAEConfig(**fields))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        # published files contain it; Transformers initialises it with zeros
        model.base_model.embeddings.position_embeddings.copy_(mae_table(4, 32))
    return model.eval()


@torch.no_grad()
@pytest.mark.parametrize("model_class", [ViTMAEModel, ViTMAEForPreTraining])
@pytest.mark.parametrize("fields", [{}, {"qkv_bias": False}, {"hidden_act": "relu", "layer_norm_eps": 1e-2}], ids=str)
def test_targets_are_the_hidden_states_of_transformers(tmp_path, caplog, model_class, fields):
    vit_mae(model_class, **fields).save_pretrained(tmp_path)
    transformers_logging.set_verbosity_warning()
    model = image_teacher_from_vit_mae(tmp_path, image_size=56)
    assert type(model) is UMTImageTeacherModel and not model.training and "UNEXPECTED" not in caplog.text
    theirs = vit_mae(model_class, **fields).base_model
    theirs.config.mask_ratio = 0.0
    clip = torch.randn(2, 3, 3, 56, 56, generator=torch.Generator().manual_seed(1))
    in_order = torch.arange(16.0).expand(6, -1)
    own = theirs(clip.flatten(0, 1), noise=in_order, output_hidden_states=True)
    outputs = model(clip, output_hidden_states=True)
    expected = own.hidden_states[-1][:, 1:].unflatten(0, (2, 3)).flatten(1, 2)
    torch.testing.assert_close(outputs.last_hidden_state, expected, **TOLERANCE)
    for ours, state in zip(outputs.hidden_states, own.hidden_states, strict=True):
        torch.testing.assert_close(ours, state, **TOLERANCE)

    model.save_pretrained(tmp_path / "ours")
    again = AutoModel.from_pretrained(tmp_path / "ours")
    assert torch.equal(again(clip).last_hidden_state, outputs.last_hidden_state)


def test_frames_have_14_patches_a_side(tmp_path):
    vit_mae().save_pretrained(tmp_path)
    config = image_teacher_from_vit_mae(tmp_path).config
    assert (config.image_size, config.patch_size, config.layer_norm_eps) == (196, 14, 1e-12)


def test_a_repository_in_half_precision_is_converted_to_float32(tmp_path):
    """Its position table is compared at its own rounding."""
    source = vit_mae().half()
    source.save_pretrained(tmp_path)
    model = image_teacher_from_vit_mae(tmp_path)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    weight = source.embeddings.patch_embeddings.projection.weight
    assert torch.equal(model.embeddings.patch_embeddings.weight, weight.flatten(1).float())


def test_other_repositories_are_refused(tmp_path):
    model = vit_mae()
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 8}
    ViTModel(ViTConfig(**sizes)).save_pretrained(tmp_path / "vit")
    with pytest.raises(ValueError, match=r"contains a 'vit' model; a 'vit_mae' one.*facebook/vit-mae-large"):
        image_teacher_from_vit_mae(tmp_path / "vit")
    with torch.no_grad():
        model.embeddings.position_embeddings.add_(0.1)
    model.save_pretrained(tmp_path / "learned")
    with pytest.raises(ValueError, match=r"position table of shape .* is not the one that MAE computes"):
        image_teacher_from_vit_mae(tmp_path / "learned")


# --- the position table ---------------------------------------------------------------------------------------------


@given(rows=st.integers(1, 5), columns=st.integers(1, 5), quarter=st.integers(1, 4), data=st.data())
@settings(max_examples=40, deadline=None)
def test_the_table_is_that_of_its_definition(rows, columns, quarter, data):
    table = plane_position_table((rows, columns), 4 * quarter)
    row, column = data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, columns - 1))
    angles = [[place * 10000 ** (-k / quarter) for k in range(quarter)] for place in (column, row)]
    expected = [wave(angle) for half in angles for wave in (math.sin, math.cos) for angle in half]
    assert table.shape == (rows * columns, 4 * quarter) and table.dtype is torch.float32
    torch.testing.assert_close(table[row * columns + column], torch.tensor(expected), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"hidden_size": 30, "num_attention_heads": 2}, "multiple of 4"),
        ({"image_size": 100}, "multiple of `patch_size` 16"),
        ({"num_attention_heads": 3}, "multiple of `num_attention_heads`"),
    ],
    ids=str,
)
def test_wrong_sizes_are_refused(fields, message):
    with pytest.raises(Exception, match=message):
        UMTImageTeacherConfig(**fields)
