"""A trainer with a frozen teacher (arXiv 2303.16058, section 3.2), the base class of stages 1 and 2.

One forward pass of the teacher gives the mask of every clip and the target features of its visible tokens; a mask by
motion follows from the student's own patch embedding instead (EVEREST, arXiv 2211.10636, section 4.1). The teacher
belongs to the trainer, not to the model, so neither the optimiser nor a checkpoint contains it. Masks are sampled on
the device from each clip's own seed. Several masks can share a forward pass of the teacher, whose features cover all
tokens. `torch_compile` compiles the blocks of the teacher too.
"""

from collections.abc import Callable

import torch
from accelerate.utils import compile_regions
from torch import nn
from transformers import PreTrainedModel

from modeling_umt.token_selection_umt import (
    attention_token_selection,
    clip_attention_token_selection,
    draw_masks,
    draw_motion_masks,
    random_token_selection,
    tube_token_selection,
)

from .base_trainer import UMTTrainer
from .training_arguments import UMTTrainingArguments

TOKEN_SELECTIONS: dict[str, Callable] = {
    "attention": attention_token_selection,
    "clip_attention": clip_attention_token_selection,
    "tube": tube_token_selection,
    "random": random_token_selection,
}
MOTION = "motion"  # the mask type that compares time steps of the clip and needs no attention of a teacher
MASK_TYPES = (*TOKEN_SELECTIONS, MOTION)


class TeacherStudentTrainer(UMTTrainer):
    """Trains a student with the features of a frozen teacher.

    Args:
        model (`PreTrainedModel`): The student.
        teacher: [`UMTTeacherModel`], a module with the same interface, or None. It is set to evaluation mode, frozen,
            moved to the device and cast to the precision of the run (bf16 or fp16 under mixed precision).
        args: The training arguments, with a `mask_type`.
        token_selection (*optional*): Replaces the token selection of `mask_type`; a function with the signature of
            [`attention_token_selection`].
        kwargs: Further arguments of [`UMTTrainer`].

    Raises:
        ValueError: for masks by motion under FSDP.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        teacher: nn.Module | None,
        args: UMTTrainingArguments,
        token_selection: Callable | None = None,
        **kwargs,
    ):
        super().__init__(model=model, args=args, **kwargs)
        self.teacher = None if teacher is None else frozen_teacher(teacher, args)
        self.token_selection = token_selection or args.mask_type
        if self.token_selection == MOTION:
            require_unsharded(self)

    # Not `inference_mode`, whose tensors can't take part in a backward pass.
    @torch.no_grad()
    def compute_targets(
        self, clips: torch.Tensor, sample_seeds: torch.Tensor, mask_ratio: float, num_masks: int = 1
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Masks and target features from one forward pass of the teacher.

        Args:
            clips: Normalised float (B, T, C, H, W).
            sample_seeds: Seeds of the masks, int64 (B,).
            mask_ratio: Fraction of the tokens hidden from the student.
            num_masks: Number of masks of a clip, M.

        Returns:
            `visible_indices` (B*M, V) and `target_features` (B*M, K, V, F); the masks of a clip are adjacent.
        """

        def select(cls_attention: torch.Tensor) -> torch.Tensor:
            _, masks = self.draw_masks(clips, cls_attention, sample_seeds, mask_ratio, num_masks)
            return masks.flatten(1)

        outputs = self.teacher(clips, token_selector=select)
        visible_indices = outputs.visible_indices.unflatten(1, (num_masks, -1)).flatten(0, 1)  # (B*M, V)
        features = outputs.features.unflatten(2, (num_masks, -1))  # (B, K, M, V, F)
        return visible_indices, features.transpose(1, 2).flatten(0, 1)

    def draw_masks(
        self,
        clips: torch.Tensor,
        cls_attention: torch.Tensor,
        sample_seeds: torch.Tensor,
        mask_ratio: float,
        num_masks: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The scores (B, T, S) that select the visible tokens of clips, the teacher's attention or the motion, and the
        masks (B, M, V); the arguments are those of `compute_targets`."""
        is_motion = self.token_selection == MOTION
        scores = self.model.base_model.motion_importance(clips) if is_motion else cls_attention
        return scores, draw_scored_masks(self.token_selection, scores, mask_ratio, sample_seeds, num_masks)


def frozen_teacher(teacher: nn.Module, args: UMTTrainingArguments) -> nn.Module:
    """A teacher in evaluation mode without gradients, on the device of a run and in its precision (bf16 or fp16 under
    mixed precision); with `torch_compile` its blocks are compiled."""
    # `mixed_precision` is set by the arguments or by the launcher
    precision = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(args.mixed_precision, torch.float32)
    teacher = teacher.requires_grad_(False).eval().to(args.device, precision)
    if args.torch_compile:
        teacher = compile_regions(teacher, backend=args.torch_compile_backend, mode=args.torch_compile_mode)
    return teacher


def draw_scored_masks(
    token_selection: str | Callable,
    scores: torch.Tensor,
    mask_ratio: float,
    sample_seeds: torch.Tensor,
    num_masks: int,
) -> torch.Tensor:
    """Several masks of every clip, int64 (B, M, V); see `draw_masks` and `draw_motion_masks`.

    Args:
        token_selection: One of `MASK_TYPES`, or a function with the signature of [`attention_token_selection`].
        scores: (B, T, S), the importance of the tokens for `"motion"`, else the teacher's attention.
    """
    if token_selection == MOTION:
        return draw_motion_masks(scores, mask_ratio, sample_seeds, num_masks)
    strategy = TOKEN_SELECTIONS.get(token_selection, token_selection)
    return draw_masks(strategy, scores, mask_ratio, sample_seeds, num_masks)


def require_unsharded(trainer: UMTTrainer) -> None:
    """Raise a ValueError for selection by motion under FSDP."""
    if trainer.is_fsdp_enabled:
        raise ValueError(
            "`mask_type` 'motion' reads the student's patch embedding outside of its forward pass, which FSDP does "
            "not support: leave `fsdp` out, so that every GPU holds the entire student."
        )


def check_mask_type(mask_type: str) -> None:
    """Raise a ValueError if the mask type is unknown."""
    if mask_type not in MASK_TYPES:
        raise ValueError(f"`mask_type` must be one of {', '.join(MASK_TYPES)}, but is {mask_type!r}.")
