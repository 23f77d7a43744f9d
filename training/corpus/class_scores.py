"""The views of a video, and the class probabilities of a view."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import BaseVideoProcessor, PreTrainedModel

from processing_umt.video_decoding_umt import VideoReader

from ..data.video_dataset import open_video


@dataclass(frozen=True)
class ViewReader:
    """Reads the views of a video as one row of `process_videos`, from 0 to the duration of the video.

    Args:
        processor: a `UMTVideoProcessor`, or the video processor of another family.
        options: arguments of its call, such as `num_clips`.
    """

    processor: BaseVideoProcessor
    options: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, video: Any) -> Iterator[tuple[tuple[float, float | None], torch.Tensor]]:
        source = open_video(video)
        if type(self.processor).__name__ != "UMTVideoProcessor":  # that of a repository's own code has this name too
            views = self.processor(source, return_tensors="pt", **self.options)["pixel_values_videos"]
            with VideoReader(source) as reader:
                yield (0.0, reader.duration), views
            return
        features = self.processor(source, return_tensors="pt", return_metadata=True, on_error="raise", **self.options)
        yield (0.0, features["video_metadata"][0].duration), features["pixel_values_videos"]


def class_scores(model: PreTrainedModel, pixel_values_videos: torch.Tensor) -> torch.Tensor:
    """Probabilities float32 `(views, classes)` of views `(views, frames, channels, height, width)`: softmax, or
    sigmoid for a multi-label model. Those of a video are their mean, as in the official evaluation of UMT
    (arXiv 2303.16058, section 4)."""
    logits = model(pixel_values_videos).logits.float()
    return logits.sigmoid() if model.config.problem_type == "multi_label_classification" else logits.softmax(dim=-1)
