"""Distillation of an InternVideo2 student from a video encoder (arXiv 2403.15377, section 3.1) as a Transformers
Trainer.

The frozen teacher encodes all tokens of a clip, the student the visible ones. The student's aligned layers and its
pooled vector are decoded into the space of the teacher's.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from ..pictures.run_pictures import MaskPicture, draw_attention_masks
from .pretraining import UMTPreTrainingArguments, check_motion_masks
from .teacher_student import MOTION, TeacherStudentTrainer
from .video_teacher import VideoTeacher

NEED_ATTENTION = ("attention", "clip_attention")


@dataclass
class UMTDistillationArguments(UMTPreTrainingArguments):
    """Arguments of [`UMTDistillationTrainer`]. The defaults are those of the published distillation of S, B and L.

    Args:
        mask_type: Token selection: `"clip_attention"` (over the entire clip, as published), `"attention"` (in every
            frame, as UMT), `"tube"`, `"random"` or `"motion"` (see [`UMTPreTrainingArguments`]). A UMT teacher has no
            attention to select by.
    """

    mask_type: str = "clip_attention"
    adam_beta2: float = 0.98
    adam_epsilon: float = 1e-6
    max_grad_norm: float = 5.0
    base_learning_rate: float = 1e-3
    warmup_epochs: float = 20.0
    num_train_epochs: float = 101.0


class UMTDistillationTrainer(TeacherStudentTrainer):
    """Aligns an [`InternVideo2ForPreTraining`] with a frozen video encoder.

    Writes `pictures/masks.png` to the output folder: the first training clip, its masks and the teacher's attention.

    Args:
        model ([`InternVideo2ForPreTraining`]): The student.
        teacher ([`VideoTeacher`]): It is set to evaluation mode, frozen, moved to the device and cast to the precision
            of the run (bf16 or fp16 under mixed precision).
        args ([`UMTDistillationArguments`]): The training arguments.
        token_selection (*optional*): Replaces the token selection of `mask_type`; a function with the signature of
            [`attention_token_selection`].
        kwargs: Further arguments of [`UMTTrainer`].

    Raises:
        ValueError: if `mask_type` selects by attention and the teacher has none, or masks by motion are not possible:
            for a single time step, for too many masks of a clip, under FSDP.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        teacher: VideoTeacher,
        args: UMTDistillationArguments,
        token_selection: Callable | None = None,
        **kwargs,
    ):
        if token_selection is None:
            require_attention(args.mask_type, teacher)
        super().__init__(model=model, teacher=teacher, args=args, token_selection=token_selection, **kwargs)
        if self.token_selection == MOTION:
            check_motion_masks(model, args.mask_ratio, args.num_masks_per_clip)
        self.add_callback(MaskPicture(self, draw_attention_masks))

    @torch.no_grad()
    def compute_targets(
        self, clips: torch.Tensor, sample_seeds: torch.Tensor, mask_ratio: float, num_masks: int = 1
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Masks and targets from one forward pass of the teacher.

        Args:
            clips, sample_seeds, mask_ratio, num_masks: See [`TeacherStudentTrainer.compute_targets`].

        Returns:
            `visible_indices` (B*M, V), `target_features` (B*M, K, 1 + V, D) and `target_final` (B*M, P); the masks of
            a clip are adjacent.
        """
        targets = self.teacher(clips)
        _, masks = self.draw_masks(clips, targets.cls_attention, sample_seeds, mask_ratio, num_masks)
        visible_indices = masks.flatten(0, 1)  # (B*M, V)
        rows = torch.nn.functional.pad(visible_indices + 1, (1, 0))  # row 0 is the class token's
        clip_of_mask = torch.arange(len(clips), device=clips.device).repeat_interleave(num_masks)[:, None]
        features = targets.features.transpose(1, 2)[clip_of_mask, rows].transpose(1, 2)  # (B*M, K, 1 + V, D)
        return visible_indices, features, targets.final.repeat_interleave(num_masks, dim=0)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        clips = self.pixel_values(inputs["pixel_values_videos"])
        num_masks = self.args.num_masks_per_clip
        with self.timer("teacher" if model.training else "evaluation"):  # log lines report training steps only
            visible_indices, features, final = self.compute_targets(
                clips, inputs["sample_seeds"], self.args.mask_ratio, num_masks
            )
        outputs = model(
            pixel_values_videos=clips.repeat_interleave(num_masks, dim=0),
            visible_indices=visible_indices,
            target_features=features,
            target_final=final,
        )
        return (outputs.loss, outputs) if return_outputs else outputs.loss


def require_attention(mask_type: str, teacher: VideoTeacher) -> None:
    """Raise a ValueError if the mask type selects by attention and the teacher has none."""
    if mask_type in NEED_ATTENTION and not teacher.has_class_token:
        raise ValueError(
            f"`mask_type` {mask_type!r} selects by the attention of the teacher's pooling, which a UMT encoder does "
            "not have; give `tube`, `random` or `motion`."
        )
