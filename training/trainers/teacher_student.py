"""The frozen teacher of a training run: one pass gives the mask of every clip and the features of its visible tokens
(arXiv 2303.16058, section 3.2). Both stages use it.

Unusual: the teacher belongs to the trainer, not to the model, so neither the optimiser nor a checkpoint ever holds it.
Masks are drawn on the device from each clip's own seed. Several masks may share a teacher pass, which is where most of
a step's time goes: its features cover all tokens anyway. `torch_compile` compiles the teacher's blocks as well as the
student's.
"""

from collections.abc import Callable

import torch
from accelerate.utils import compile_regions
from torch import nn
from transformers import PreTrainedModel

from modeling_umt.token_selection_umt import (
    attention_token_selection,
    draw_masks,
    random_token_selection,
    tube_token_selection,
)

from .base_trainer import UMTTrainer, UMTTrainingArguments

TOKEN_SELECTIONS: dict[str, Callable] = {
    "attention": attention_token_selection,
    "tube": tube_token_selection,
    "random": random_token_selection,
}


class TeacherStudentTrainer(UMTTrainer):
    """A trainer whose student has a teacher.

    Args:
        model: The student.
        teacher: [`UMTTeacherModel`], or a module of the same interface, or None. It is put in evaluation mode, frozen,
            moved to the device and cast to the precision of the run (bf16 or fp16 under mixed precision).
        args: With a `mask_type`.
        token_selection (*optional*): A strategy in place of the one `mask_type` names, with the signature of
            [`attention_token_selection`].
        kwargs: Everything else that `transformers.Trainer` takes.
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
        # asked of the arguments or of the launcher
        precision = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(args.mixed_precision, torch.float32)
        self.teacher = teacher
        if teacher is not None:
            self.teacher = teacher.requires_grad_(False).eval().to(self.args.device, precision)
            if args.torch_compile:
                self.teacher = compile_regions(
                    self.teacher, backend=args.torch_compile_backend, mode=args.torch_compile_mode
                )
        self.token_selection = token_selection or TOKEN_SELECTIONS[args.mask_type]

    # Not `inference_mode`: tensors made under it may not take part in a backward pass.
    @torch.no_grad()
    def compute_targets(
        self, clips: torch.Tensor, sample_seeds: torch.Tensor, mask_ratio: float, num_masks: int = 1
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Masks and targets of clips (B, T, C, H, W) from one teacher pass, M masks a clip.

        Args:
            clips: Normalised.
            sample_seeds: int64 (B,), of the masks.
            mask_ratio: Share of the tokens hidden from the student.
            num_masks: M.

        Returns:
            `visible_indices` (B*M, V) and `target_features` (B*M, K, V, F), the masks of a clip side by side.
        """

        def select(cls_attention: torch.Tensor) -> torch.Tensor:
            return draw_masks(self.token_selection, cls_attention, mask_ratio, sample_seeds, num_masks).flatten(1)

        outputs = self.teacher(clips, token_selector=select)
        visible_indices = outputs.visible_indices.unflatten(1, (num_masks, -1)).flatten(0, 1)  # (B*M, V)
        features = outputs.features.unflatten(2, (num_masks, -1))  # (B, K, M, V, F)
        return visible_indices, features.transpose(1, 2).flatten(0, 1)


def check_mask_type(mask_type: str) -> None:
    """Raise a ValueError unless a mask type has a token selection."""
    if mask_type not in TOKEN_SELECTIONS:
        raise ValueError(f"`mask_type` must be one of {', '.join(TOKEN_SELECTIONS)}, but is {mask_type!r}.")
