"""Stage 1: unmasked-token alignment (arXiv 2303.16058, section 3.2) as a Transformers Trainer.

A frozen CLIP tower looks at all of a clip; the tokens that its class token attends to stay visible; the student embeds
these alone and is pulled to the teacher's features of them, layer by layer.

Unusual: the teacher belongs to the trainer, not to the model, so neither the optimiser nor a checkpoint ever holds it.
Masks are drawn on the device from each clip's own seed. With `num_masks_per_clip` several masks share a teacher pass,
which is where most of a step's time goes: its features cover all tokens anyway.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from transformers import PreTrainedModel

from modeling_umt.token_selection_umt import (
    attention_token_selection,
    random_token_selection,
    tube_token_selection,
)

from .video_trainer import UMTTrainer, UMTTrainingArguments

TOKEN_SELECTIONS: dict[str, Callable] = {
    "attention": attention_token_selection,
    "tube": tube_token_selection,
    "random": random_token_selection,
}


@dataclass
class UMTPreTrainingArguments(UMTTrainingArguments):
    """Arguments of [`UMTPreTrainingTrainer`]; the defaults are the published stage-1 recipe's.

    Args:
        mask_type: How visible tokens are chosen: `"attention"`, `"tube"` or `"random"`.
        mask_ratio: Share of the tokens hidden from the student.
        num_masks_per_clip: Masks, and so student views, for one teacher pass.
    """

    mask_type: str = "attention"
    mask_ratio: float = 0.8
    num_masks_per_clip: int = 1
    adam_beta2: float = 0.95
    warmup_epochs: float = 40.0
    num_train_epochs: float = 201.0

    def __post_init__(self):
        super().__post_init__()
        if self.mask_type not in TOKEN_SELECTIONS:
            raise ValueError(f"`mask_type` must be one of {', '.join(TOKEN_SELECTIONS)}, but is {self.mask_type!r}.")
        if self.num_masks_per_clip < 1:
            raise ValueError(f"`num_masks_per_clip` must be at least 1, but is {self.num_masks_per_clip}.")
        self.views_per_clip = self.num_masks_per_clip


class UMTPreTrainingTrainer(UMTTrainer):
    """Aligns the unmasked tokens of a [`UMTForPreTraining`] with a frozen teacher.

    Args:
        model ([`UMTForPreTraining`]): The student.
        teacher: [`UMTTeacherModel`], or a module of the same interface. It is put in evaluation mode, frozen, moved to
            the device and cast to the precision of the run (bf16 or fp16 under mixed precision).
        args ([`UMTPreTrainingArguments`]).
        token_selection (*optional*): A strategy in place of the one `mask_type` names, with the signature of
            [`attention_token_selection`].
        kwargs: Everything else that `transformers.Trainer` takes.

    Raises:
        ValueError: if the teacher's aligned layers, width or token grid are not the student's.
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
        super().__init__(model=model, args=args, **kwargs)
        # asked of the arguments or of the launcher
        precision = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(args.mixed_precision, torch.float32)
        self.teacher = teacher.requires_grad_(False).eval().to(self.args.device, precision)
        self.token_selection = token_selection or TOKEN_SELECTIONS[args.mask_type]

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        clips = self.pixel_values(inputs["pixel_values_videos"])
        with self.timer("teacher" if model.training else "evaluation"):  # log lines tell of training steps
            visible_indices, targets = self.teach(clips, inputs["sample_seeds"])
        outputs = model(
            pixel_values_videos=clips.repeat_interleave(self.args.num_masks_per_clip, dim=0),
            visible_indices=visible_indices,
            target_features=targets,
        )
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    # Not `inference_mode`: tensors made under it may not take part in a backward pass.
    @torch.no_grad()
    def teach(self, clips: torch.Tensor, sample_seeds: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Masks and targets of clips (B, T, C, H, W) from one teacher pass, M masks a clip.

        Returns:
            `visible_indices` (B*M, V) and `target_features` (B*M, K, V, F), the masks of a clip side by side.
        """
        num_masks = self.args.num_masks_per_clip

        def select(cls_attention: torch.Tensor) -> torch.Tensor:
            draw = partial(self.token_selection, cls_attention, self.args.mask_ratio)
            return torch.cat([draw(sample_seeds=sample_seeds + mask) for mask in range(num_masks)], dim=1)  # (B, M*V)

        outputs = self.teacher(clips, token_selector=select)
        visible_indices = outputs.visible_indices.unflatten(1, (num_masks, -1)).flatten(0, 1)  # (B*M, V)
        features = outputs.features.unflatten(2, (num_masks, -1))  # (B, K, M, V, F)
        return visible_indices, features.transpose(1, 2).flatten(0, 1)


def check_teacher_fits(student, teacher) -> None:
    """Raise a ValueError unless a teacher's configuration makes targets for a student's configuration."""
    if student.num_aligned_layers != teacher.num_aligned_layers:
        raise ValueError(
            f"The teacher returns {teacher.num_aligned_layers} layers, but the student aligns "
            f"{student.num_aligned_layers}; give both the same `num_aligned_layers`."
        )
    if student.target_dim != teacher.projection_dim:
        raise ValueError(
            f"The teacher's features have {teacher.projection_dim} channels, but the student's `target_dim` is "
            f"{student.target_dim}."
        )
    if student.target_norm != teacher.target_norm:
        raise ValueError(
            f"`target_norm` is {student.target_norm!r} for the student and {teacher.target_norm!r} for the teacher; "
            "they must be the same."
        )
    side = teacher.image_size // teacher.patch_size
    if student.token_grid[1:] != (side, side) or student.tubelet_size != 1:
        raise ValueError(
            f"The teacher sees every frame as {side} x {side} tokens, but the student's grid of (frames, rows, "
            f"columns) is {student.token_grid} at `tubelet_size` {student.tubelet_size}. Choose the teacher's "
            "`image_size` so that the grids agree."
        )
