"""VideoMAE of Transformers as the video teacher of masked modelling. The tests of MAE are in
`test_modeling_umt_image_teacher.py`."""

import pytest
import torch
from transformers import (
    AutoModel,
    VideoMAEConfig,
    VideoMAEForPreTraining,
    VideoMAEForVideoClassification,
    VideoMAEModel,
    VivitConfig,
    VivitModel,
)

from modeling_umt import UMTModel, video_teacher_from_videomae

TOLERANCE = {"rtol": 0, "atol": 1e-9}


def videomae(model_class=VideoMAEModel, **fields):
    """A tiny VideoMAE for 4 frames of 64 x 64 pixels, every weight random."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
    decoder = {"decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2}
    torch.manual_seed(0)
    clip = {"image_size": 64, "num_frames": 4, "decoder_intermediate_size": 16}
    model = model_class(VideoMAEConfig(**{**sizes, **decoder, **clip, **fields}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


CLASSES = [VideoMAEModel, VideoMAEForPreTraining, VideoMAEForVideoClassification]
FIELDS = [
    {"use_mean_pooling": False},
    {"qv_bias": False, "hidden_act": "relu"},
    {"tubelet_size": 4, "num_frames": 8, "image_size": [64, 32], "layer_norm_eps": 1e-2},
]


@torch.no_grad()
@pytest.mark.parametrize("model_class", CLASSES)
@pytest.mark.parametrize("fields", FIELDS, ids=str)
def test_targets_are_the_hidden_states_of_transformers(tmp_path, capfd, model_class, fields):
    videomae(model_class, **fields).save_pretrained(tmp_path)
    model = video_teacher_from_videomae(tmp_path)
    assert type(model) is UMTModel and not model.training and model.config.final_norm == "none"
    assert "UNEXPECTED" not in capfd.readouterr().err
    model, theirs = model.double(), videomae(model_class, **fields).base_model.double()  # without rounding errors
    height, width = model.config.image_height_width
    generator = torch.Generator().manual_seed(1)
    clip = torch.randn(2, model.config.num_frames, 3, height, width, generator=generator, dtype=torch.float64)
    own = theirs(clip, output_hidden_states=True).hidden_states
    outputs = model(clip, output_hidden_states=True)
    torch.testing.assert_close(outputs.last_hidden_state, own[-1], **TOLERANCE)
    for ours, state in zip(outputs.hidden_states, own, strict=True):
        torch.testing.assert_close(ours, state, **TOLERANCE)

    model.save_pretrained(tmp_path / "ours")
    again = AutoModel.from_pretrained(tmp_path / "ours")
    assert torch.equal(again(clip).last_hidden_state, outputs.last_hidden_state)


@torch.no_grad()
def test_a_repository_in_half_precision_is_converted_to_float32(tmp_path):
    source = videomae().half()
    source.save_pretrained(tmp_path)
    model = video_teacher_from_videomae(tmp_path)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    weight = source.encoder.layer[0].output.dense.weight
    assert torch.equal(model.layers[0].mlp.fc2.weight, weight.float())


def test_other_repositories_are_refused(tmp_path):
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 8}
    VivitModel(VivitConfig(**sizes, image_size=32)).save_pretrained(tmp_path / "vivit")
    with pytest.raises(ValueError, match=r"contains a 'vivit' model; a 'videomae' one.*MCG-NJU/videomae-large"):
        video_teacher_from_videomae(tmp_path / "vivit")
    videomae(num_hidden_layers=1).save_pretrained(tmp_path / "shallow")
    config = tmp_path / "shallow" / "config.json"
    config.write_text(config.read_text().replace('"num_hidden_layers": 1', '"num_hidden_layers": 2'))
    with pytest.raises(ValueError, match=r"lacks \d+ weights of a VideoMAEModel, among them 'encoder.layer.1"):
        video_teacher_from_videomae(tmp_path / "shallow")
