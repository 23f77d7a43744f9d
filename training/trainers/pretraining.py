"""Stage 1: unmasked-token alignment (arXiv 2303.16058, section 3.2) as a Transformers Trainer.

A frozen CLIP vision tower encodes all tokens of a clip. The tokens with the highest attention of its class token stay
visible, or with `mask_type="motion"` those that change most. The student embeds only these, and its features are
aligned with the teacher's, layer by layer.

Unusual: with `num_masks_per_clip`, several masks share a forward pass of the teacher; each is a separate view for the
student.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from transformers import PreTrainedModel

from ..pictures.run_pictures import MaskPicture, draw_attention_masks
from .teacher_student import MOTION, TeacherStudentTrainer, check_mask_type, draw_scored_masks
from .teachers import check_teacher_fits
from .training_arguments import UMTTrainingArguments


@dataclass
class UMTPreTrainingArguments(UMTTrainingArguments):
    """Arguments of [`UMTPreTrainingTrainer`]. The defaults are those of the published stage-1 recipe.

    Args:
        mask_type: Token selection: `"attention"`, `"clip_attention"`, `"tube"`, `"random"` or `"motion"`, the tokens
            whose embeddings by the student differ most from the same place one time step earlier (EVEREST, arXiv
            2211.10636).
        mask_ratio: Fraction of the tokens hidden from the student.
        num_masks_per_clip: Number of masks, and so of student views, for one forward pass of the teacher. Masks by
            motion are disjoint, so that the tokens of a clip limit their number.
    """

    ranges: ClassVar[dict[str, str]] = UMTTrainingArguments.ranges | {
        "mask_ratio": "[0, 1)",
        "num_masks_per_clip": "[1, inf)",
    }

    mask_type: str = "attention"
    mask_ratio: float = 0.8
    num_masks_per_clip: int = 1
    adam_beta2: float = 0.95
    warmup_epochs: float = 40.0
    num_train_epochs: float = 201.0

    def __post_init__(self):
        super().__post_init__()
        check_mask_type(self.mask_type)
        self.views_per_clip = self.num_masks_per_clip


class UMTPreTrainingTrainer(TeacherStudentTrainer):
    """Aligns the unmasked tokens of a [`UMTForPreTraining`] with a frozen teacher.

    Writes `pictures/masks.png` to the output folder: the first training clip, its masks and the teacher's attention.

    Args:
        model ([`UMTForPreTraining`]): The student.
        teacher: [`UMTTeacherModel`], or a module with the same interface. It is set to evaluation mode, frozen, moved
            to the device and cast to the precision of the run (bf16 or fp16 under mixed precision).
        args ([`UMTPreTrainingArguments`]): The training arguments.
        token_selection (*optional*): Replaces the token selection of `mask_type`; a function with the signature of
            [`attention_token_selection`].
        kwargs: Further arguments of [`UMTTrainer`].

    Raises:
        ValueError: if the aligned layers, the feature dimension or the token grid of teacher and student differ, or
            masks by motion are not possible: for a single time step, for too many masks of a clip, under FSDP.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        teacher: nn.Module,
        args: UMTPreTrainingArguments,
        token_selection: Callable | None = None,
        **kwargs,
    ):
        check_teacher_fits(model.config, teacher.config)
        super().__init__(model=model, teacher=teacher, args=args, token_selection=token_selection, **kwargs)
        if self.token_selection == MOTION:
            check_motion_masks(model, args.mask_ratio, args.num_masks_per_clip)
        self.add_callback(MaskPicture(self, draw_attention_masks))

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        clips = self.pixel_values(inputs["pixel_values_videos"])
        with self.timer("teacher" if model.training else "evaluation"):  # log lines report training steps only
            num_masks = self.args.num_masks_per_clip
            visible_indices, targets = self.compute_targets(
                clips, inputs["sample_seeds"], self.args.mask_ratio, num_masks
            )
        # (B*M, T, C, H, W): each clip repeated for its M masks; no copy if M is 1
        views = clips[:, None].expand(-1, num_masks, -1, -1, -1, -1).flatten(0, 1)
        outputs = model(
            pixel_values_videos=views,
            visible_indices=visible_indices,
            target_features=targets,
        )
        return (outputs.loss, outputs) if return_outputs else outputs.loss


def check_motion_masks(student: PreTrainedModel, mask_ratio: float, num_masks: int) -> None:
    """Raise a ValueError unless masks by motion are possible for the student's clips, before any is read."""
    config = student.config
    clip = torch.zeros(1, config.num_frames, config.num_channels, *config.image_height_width, device=student.device)
    seeds = torch.zeros(1, dtype=torch.int64, device=student.device)
    draw_scored_masks(MOTION, student.base_model.motion_importance(clip), mask_ratio, seeds, num_masks)
