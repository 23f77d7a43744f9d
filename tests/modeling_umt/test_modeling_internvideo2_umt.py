"""InternVideo2 beside the requirements on every model: Auto classes, the pipeline, views, errors."""

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForPreTraining,
    AutoModelForVideoClassification,
    AutoVideoProcessor,
    pipeline,
)
from video_files import write_video

from modeling_umt import (
    InternVideo2Config,
    InternVideo2ForPreTraining,
    InternVideo2ForVideoClassification,
    InternVideo2Model,
)
from processing_umt import UMTVideoProcessor

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
SIZES |= {"image_size": 28, "num_frames": 4, "num_pooling_heads": 4, "pooled_size": 16}


def config(**fields) -> InternVideo2Config:
    return InternVideo2Config(**SIZES | {"num_aligned_layers": 2} | fields)


def test_the_defaults_are_those_of_1b():
    defaults = InternVideo2Config()
    sizes = (defaults.hidden_size, defaults.num_hidden_layers, defaults.num_attention_heads)
    assert (*sizes, defaults.intermediate_size) == (1408, 40, 16, 6144)
    with torch.device("meta"):
        model = InternVideo2ForVideoClassification(InternVideo2Config(num_labels=400))
    assert model.num_parameters() == 1_021_017_744


def test_a_repository_loads_by_the_auto_classes_and_classifies_in_a_pipeline(tmp_path):
    torch.manual_seed(0)
    model = InternVideo2ForVideoClassification(config(id2label={0: "clap", 1: "jump", 2: "wave"})).eval()
    with torch.no_grad():
        model.classifier.weight.normal_()
    model.save_pretrained(tmp_path)
    processor = UMTVideoProcessor.for_config(model.config)
    processor.save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is InternVideo2Config
    assert type(AutoModel.from_pretrained(tmp_path)) is InternVideo2Model
    assert type(AutoModelForVideoClassification.from_pretrained(tmp_path)) is InternVideo2ForVideoClassification
    assert type(AutoModelForPreTraining.from_pretrained(tmp_path)) is InternVideo2ForPreTraining
    assert type(AutoVideoProcessor.from_pretrained(tmp_path)) is UMTVideoProcessor

    video = str(write_video(tmp_path / "clip.mp4"))
    with torch.no_grad():
        expected = model(**processor(video, return_tensors="pt")).logits.softmax(-1)[0]
    found = pipeline("video-classification", model=str(tmp_path))(video)
    assert {entry["label"] for entry in found} == {"clap", "jump", "wave"}
    for entry in found:
        assert entry["score"] == pytest.approx(expected[model.config.label2id[entry["label"]]].item(), abs=1e-5)
    other_frames = pipeline("video-classification", model=str(tmp_path))(video, num_frames=6)
    assert len(other_frames) == 3


def test_the_predictions_of_views_are_averaged():
    torch.manual_seed(0)
    model = InternVideo2ForVideoClassification(config(num_labels=3)).eval()
    views = torch.randn(2, 4, 4, 3, 28, 28)
    with torch.no_grad():
        averaged = model(views, labels=torch.tensor([0, 1]))
        alone = model(views.flatten(0, 1)).logits.softmax(-1).unflatten(0, (2, 4)).mean(1)
    torch.testing.assert_close(averaged.logits.softmax(-1), alone)
    assert averaged.loss.item() == pytest.approx(-alone[[0, 1], [0, 1]].log().mean().item(), abs=1e-5)


def test_a_feature_map_has_the_patches_without_the_class_token():
    torch.manual_seed(0)
    model = InternVideo2Model(config()).eval()
    clip = torch.randn(1, 4, 3, 28, 42)
    with torch.no_grad():
        tokens, feature_map = model(clip).last_hidden_state, model.get_feature_map(clip)
    assert tokens.shape == (1, 1 + 4 * 2 * 3, 32) and feature_map.shape == (1, 4, 2, 3, 32)
    torch.testing.assert_close(feature_map[0, 1, 0, 2], tokens[0, 1 + 6 + 2])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_attention_heads": 5}, "`hidden_size` 32 must be a multiple of `num_attention_heads` 5"),
        ({"num_pooling_heads": 3}, "`hidden_size` 32 must be a multiple of `num_pooling_heads` 3"),
        ({"hidden_size": 24, "num_pooling_heads": 2}, "`hidden_size` 24 must be a multiple of 16"),
        ({"image_size": 30}, "`image_size` must be .* a multiple of `patch_size` 14, but is 30"),
        ({"single_frame": "first"}, "`single_frame` must be one of mean, resize, but is 'first'"),
        ({"decoder": "attention"}, "`decoder` must be one of mlp, linear"),
        ({"drop_path_rate": 1.0}, r"`drop_path_rate` must be in \[0, 1\)"),
        ({"motion_drop_ratio": 1.0}, r"`motion_drop_ratio` must be in \[0, 1\)"),
        ({"motion_drop_ratio": 0.4, "motion_groups": 3}, "the 4 steps of a clip.*3 groups"),
        ({"motion_drop_ratio": 0.4, "num_frames": 1}, "the 1 steps of a clip"),
        ({"num_second_layers": -1}, "`num_second_layers` must be 0 or more"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(fields, message):
    with pytest.raises(Exception, match=message):
        config(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_aligned_layers": 3}, "`num_aligned_layers` 3 with `aligned_layer_interval` 1 does not select 3"),
        ({"num_second_layers": 2, "second_layer_interval": 2}, "`num_second_layers` 2 with `second_layer_interval` 2"),
    ],
)
def test_aligned_layers_that_are_not_distinct_blocks_are_refused_by_students_alone(fields, message):
    InternVideo2Model(config(**fields))
    with pytest.raises(ValueError, match=message):
        InternVideo2ForPreTraining(config(**fields))
