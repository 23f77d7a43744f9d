"""The limits of Transformers and PyTorch that docs/models.md states; a failure means that a limit is gone."""

import pytest
import torch
from tiny_classifier import save_noise, save_tiny_classifier, tiny_classifier
from transformers import pipeline

import modeling_umt  # noqa: F401 (registers the models)


def test_a_pipeline_takes_a_list_but_no_batch_size(tmp_path):
    model = save_tiny_classifier(tmp_path / "model")
    videos = [str(save_noise(tmp_path / f"{seed}.mp4", seed)) for seed in range(2)]
    classifier = pipeline("video-classification", model=str(model))
    assert [len(predictions) for predictions in classifier(videos)] == [5, 5]
    with pytest.raises(ValueError, match="cannot do batching"):
        classifier(videos, batch_size=2)


def test_an_exported_model_has_a_dynamic_batch_but_no_dynamic_frames():
    model, clips = tiny_classifier().eval(), torch.randn(2, 4, 3, 32, 32)
    batch, frames = torch.export.Dim("batch"), torch.export.Dim("frames", min=2, max=16)
    exported = torch.export.export(model, (clips,), dynamic_shapes={"pixel_values_videos": {0: batch}})
    more = torch.randn(3, 4, 3, 32, 32)
    torch.testing.assert_close(exported.module()(more).logits, model(more).logits)
    with pytest.raises(Exception, match="Constraints violated"):
        torch.export.export(model, (clips,), dynamic_shapes={"pixel_values_videos": {1: frames}})
