"""`umt convert`: the processor that is saved with a converted model. The weights are those of
`tests/modeling_umt/test_convert_umt_checkpoints.py`."""

import pytest
import torch
from transformers import AutoVideoProcessor

from modeling_umt import UMTConfig, UMTForMaskedModeling, UMTForPreTraining, UMTForVideoClassification
from modeling_umt.convert_umt_checkpoints import official_state_dict
from umt_training.cli import main

SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 128}
SIZES |= {"image_size": 32, "num_frames": 4, "num_aligned_layers": 1, "target_dim": 24}
MVD = {"tubelet_size": 2, "position_type": "space_time", "position_grid": None}
EVEREST = {"tubelet_size": 2, "position_grid": None}
FEATURES = {"masked_targets": {"image": 24, "video": 24}}
PIXELS = {"masked_targets": {"pixels": 1536}, "decoder_projection_bias": False}


@pytest.mark.parametrize(
    ("model_class", "fields", "sampling", "frame_stride"),
    [
        (UMTForPreTraining, {}, "sparse", 1),
        (UMTForVideoClassification, {"num_labels": 400}, "sparse", 1),
        (UMTForVideoClassification, {"num_labels": 174}, "segments", 1),
        (UMTForMaskedModeling, MVD | FEATURES, "strided", 4),
        (UMTForVideoClassification, MVD | {"num_labels": 400}, "strided", 4),
        (UMTForVideoClassification, MVD | {"num_labels": 174}, "uniform", 1),
        (UMTForMaskedModeling, EVEREST | PIXELS, "strided", 4),
        (UMTForVideoClassification, EVEREST | {"num_labels": 101}, "strided", 4),
        (UMTForVideoClassification, EVEREST | {"num_labels": 174}, "segments", 1),
    ],
)
def test_the_saved_processor_samples_as_the_official_tests(model_class, fields, sampling, frame_stride, tmp_path):
    config = UMTConfig(**SIZES | fields)
    torch.save(official_state_dict(model_class(config)), tmp_path / "official.pth")
    config.save_pretrained(tmp_path / "config")
    words = [str(tmp_path / "official.pth"), str(tmp_path / "model"), "--config", str(tmp_path / "config")]
    assert main(["convert", *words]) == 0
    processor = AutoVideoProcessor.from_pretrained(tmp_path / "model")
    assert (processor.sampling, processor.frame_stride, processor.num_frames) == (sampling, frame_stride, 4)
