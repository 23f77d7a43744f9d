"""A trainer with a frozen teacher (arXiv 2303.16058, section 3.2), the base class of stages 1 and 2.

One forward pass of the teacher gives the mask of every clip and the target features of its visible tokens. The teacher
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
        # `mixed_precision` is set by the arguments or by the launcher
        precision = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(args.mixed_precision, torch.float32)
        self.teacher = teacher
        if teacher is not None:
            self.teacher = teacher.requires_grad_(False).eval().to(self.args.device, precision)
            if args.torch_compile:
                self.teacher = compile_regions(
                    self.teacher, backend=args.torch_compile_backend, mode=args.torch_compile_mode
                )
        self.token_selection = token_selection or TOKEN_SELECTIONS[args.mask_type]

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
            return draw_masks(self.token_selection, cls_attention, mask_ratio, sample_seeds, num_masks).flatten(1)

        outputs = self.teacher(clips, token_selector=select)
        visible_indices = outputs.visible_indices.unflatten(1, (num_masks, -1)).flatten(0, 1)  # (B*M, V)
        features = outputs.features.unflatten(2, (num_masks, -1))  # (B, K, M, V, F)
        return visible_indices, features.transpose(1, 2).flatten(0, 1)


def check_mask_type(mask_type: str) -> None:
    """Raise a ValueError if the mask type is unknown."""
    if mask_type not in TOKEN_SELECTIONS:
        raise ValueError(f"`mask_type` must be one of {', '.join(TOKEN_SELECTIONS)}, but is {mask_type!r}.")
