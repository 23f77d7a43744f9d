"""The tokens of a video that a student sees, and what selects them."""

from collections.abc import Mapping
from dataclasses import dataclass

from PIL import Image

from ..trainers.scored_clip import ScoredClip, TokenScorer, read_frames
from ..trainers.teacher_student import MOTION, TOKEN_SELECTIONS


@dataclass(frozen=True)
class TokenView:
    """What scores the tokens of a video; at least one of the two.

    Args:
        teacher: a teacher, by whose attention tokens are selected.
        student: a video encoder, by whose patch embedding moving tokens are selected.
    """

    teacher: TokenScorer | None
    student: TokenScorer | None

    @property
    def mask_types(self) -> tuple[str, ...]:
        """The masks that can be shown, those of the training code."""
        return (*(TOKEN_SELECTIONS if self.teacher is not None else ()), *((MOTION,) if self.student else ()))

    def score(self, video: str) -> dict[str, ScoredClip]:
        """The clip of a video with the scores of each model, by their names, `"attention"` and `"motion"`.

        Raises:
            VideoDecodeError: the video can't be read.
        """
        scorers = [scorer for scorer in (self.teacher, self.student) if scorer is not None]
        return {scorer.scores_name: scorer.score(read_frames(video, scorer.processor)) for scorer in scorers}

    def draw(self, scored: Mapping[str, ScoredClip], mask_type: str, visible: float) -> tuple[Image.Image, str]:
        """A picture of the mask, and a line about it.

        Args:
            scored: the clips of `score`.
            mask_type: one of `mask_types`.
            visible: percentage of the tokens that stay visible.

        Raises:
            ValueError: the type is not one of `mask_types`, or the percentage is not from 0 to 100.
        """
        if mask_type not in self.mask_types:
            raise ValueError(f"The masks {mask_type!r} are not shown here; expected {', '.join(self.mask_types)}.")
        if not 0 < visible <= 100:
            raise ValueError(f"{visible} % of the tokens are to stay visible; expected more than 0 and at most 100.")
        clip = scored["motion" if mask_type == MOTION else "attention"]
        masks = clip.masks(mask_type, 1 - visible / 100)
        return clip.draw(masks), f"{masks.shape[1]} of {clip.num_tokens} tokens are visible"
