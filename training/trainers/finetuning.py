"""Fine-tuning for action recognition (arXiv 2303.16058, section 4.2) as a Transformers Trainer.

The published recipe: layer-wise learning-rate decay, mixup and cutmix with soft targets, label smoothing, repeated
augmentation, and an optional moving average of the weights.

Unusual: soft targets are not passed to the model, because Transformers treats float labels as a multi-label problem
and would silently train with another loss. The trainer computes the cross-entropy itself, in float32.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch.nn import functional as F
from transformers import EarlyStoppingCallback, EvalPrediction, PreTrainedModel, Trainer, TrainerCallback

from processing_umt.augmentation_umt import sample_generator
from processing_umt.mixup_umt import draw_mix, mix_batch, smooth_targets

from ..data.video_dataset import VideoClipDataset
from ..evaluation.classification_metrics import TopKAccuracy
from .activation_checkpointing import checkpoint_first_blocks
from .base_trainer import UMTTrainer
from .ema import WeightAverage
from .training_arguments import UMTTrainingArguments

# in the seeds of mixing, which therefore differ from those of clips
MIXING_EPOCH = 2**31


@dataclass
class UMTFineTuningArguments(UMTTrainingArguments):
    """Arguments of [`UMTFineTuningTrainer`]. The defaults are common to the published recipes.

    Args:
        layer_decay: Factor of the learning rate from each layer to the one before it; 0.75 for B/16, 0.85 for L/16.
        label_smoothing_factor: Fraction of the target that is spread over all classes.
        mixup_alpha, cutmix_alpha: Parameters of the Beta distributions of mixup and cutmix; 0 disables one.
        views_per_video: Number of augmented views of each video (repeated augmentation);
            `per_device_train_batch_size` counts videos.
        checkpoint_blocks: Number of blocks, from the first, whose activations are recomputed in the backward pass.
        ema_decay: Decay of a moving average of the weights, which is evaluated, and saved at the end, in their place.
        early_stopping_patience: Number of consecutive evaluations without a better `metric_for_best_model` after
            which training stops.
    """

    smooths_labels: ClassVar[bool] = True
    ranges: ClassVar[dict[str, str]] = UMTTrainingArguments.ranges | {
        "views_per_video": "[1, inf)",
        "label_smoothing_factor": "[0, 1)",
        "mixup_alpha": "[0, inf)",
        "cutmix_alpha": "[0, inf)",
        "checkpoint_blocks": "[0, inf)",
        "ema_decay": "(0, 1)",
        "early_stopping_patience": "[1, inf)",
    }

    layer_decay: float = 0.75
    label_smoothing_factor: float = 0.1
    mixup_alpha: float = 0.8
    cutmix_alpha: float = 1.0
    views_per_video: int = 2
    checkpoint_blocks: int = 0
    ema_decay: float | None = None
    early_stopping_patience: int | None = None
    base_learning_rate: float = 1e-4
    base_min_learning_rate: float = 1e-6
    base_warmup_learning_rate: float = 1e-6
    restore_callback_states_from_checkpoint: bool = True  # the counter of early stopping

    def __post_init__(self):
        super().__post_init__()
        if self.early_stopping_patience is not None and not self.load_best_model_at_end:
            raise ValueError("`early_stopping_patience` needs `load_best_model_at_end`, and an `eval_strategy`.")
        self.views_per_clip = self.views_per_video


class UMTFineTuningTrainer(UMTTrainer):
    """Fine-tunes a [`UMTForVideoClassification`], all of it or through peft.

    Args:
        model ([`UMTForVideoClassification`] or `PeftModel`): The classifier.
        args ([`UMTFineTuningArguments`]): The training arguments.
        compute_metrics (*optional*): Defaults to top-1 and, with six classes or more, top-5 accuracy in percent.
        kwargs: Further arguments of [`UMTTrainer`]. `train_dataset` is a `VideoClipDataset` with `labels` and
            `args.views_per_video` views of each video.

    Raises:
        ValueError: if the data set has another number of views, the model has fewer than `checkpoint_blocks` blocks,
            or `ema_decay` is set under FSDP.
    """

    def __init__(self, model: PreTrainedModel, args: UMTFineTuningArguments, compute_metrics=None, **kwargs):
        super().__init__(model=model, args=args, compute_metrics=compute_metrics or accuracy, **kwargs)
        if isinstance(self.train_dataset, VideoClipDataset):
            num_views = self.train_dataset.reader.num_views_per_video
            if num_views != args.views_per_video:
                raise ValueError(
                    f"The training data have {num_views} views of each video, but `views_per_video` is "
                    f"{args.views_per_video}, which determines the learning rate; make them equal."
                )
        checkpoint_first_blocks(model, args.checkpoint_blocks)
        if args.ema_decay is not None and self.is_fsdp_enabled:
            raise ValueError("`ema_decay` averages entire parameters, which FSDP shards; leave one of the two out.")
        self.average = None if args.ema_decay is None else WeightAverage(model, args.ema_decay)
        if self.average is not None:
            self.add_callback(AverageWeights(self.average))
        if args.early_stopping_patience is not None:
            self.add_callback(EarlyStoppingCallback(args.early_stopping_patience))

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        clips, labels = self.pixel_values(inputs["pixel_values_videos"]), inputs["labels"]
        if model.training:
            mix = draw_mix(self.batch_generator(), *clips.shape[-2:], self.args.mixup_alpha, self.args.cutmix_alpha)
            clips, targets = mix_batch(clips, labels, self.num_labels, mix, self.args.label_smoothing_factor)
        else:
            targets = smooth_targets(labels, self.num_labels, label_smoothing=0.0)
        outputs = model(pixel_values_videos=clips)
        loss = F.cross_entropy(outputs.logits.float(), targets)
        return (loss, {"loss": loss, "logits": outputs.logits}) if return_outputs else loss

    @property
    def num_labels(self) -> int:
        return self.model.config.num_labels

    def num_videos(self, batch: dict[str, Any]) -> int:
        return super().num_videos(batch) // self.args.views_per_video

    def batch_generator(self) -> np.random.Generator:
        """The random generator for mixing a micro-batch, seeded by (seed, step, micro-batch, process)."""
        args = self.args
        micro_batch = len(self.guard.micro_batches)
        number = (self.state.global_step * args.gradient_accumulation_steps + micro_batch) * args.world_size
        return sample_generator(args.seed, MIXING_EPOCH, number + args.process_index)

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """Loss, logits and labels for `compute_metrics`, as in `Trainer`."""
        self.report_broken_videos(inputs)
        return Trainer.prediction_step(self, model, inputs, prediction_loss_only, ignore_keys)

    def evaluate(self, *args, **kwargs) -> dict[str, float]:
        """Evaluate as `Trainer` does, with the averaged weights if `ema_decay` is set."""
        if self.average is None:
            return super().evaluate(*args, **kwargs)
        with self.average.applied():
            return super().evaluate(*args, **kwargs)

    def _save(self, output_dir=None, state_dict=None):
        """Save as `Trainer` does; a checkpoint contains the average too, the final model is the average."""
        super()._save(output_dir, state_dict)
        if self.average is not None and self.args.should_save and output_dir not in (None, self.args.output_dir):
            self.average.save(output_dir)

    def _load_best_model(self):
        super()._load_best_model()
        if self.average is not None:
            self.average.load(self.state.best_model_checkpoint)
            self.average.copy_to_model(self.average.average)

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self.average is not None:
            self.average.load(resume_from_checkpoint)


class AverageWeights(TrainerCallback):
    """Updates a `WeightAverage` after every step and copies it to the model at the end of training."""

    def __init__(self, average: WeightAverage):
        self.average = average

    def on_step_end(self, args, state, control, **kwargs):
        self.average.update()

    def on_train_end(self, args, state, control, **kwargs):
        self.average.copy_to_model(self.average.average)


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """Top-1 and, with six classes or more, top-5 accuracy in percent, of single views."""
    return TopKAccuracy().compute(predictions=prediction.predictions, references=prediction.label_ids)
