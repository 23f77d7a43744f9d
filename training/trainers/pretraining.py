"""Stage 1: unmasked-token alignment (arXiv 2303.16058, section 3.2) as a Transformers Trainer.

A frozen CLIP tower looks at all of a clip; the tokens that its class token attends to stay visible; the student embeds
these alone and is pulled to the teacher's features of them, layer by layer.

Unusual: with `num_masks_per_clip` several masks share a teacher pass, each of them a student view of its own.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel

from ..pictures.run_pictures import MaskPicture
from .base_trainer import UMTTrainingArguments
from .teacher_student import TeacherStudentTrainer, check_mask_type
from .teachers import check_teacher_fits


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
        check_mask_type(self.mask_type)
        if self.num_masks_per_clip < 1:
            raise ValueError(f"`num_masks_per_clip` must be at least 1, but is {self.num_masks_per_clip}.")
        self.views_per_clip = self.num_masks_per_clip


class UMTPreTrainingTrainer(TeacherStudentTrainer):
    """Aligns the unmasked tokens of a [`UMTForPreTraining`] with a frozen teacher.

    Leaves `pictures/masks.png` in its folder: the first training clip, its masks and the teacher's attention.

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
        super().__init__(model=model, teacher=teacher, args=args, token_selection=token_selection, **kwargs)
        self.add_callback(MaskPicture(self))

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        clips = self.pixel_values(inputs["pixel_values_videos"])
        with self.timer("teacher" if model.training else "evaluation"):  # log lines tell of training steps
            num_masks = self.args.num_masks_per_clip
            visible_indices, targets = self.compute_targets(
                clips, inputs["sample_seeds"], self.args.mask_ratio, num_masks
            )
        # a clip for each of its masks, side by side; no copy for a single one
        views = clips[:, None].expand(-1, num_masks, -1, -1, -1, -1).flatten(0, 1)
        outputs = model(
            pixel_values_videos=views,
            visible_indices=visible_indices,
            target_features=targets,
        )
        return (outputs.loss, outputs) if return_outputs else outputs.loss
