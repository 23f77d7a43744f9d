"""Weights that a run starts from: those that a checkpoint lacks are named or refused."""

import pytest
import torch
from finetuning_tools import SIZES, save_stage1
from safetensors.torch import load_file, save_file

from modeling_umt import (
    InternVideo2Config,
    InternVideo2Model,
    UMTConfig,
    UMTForActionDetection,
    UMTForMaskedModeling,
    UMTForPreTraining,
    UMTForVideoClassification,
)
from modeling_umt.convert_umt_checkpoints import official_state_dict
from processing_umt import UMTVideoProcessor
from umt_training.quiet_loading import without_weight_bars
from umt_training.runs import distillation_run, pretraining_run
from umt_training.runs.initial_weights import load_initial_weights

INTERNVIDEO2 = {"image_size": 28, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
INTERNVIDEO2 |= {"intermediate_size": 32, "num_pooling_heads": 2, "pooled_size": 8}


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


@pytest.mark.parametrize("model_class", [UMTForPreTraining, UMTForMaskedModeling])
def test_students_of_umt_do_not_start_from_internvideo2(tmp_path, model_class):
    InternVideo2Model(InternVideo2Config(**INTERNVIDEO2)).save_pretrained(tmp_path)
    message = r"is an InternVideo2 video encoder .* of the type 'internvideo2'; this run starts from .* type 'umt'\."
    with pytest.raises(ValueError, match=message) as error:
        pretraining_run.load_student(str(tmp_path), {}, model_class)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_students_of_internvideo2_do_not_start_from_umt(tmp_path):
    save_stage1(tmp_path / "saved")
    published_width = SIZES | {"hidden_size": 768, "num_attention_heads": 12, "num_hidden_layers": 1}
    official = UMTForPreTraining(UMTConfig(**published_width | {"num_aligned_layers": 1}))
    torch.save({"model": official_state_dict(official)}, tmp_path / "official.pth")
    for start in (tmp_path / "saved", tmp_path / "official.pth"):
        with pytest.raises(ValueError, match=r"is a stage-1 model.* of the type 'umt'; .* of the type 'internvideo2'"):
            distillation_run.load_student(str(start), {})


def test_weights_of_another_size_are_refused(tmp_path):
    save_stage1(tmp_path)
    message = r"decoders\.0\.norm\.bias has the shape \(8,\) and would have \(12,\)"
    with pytest.raises(ValueError, match=message) as error:
        load_initial_weights(UMTForPreTraining, str(tmp_path), ("decoders.",), target_dim=12)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)
