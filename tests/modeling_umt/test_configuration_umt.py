"""Configurations: defaults, validation, and the round trip through JSON."""

import ast
import inspect
import json

import pytest
from huggingface_hub.errors import StrictDataclassError
from hypothesis import given
from hypothesis import strategies as st

from modeling_umt import (
    UMTConfig,
    UMTForPreTraining,
    UMTForVideoClassification,
    UMTModel,
    UMTTeacherConfig,
    UMTTextConfig,
    UMTVideoTextConfig,
    configuration_umt,
)
from modeling_umt.configuration_checks_umt import aligned_layers


def test_defaults_are_the_large_architecture():
    config = UMTConfig()
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (1024, 24, 16)
    assert (config.token_grid, config.position_grid) == ((8, 14, 14), [8, 14, 14])
    assert aligned_layers(config) == aligned_layers(UMTTeacherConfig()) == [18, 19, 20, 21, 22, 23]


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"hidden_size": 100}, "`hidden_size` 100 must be a multiple of `num_attention_heads` 16"),
        ({"num_frames": 9, "tubelet_size": 2}, "`num_frames` 9 must be a multiple of `tubelet_size` 2"),
        ({"image_size": 230}, "each a multiple of `patch_size` 16, but is 230"),
        ({"image_size": [224, 230]}, r"each a multiple of `patch_size` 16, but is \[224, 230\]"),
        ({"image_size": [64, 64, 64]}, r"one side or \[height, width\].* but is \[64, 64, 64\]"),
        ({"image_size": 0}, r"one side or \[height, width\].* but is 0"),
        ({"patch_size": 0}, "`patch_size` must be at least 1, but is 0"),
        ({"num_attention_heads": 0}, "`num_attention_heads` must be at least 1, but is 0"),
        ({"tubelet_size": -1}, "`tubelet_size` must be at least 1, but is -1"),
        ({"final_norm": "layer"}, "`final_norm` must be one of tokens, pooled, none, but is 'layer'"),
        ({"position_type": "learned"}, "`position_type` must be one of flat, space_time, but is 'learned'"),
        (
            {"position_type": "space_time", "position_grid": [4, 7, 7]},
            r"`position_grid` is \[4, 7, 7\].*never resized",
        ),
        ({"position_type": "space_time", "hidden_size": 40, "num_attention_heads": 4}, "`hidden_size` 40 .* of 16"),
        ({"classifier_dropout": 1}, r"`classifier_dropout` must be in \[0, 1\), but is 1"),
        ({"masked_loss": "l2"}, "`masked_loss` must be one of smooth_l1, l1, mse, but is 'l2'"),
        ({"masked_targets": {}}, r"`masked_targets` must be .*but is \{\}"),
        ({"masked_targets": {"a.b": 8}}, r"`masked_targets` must be .*'a\.b'"),
        ({"masked_targets": {"image": 0}}, "`masked_targets` must be .*'image': 0"),
        (
            {"masked_targets": {"pixels": 767}},
            "'pixels' in `masked_targets` has the 768 values of a token, but is 767",
        ),
        ({"masked_target_weights": {"image": 1.0}}, "there are no `masked_targets`"),
        (
            {"masked_targets": {"a": 8, "b": 8}, "masked_target_weights": {"a": 1.0}},
            "for each of a, b.* is .*'a': 1.0",
        ),
        ({"masked_targets": {"a": 8}, "masked_target_weights": {"a": -1.0}}, "0 or more .* is .*'a': -1.0"),
        ({"masked_targets": {"a": 8}, "masked_target_weights": {"a": float("nan")}}, "0 or more .* is .*'a': nan"),
        ({"masked_targets": {"a": 8}, "masked_target_weights": {"a": 0}}, "not all of them 0.* is .*'a': 0"),
        ({"masked_targets": {"a": 8}, "decoder_hidden_size": 100}, "dimension 100 .* must be a multiple of their 16"),
        (
            {"masked_targets": {"a": 8}, "decoder_num_attention_heads": 3},
            "dimension 1024 .* multiple of their 3 heads",
        ),
        (
            {"masked_targets": {"a": 8}, "decoder_hidden_size": 8, "decoder_num_attention_heads": 2}
            | {"position_type": "space_time"},
            "dimension 8 .* and of 16",
        ),
        ({"decoder_num_hidden_layers": 0}, "`decoder_num_hidden_layers` must be at least 1, but is 0"),
        ({"target_norm": "l1"}, "`target_norm` must be one of l2, none, but is 'l1'"),
        ({"alignment_loss": "cosine"}, "`alignment_loss` must be one of l2, mse, smooth_l1, but is 'cosine'"),
        ({"drop_path_rate": 1.0}, r"`drop_path_rate` must be in \[0, 1\), but is 1.0"),
        ({"position_grid": [8, 14]}, r"`position_grid` must be \[frames, rows, columns\] or None, but is \[8, 14\]"),
        ({"hidden_size": 7.5}, "hidden_size"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_fields_that_do_not_fit_are_refused(fields, message):
    # strict dataclasses wrap the ValueError (TypeError for a wrong type) in their own error
    with pytest.raises(StrictDataclassError, match=message) as error:
        UMTConfig(**fields)
    assert isinstance(error.value.__cause__, TypeError if fields == {"hidden_size": 7.5} else ValueError)


def test_a_space_time_table_has_no_grid_of_its_own(tmp_path):
    assert UMTConfig(position_type="space_time").position_grid is None
    UMTConfig(position_type="space_time").save_pretrained(tmp_path)
    assert UMTConfig.from_pretrained(tmp_path).position_grid is None


def test_targets_have_one_order_whatever_file_they_come_from(tmp_path):
    """It is the order in which decoders get their initial weights; JSON files have sorted keys."""
    config = UMTConfig(masked_targets={"video": 8, "image": 4})
    config.save_pretrained(tmp_path)
    for either in (config, UMTConfig.from_pretrained(tmp_path)):
        assert list(either.masked_targets.items()) == [("image", 4), ("video", 8)]


@pytest.mark.parametrize("count, interval", [(7, 1), (3, 0.2), (0, 1), (3, 3)])
def test_aligned_layers_must_be_distinct_blocks(count, interval):
    sizes = {"hidden_size": 32, "num_hidden_layers": 6, "num_attention_heads": 2, "intermediate_size": 32}
    config = UMTConfig(**sizes, num_aligned_layers=count, aligned_layer_interval=interval)
    UMTModel(config)  # only pre-training aligns layers
    with pytest.raises(
        ValueError, match=f"`num_aligned_layers` {count} with `aligned_layer_interval` {interval} does"
    ):
        UMTForPreTraining(config)


@given(st.integers(1, 40), st.integers(1, 12), st.sampled_from([1, 1.5, 2, 2.25, 3]))
def test_aligned_layers_are_counted_from_the_last(depth, count, interval):
    class Config:
        num_hidden_layers, num_aligned_layers, aligned_layer_interval = depth, count, interval

    official = [depth - int(i * interval) - 1 for i in range(count)]
    if min(official) < 0:
        with pytest.raises(ValueError, match="distinct blocks"):
            aligned_layers(Config)
    else:
        assert aligned_layers(Config) == sorted(official)


@pytest.mark.parametrize(
    "fields", [{}, {"image_size": [96, 64], "position_grid": None, "aligned_layer_interval": 1.5}]
)
def test_round_trip_through_json(fields, tmp_path):
    config = UMTConfig(**fields, num_labels=3, drop_path_rate=0)
    config.save_pretrained(tmp_path)
    loaded = UMTConfig.from_pretrained(tmp_path)
    assert loaded.to_dict() == config.to_dict()
    assert loaded.token_grid == config.token_grid
    changed = UMTConfig.from_pretrained(tmp_path, num_frames=16, final_norm="pooled")
    assert (changed.num_frames, changed.final_norm, changed.num_labels) == (16, "pooled", 3)


def test_overrides_are_checked_when_the_model_is_created(tmp_path):
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    UMTModel(UMTConfig(**sizes)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="`num_frames` 3 must be a multiple of `tubelet_size` 2"):
        UMTModel.from_pretrained(tmp_path, num_frames=3, tubelet_size=2)
    with pytest.raises(ValueError, match="`final_norm` must be one of tokens, pooled, none, but is 'layer'"):
        UMTModel.from_pretrained(tmp_path, final_norm="layer")


def test_a_field_is_declared_once():
    for node in ast.parse(inspect.getsource(configuration_umt)).body:
        if isinstance(node, ast.ClassDef):
            names = [field.target.id for field in node.body if isinstance(field, ast.AnnAssign)]
            assert sorted(names) == sorted(set(names)), node.name


def test_configurations_do_not_share_a_position_grid():
    first, second = UMTConfig(), UMTConfig()
    first.position_grid[0] = 4
    assert second.position_grid == [8, 14, 14]


def test_height_comes_before_width():
    assert UMTConfig(image_size=[64, 96], num_frames=6, tubelet_size=2).token_grid == (3, 4, 6)


# --- names of classes -----------------------------------------------------------------------------------------------

TINY = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
DISAGREE = {"id2label": {0: "cat", 1: "dog"}, "label2id": {"cat": 1, "dog": 0}}


@pytest.mark.parametrize(
    "fields, names",
    [
        ({}, ["LABEL_0", "LABEL_1"]),
        ({"num_labels": 3}, ["LABEL_0", "LABEL_1", "LABEL_2"]),
        ({"id2label": {"0": "cat", "1": "dog"}}, ["cat", "dog"]),
        ({"label2id": {"dog": 1, "cat": 0, "ant": 2}}, ["cat", "dog", "ant"]),
        ({"label2id": {"dog": "1", "cat": "0"}}, ["cat", "dog"]),
        ({"num_labels": 2, "label2id": {"dog": 1, "cat": 0}}, ["cat", "dog"]),
        ({"num_labels": 3, "label2id": {"dog": 1, "cat": 0}}, ["LABEL_0", "LABEL_1", "LABEL_2"]),
        (DISAGREE, ["cat", "dog"]),
        ({"label2id": {"cat": 0, "dog": 7}}, ["LABEL_0", "LABEL_1"]),
    ],
)
def test_label2id_is_the_inverse_of_id2label(fields, names, tmp_path):
    config = UMTConfig(**TINY, **fields)
    config.save_pretrained(tmp_path)
    for each in (config, UMTConfig.from_pretrained(tmp_path)):
        assert each.id2label == dict(enumerate(names)) and each.num_labels == len(names)
        assert {name: int(index) for name, index in each.label2id.items()} == {n: i for i, n in enumerate(names)}


def test_names_of_classes_change_together(tmp_path):
    UMTForVideoClassification(UMTConfig(**TINY, id2label={0: "cat", 1: "dog"})).save_pretrained(tmp_path)
    model = UMTForVideoClassification.from_pretrained(tmp_path, id2label={0: "dog", 1: "ant"})
    assert model.config.label2id == {"dog": 0, "ant": 1}
    model.config.id2label = {0: "bee", 1: "cat"}
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["label2id"] == {"bee": 0, "cat": 1}
    model.config.num_labels = 1
    assert model.config.label2id == {"LABEL_0": 0}
    with pytest.raises(
        ValueError, match=r"`label2id` \{'dog': 0, 'ant': 1\} disagrees with `id2label`.*`id2label` alone"
    ):
        UMTForVideoClassification.from_pretrained(tmp_path, label2id={"dog": 0, "ant": 1})


def test_files_whose_names_disagree_load_with_a_warning(tmp_path, caplog):
    UMTForVideoClassification(UMTConfig(**TINY, id2label={0: "cat", 1: "dog"})).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    UMTForVideoClassification.from_pretrained(tmp_path)
    assert "disagrees" not in caplog.text
    (tmp_path / "config.json").write_text(json.dumps(config | {"label2id": {"dog": 0, "cat": 1}}))
    assert UMTForVideoClassification.from_pretrained(tmp_path).config.label2id == {"cat": 0, "dog": 1}
    assert "`label2id` disagrees with its `id2label`" in caplog.text


# --- names of tokens ------------------------------------------------------------------------------------------------


def test_the_first_and_the_last_token_of_an_answer_have_their_usual_names_too(tmp_path):
    assert (UMTTextConfig().bos_token_id, UMTTextConfig().eos_token_id) == (101, 102)
    config = UMTVideoTextConfig(text_config={"bos_token_id": 5, "sep_token_id": 6})
    config.save_pretrained(tmp_path)
    for each in (config, UMTVideoTextConfig.from_pretrained(tmp_path)):
        text = each.text_config
        assert (text.cls_token_id, text.bos_token_id, text.sep_token_id, text.eos_token_id) == (5, 5, 6, 6)
