"""Fine-tuning for action detection (arXiv 2303.16058, section 4; AVA) as a Transformers Trainer.

The published recipe: layer-wise learning-rate decay, a warm-up from 0, one view of each key frame, no gradient
clipping, and none of mixup, label smoothing and weight averaging.

The loss of a step is the mean over its key frames of the model's loss, which is a sum over the boxes of a key frame:
each box has the same weight, and a key frame with many persons more than one with few. It is the same for one process
with a large batch, several processes and accumulated batches. The official loss is the sum over the key frames of a
process, averaged over processes: this one times the key frames of a process. AdamW divides the gradient by its size,
so that such a factor changes no step.

Evaluation scores the model over all processes, as `umt evaluate --task detection` does.
"""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from transformers import PreTrainedModel

from processing_umt import UMTVideoProcessor

from ..cards.detection_card import detection_sections
from ..cards.trainer_card import CardSections
from ..data.key_frame_dataset import collate_key_frames
from ..evaluation.detection import evaluate_detection
from ..evaluation.detection_set import DetectionSet
from .activation_checkpointing import checkpoint_first_blocks
from .base_trainer import UMTTrainer
from .training_arguments import UMTTrainingArguments


@dataclass
class UMTActionDetectionArguments(UMTTrainingArguments):
    """Arguments of [`UMTActionDetectionTrainer`]. The defaults are common to the published recipes.

    Args:
        layer_decay: Factor of the learning rate from each layer to the one before it; 0.75 for B/16, 0.85 for L/16.
        checkpoint_blocks: Number of blocks, from the first, whose activations are recomputed in the backward pass.
    """

    ranges: ClassVar[dict[str, str]] = UMTTrainingArguments.ranges | {"checkpoint_blocks": "[0, inf)"}

    layer_decay: float = 0.75
    checkpoint_blocks: int = 0
    base_learning_rate: float = 2.5e-4
    base_min_learning_rate: float = 1e-6
    base_warmup_learning_rate: float = 0.0


class UMTActionDetectionTrainer(UMTTrainer):
    """Fine-tunes a [`UMTForActionDetection`]. Evaluation measures the frame mAP at IoU 0.5.

    Args:
        model ([`UMTForActionDetection`]): The model.
        args ([`UMTActionDetectionArguments`]): The training arguments.
        processing_class ([`UMTVideoProcessor`]): The processor of the model, for evaluation.
        eval_dataset ([`DetectionSet`], *optional*): Annotated actions and the persons to classify, in place of a data
            set of clips.
        kwargs: Further arguments of [`UMTTrainer`]. `train_dataset` is a `KeyFrameDataset`.

    Raises:
        ValueError: if the model has fewer than `checkpoint_blocks` blocks.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        args: UMTActionDetectionArguments,
        processing_class: UMTVideoProcessor,
        eval_dataset: DetectionSet | None = None,
        **kwargs,
    ):
        super().__init__(
            model=model,
            args=args,
            processing_class=processing_class,
            data_collator=partial(collate_key_frames, size_divisor=model.config.patch_size),
            eval_dataset=eval_dataset,
            **kwargs,
        )
        checkpoint_first_blocks(model, args.checkpoint_blocks)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Mean over the key frames of the sum over boxes of the mean over classes."""
        outputs = model(
            pixel_values_videos=inputs["pixel_values_videos"],
            boxes=inputs["boxes"],
            box_mask=inputs["box_mask"],
            labels=inputs["labels"],
        )
        loss = outputs.loss / len(inputs["pixel_values_videos"])
        return (loss, outputs) if return_outputs else loss

    def evaluate(
        self,
        eval_dataset: DetectionSet | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Frame mAP at IoU 0.5 in percent: `eval_map50`, and, if persons were detected, `eval_annotated_map50` with
        the annotated boxes."""
        dtypes = {"fp16": torch.float16, "bf16": torch.bfloat16}
        scores = evaluate_detection(
            self.accelerator.unwrap_model(self.model),
            self.processing_class,
            self.eval_dataset if eval_dataset is None else eval_dataset,
            batch_size=self.args.per_device_eval_batch_size,
            num_workers=self.args.dataloader_num_workers,
            autocast_dtype=dtypes.get(self.args.mixed_precision),
        )
        for video, reason, _ in scores.skipped if self.is_world_process_zero() else ():
            print(f"evaluation: {video} cannot be read ({reason}); its persons are missed", flush=True)
        metrics = {"map50": scores.result.map50}
        if scores.annotated_result is not None:
            metrics["annotated_map50"] = scores.annotated_result.map50
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def card_sections(self) -> CardSections:
        return detection_sections(self)
