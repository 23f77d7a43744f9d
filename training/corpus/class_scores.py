"""The views of a video, and the class probabilities of a view."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from transformers import BaseVideoProcessor, PreTrainedModel

from processing_umt.video_decoding_umt import VideoReader

from ..data.video_dataset import open_video
from .decoding import rows_per_message


@dataclass(frozen=True)
class ViewReader:
    """Reads the views of a video as one row of `process_videos`, from 0 to the duration of the video.

    Args:
        processor: a `UMTVideoProcessor`, or the video processor of another family.
        options: arguments of its call, such as `num_clips`.
    """

    processor: BaseVideoProcessor
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def rows_per_message(self) -> int:
        """See `rows_per_message`; 1 for processors whose clips have no stated size."""
        if not self._is_ours:
            return 1
        size = self.processor.crop_size
        num_views = prod(self.options.get(name, getattr(self.processor, name)) for name in ("num_clips", "num_crops"))
        return rows_per_message(3 * num_views * self.processor.num_frames * size.height * size.width)

    @property
    def _is_ours(self) -> bool:
        return type(self.processor).__name__ == "UMTVideoProcessor"  # also that of a repository's own code

    def __call__(self, video: Any) -> Iterator[tuple[tuple[float, float | None], torch.Tensor]]:
        source = open_video(video)
        if not self._is_ours:
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
