"""A clip with the scores of its tokens, which select those that a student sees: the attention of a teacher (arXiv
2303.16058, section 3.1), or motion (arXiv 2211.10636, section 4.1); its masks, and a picture of them.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from processing_umt import UMTVideoProcessor

from ..data.video_dataset import mask_seed
from ..pictures.mask_pictures import draw_mask_strip
from .teacher_student import draw_scored_masks


@dataclass(frozen=True)
class ScoredClip:
    """A clip with the scores of its tokens.

    Args:
        clip: float `(T, 3, H, W)`, normalised.
        scores: `(T', S)` of T' time steps of S tokens.
        side: tokens along a side of a frame.
        scores_name: `"attention"` or `"motion"`.
    """

    clip: torch.Tensor
    scores: torch.Tensor
    side: int
    scores_name: str

    @property
    def num_tokens(self) -> int:
        return self.scores.numel()

    def masks(self, mask_type: str, mask_ratio: float, seed: int = 0, num_masks: int = 1) -> torch.Tensor:
        """The visible tokens of masks as the training code samples them, int64 `(num_masks, V)`.

        Args:
            mask_type: one of `MASK_TYPES` that uses these scores.
            mask_ratio: fraction of the tokens hidden from the student.
            seed: seed of the masks; default 0.
            num_masks: number of masks; default 1.

        Raises:
            ValueError: the ratio or the number of masks is out of range.
        """
        seeds = torch.tensor([mask_seed(seed, 0, 0)])
        return draw_scored_masks(mask_type, self.scores[None], mask_ratio, seeds, num_masks)[0]

    def draw(self, masks: torch.Tensor, title: str | None = None) -> Image.Image:
        """The picture of masks `(num_masks, V)`; see `draw_mask_strip`."""
        return draw_mask_strip(self.clip, masks, self.scores, (self.side, self.side), title, self.scores_name)


@dataclass(frozen=True)
class TokenScorer:
    """What scores the tokens of a clip.

    Args:
        model: a teacher, whose class attends to the tokens; or a video encoder, which finds their motion.
        processor: makes the clip.
        size: side of the student's frames in pixels.
        side: tokens along a side of a frame.
    """

    model: nn.Module
    processor: UMTVideoProcessor
    size: int
    side: int

    @property
    def scores_name(self) -> str:
        return "motion" if hasattr(self.model, "motion_importance") else "attention"

    @torch.inference_mode()
    def score(self, frames: np.ndarray) -> ScoredClip:
        """The scored clip of `read_frames`."""
        crop = {"size": {"shortest_edge": self.size}, "crop_size": self.size}
        clip = self.processor(frames, return_tensors="pt", **crop)["pixel_values_videos"]  # (1, T, 3, size, size)
        weights = next(self.model.parameters())
        inputs = clip.to(weights.device, weights.dtype)
        is_motion = self.scores_name == "motion"
        scores = self.model.motion_importance(inputs) if is_motion else self.model(inputs).cls_attention  # (1, T', S)
        return ScoredClip(clip[0], scores[0].float().cpu(), self.side, self.scores_name)


def read_frames(video: Any, processor: UMTVideoProcessor) -> np.ndarray:
    """The frames of a video that evaluation samples, uint8 `(T, H, W, 3)`.

    Raises:
        VideoDecodeError: the video can't be read.
    """
    return processor.fetch_videos(video, processor.sample_frames)[0]
