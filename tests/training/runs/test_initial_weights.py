"""Weights that a run starts from: those that a checkpoint lacks are named or refused."""

import pytest
from finetuning_tools import SIZES, save_stage1
from safetensors.torch import load_file, save_file

from modeling_umt import UMTConfig, UMTForActionDetection, UMTForPreTraining, UMTForVideoClassification
from processing_umt import UMTVideoProcessor
from umt_training.quiet_loading import without_weight_bars
from umt_training.runs.initial_weights import load_initial_weights


def test_new_weights_are_named(tmp_path, capfd):
    save_stage1(tmp_path)
    with without_weight_bars():
        model = load_initial_weights(UMTForVideoClassification, str(tmp_path), ("classifier.", "umt.fc_norm."))
    assert model.config.hidden_size == SIZES["hidden_size"]
    printed = capfd.readouterr()
    assert printed.out == "new weights: classifier, umt.fc_norm\n" and "REPORT" not in printed.err
    assert "Loading weights" not in printed.err


def test_the_processor_of_a_run_is_that_of_its_model_and_not_of_its_start(tmp_path):
    UMTForActionDetection(UMTConfig(**SIZES)).save_pretrained(tmp_path)
    student = load_initial_weights(UMTForPreTraining, str(tmp_path), ("decoders.",))
    assert UMTVideoProcessor.for_config(student.config).sampling == "sparse"
    again = load_initial_weights(UMTForActionDetection, str(tmp_path))
    assert UMTVideoProcessor.for_config(again.config).sampling == "key_frame"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"umt.layers.1.mlp.fc1.weight": None}, r"lacks umt\.layers\.1\.mlp\.fc1\.weight\."),
        ({"umt.layers.9.mlp.fc1.weight": "umt.layers.1.mlp.fc1.weight"}, r"unknown weights: umt\.layers\.9\.mlp"),
    ],
)
def test_other_weights_are_refused(tmp_path, change, message):
    path = save_stage1(tmp_path) / "model.safetensors"
    weights = load_file(path)
    for name, source in change.items():
        weights[name] = None if source is None else weights[source].clone()
    save_file({name: tensor for name, tensor in weights.items() if tensor is not None}, path, {"format": "pt"})
    with pytest.raises(ValueError, match=message) as error:
        load_initial_weights(UMTForPreTraining, str(tmp_path), ("decoders.",))
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_weights_of_another_size_are_refused(tmp_path):
    save_stage1(tmp_path)
    message = r"decoders\.0\.norm\.bias has the shape \(8,\) and would have \(12,\)"
    with pytest.raises(ValueError, match=message) as error:
        load_initial_weights(UMTForPreTraining, str(tmp_path), ("decoders.",), target_dim=12)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)
