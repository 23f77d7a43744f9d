"""The vector of a clip, by the kind of model."""

import torch
from transformers import PreTrainedModel

from modeling_umt.modeling_umt_video_text import mean_of_unit_vectors


def clip_vectors(model: PreTrainedModel, pixel_values_videos: torch.Tensor) -> torch.Tensor:
    """Vectors of clips, float32 `(batch, dim)`: `video_embeds` of a video-text model, and `pooler_output` of others.

    Args:
        model: a `UMTVideoTextModel`, a `UMTModel`, or a model of another family with a `pooler_output`.
        pixel_values_videos: `(batch, frames, channels, height, width)`, on the model's device and in its dtype.

    Raises:
        ValueError: the model has no `pooler_output`.
    """
    if model.config.model_type == "umt_video_text":
        frames = model.get_video_features(pixel_values_videos).pooler_output  # (batch, frames or 1, dim)
        return mean_of_unit_vectors(frames.float())
    outputs = model(pixel_values_videos)
    if getattr(outputs, "pooler_output", None) is None:
        raise ValueError(f"{type(model).__name__} has no pooler_output, so that its clips have no vector.")
    return outputs.pooler_output.float()
