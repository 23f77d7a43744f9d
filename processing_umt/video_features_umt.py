"""Outputs of the video processor besides pixels: metadata of views, and the report on unreadable videos."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import BatchFeature
from transformers.video_utils import VideoMetadata


@dataclass
class UMTVideoMetadata(VideoMetadata):
    """Transformers' `VideoMetadata` of one view; `frames_indices` are the frames of the view.

    `timestamps` are those of the video stream in seconds, if there is one (with a variable frame rate they differ from
    index / fps). `video_index` is the index of the video in the input, `clip` and `crop` the indices of the view.
    """

    frame_timestamps: list[float] | None = None
    video_index: int = 0
    clip: int = 0
    crop: int = 0

    @property
    def timestamps(self) -> list[float]:
        return self.frame_timestamps if self.frame_timestamps is not None else super().timestamps


class UMTVideoFeatures(BatchFeature):
    """A `BatchFeature` with a report on which videos it contains. The two lists are attributes, not entries, so that
    `model(**features)` does not receive them.

    Attributes:
        video_indices (`list[int]`): indices, in the input, of the videos that were read.
        errors (`list[tuple[int, str]]`): index and reason of each skipped video (`on_error="skip"`).
    """

    def __init__(
        self,
        data: dict[str, Any] | None = None,
        tensor_type: str | None = None,
        video_indices: list[int] | None = None,
        errors: list[tuple[int, str]] | None = None,
    ):
        super().__init__(data, tensor_type=tensor_type)
        self.video_indices = video_indices or []
        self.errors = errors or []

    def to(self, *args, **kwargs) -> "UMTVideoFeatures":
        """As `BatchFeature.to`, except that `boxes` stay float32: half precision would move them by pixels."""
        boxes = self.data.get("boxes")
        super().to(*args, **kwargs)
        if isinstance(boxes, torch.Tensor):
            self.data["boxes"] = boxes.to(self.data["boxes"].device)
        return self

    def __getstate__(self):
        return {"data": self.data, "video_indices": self.video_indices, "errors": self.errors}

    def __setstate__(self, state):
        self.__dict__.update(state)


def view_metadata(
    metadata: UMTVideoMetadata, video_index: int, num_clips: int, num_crops: int
) -> list[UMTVideoMetadata]:
    """Splits the metadata of all frames of a video into those of its views, clip-major."""
    num_frames = len(metadata.frames_indices) // num_clips
    views = []
    for clip in range(num_clips):
        part = slice(clip * num_frames, (clip + 1) * num_frames)
        times = metadata.frame_timestamps[part] if metadata.frame_timestamps is not None else None
        for crop in range(num_crops):
            view = replace(metadata, frames_indices=metadata.frames_indices[part], frame_timestamps=times)
            views.append(replace(view, video_index=video_index, clip=clip, crop=crop))
    return views
