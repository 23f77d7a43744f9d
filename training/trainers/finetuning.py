"""Fine-tuning for action recognition (arXiv 2303.16058, section 4.2; method, 10 and 11) as a Transformers Trainer.

Layer-wise learning-rate decay, mixup and cutmix with soft targets, label smoothing, repeated augmentation, an optional
moving average of the weights: the published recipe. Unusual: soft targets never reach the model, because Transformers
takes float labels for a multi-label problem and would train another loss without a word; the trainer computes the
cross-entropy itself, in float32.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.nn import functional as F
from transformers import EarlyStoppingCallback, EvalPrediction, PreTrainedModel, Trainer, TrainerCallback

from processing_umt.augmentation_umt import sample_generator
from processing_umt.mixup_umt import draw_mix, mix_batch, smooth_targets

from ..data.video_dataset import VideoClipDataset
from ..evaluation.classification_metrics import TopKAccuracy
from .activation_checkpointing import checkpoint_first_blocks
from .base_trainer import UMTTrainer, UMTTrainingArguments
from .ema import WeightAverage

# `sample_generator` takes epoch and index; batches get an epoch of their own, far from any real one
MIXING_EPOCH = 2**31


@dataclass
class UMTFineTuningArguments(UMTTrainingArguments):
    """Arguments of [`UMTFineTuningTrainer`]; the defaults are those that the published recipes share.

    Args:
        layer_decay: Scale of the learning rate from each layer to the one before it; 0.75 for B/16, 0.85 for L/16.
        label_smoothing_factor: Share of the target spread over all classes.
        mixup_alpha, cutmix_alpha: Beta distributions of the two ways to mix clips; 0 turns one off.
        views_per_video: Augmented views of each video that is read (repeated augmentation);
            `per_device_train_batch_size` counts videos.
        checkpoint_blocks: Blocks, counted from the first, whose activations are recomputed in the backward pass.
        ema_decay: Decay of a moving average of the weights, which is then what is evaluated and saved at the end.
        early_stopping_patience: Evaluations in a row without a better `metric_for_best_model` that end a run.
    """

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

    def __post_init__(self):
        super().__post_init__()
        if self.views_per_video < 1:
            raise ValueError(f"`views_per_video` must be at least 1, but is {self.views_per_video}.")
        if not 0 <= self.label_smoothing_factor < 1:
            raise ValueError(f"`label_smoothing_factor` must be in [0, 1), but is {self.label_smoothing_factor}.")
        if min(self.mixup_alpha, self.cutmix_alpha) < 0:
            raise ValueError(
                f"`mixup_alpha` is {self.mixup_alpha} and `cutmix_alpha` {self.cutmix_alpha}; each must be 0 (off) or "
                "positive."
            )
        if self.early_stopping_patience is not None and not self.load_best_model_at_end:
            raise ValueError("`early_stopping_patience` needs `load_best_model_at_end`, and an `eval_strategy`.")
        self.views_per_clip = self.views_per_video


class UMTFineTuningTrainer(UMTTrainer):
    """Fine-tunes a [`UMTForVideoClassification`], whole or through peft.

    Args are those of `transformers.Trainer`. `train_dataset` is a `VideoClipDataset` with `labels` that makes
    `args.views_per_video` views; `compute_metrics` defaults to top-1 and top-5 accuracy in percent.

    Raises:
        ValueError: if the data set makes another number of views, or the model has fewer blocks than are to be
            checkpointed.
    """

    def __init__(self, model: PreTrainedModel, args: UMTFineTuningArguments, compute_metrics=None, **kwargs):
        super().__init__(model=model, args=args, compute_metrics=compute_metrics or accuracy, **kwargs)
        if isinstance(self.train_dataset, VideoClipDataset):
            made = self.train_dataset.reader.num_views_per_video
            if made != args.views_per_video:
                raise ValueError(
                    f"The training clips come as {made} views of each video, but `views_per_video` is "
                    f"{args.views_per_video}, from which the learning rate follows; make them the same."
                )
        checkpoint_first_blocks(model, args.checkpoint_blocks)
        if args.ema_decay is not None and self.is_fsdp_enabled:
            raise ValueError("`ema_decay` averages whole parameters, which FSDP takes away; leave one of the two out.")
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
        """Source of chance for mixing a micro-batch: a function of seed, step, micro-batch and process."""
        args = self.args
        micro_batch = len(self.guard.micro_batches)
        number = (self.state.global_step * args.gradient_accumulation_steps + micro_batch) * args.world_size
        return sample_generator(args.seed, MIXING_EPOCH, number + args.process_index)

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """Transformers' own: loss, logits and labels for `compute_metrics`."""
        for name, reason in inputs.pop("broken", []):
            print(f"evaluation: {name} cannot be read ({reason}); another video stands in for it", flush=True)
        return Trainer.prediction_step(self, model, inputs, prediction_loss_only, ignore_keys)

    def evaluate(self, *args, **kwargs) -> dict[str, float]:
        """Transformers' own, with the averaged weights if there is an average."""
        if self.average is None:
            return super().evaluate(*args, **kwargs)
        with self.average.applied():
            return super().evaluate(*args, **kwargs)

    def _save(self, output_dir=None, state_dict=None):
        """Transformers' own; checkpoints hold the average too, while the final model is the average."""
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
    """Updates a `WeightAverage` after every step, and makes it the model's weights at the end."""

    def __init__(self, average: WeightAverage):
        self.average = average

    def on_step_end(self, args, state, control, **kwargs):
        self.average.update()

    def on_train_end(self, args, state, control, **kwargs):
        self.average.copy_to_model(self.average.average)


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """Top-1 and top-5 accuracy in percent, of single views."""
    return TopKAccuracy().compute(predictions=prediction.predictions, references=prediction.label_ids)
