"""Callbacks that draw pictures in the output folder: the curves of a run and, in pre-training, masks and predictions.

An error while drawing becomes a warning with its traceback, because a picture must not stop a training run; the
project's own tests turn this warning into an error. The masks are drawn once, before the first step, because the clip,
its masks and the teacher do not change during the run.
"""

import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import IterableDataset
from transformers import TrainerCallback
from transformers.integrations import TensorBoardCallback

from modeling_umt.objectives_umt import feature_targets

from ..data.batching import is_dead_worker
from ..data.video_dataset import VideoClipDataset
from .curves import draw_curves, points
from .drawing import save_picture
from .mask_pictures import draw_mask_strip
from .masked_modeling_pictures import draw_masked_clip, draw_predictions

# paths in the output folder of a run
CURVES = "pictures/curves.png"
MASKS = "pictures/masks.png"
PREDICTIONS = "pictures/predictions.png"


class CurvePicture(TrainerCallback):
    """Draws `output_dir/pictures/curves.png` at every checkpoint and at the end, if a loss was logged."""

    def on_save(self, args, state, control, **kwargs):
        if state.is_world_process_zero and points(state.log_history, "loss"):
            with warn_on_failure("the curves"):
                picture = draw_curves({Path(args.output_dir).name: state.log_history})
                save_picture(picture, Path(args.output_dir, CURVES))

    def on_train_end(self, args, state, control, **kwargs):
        self.on_save(args, state, control)


class MaskPicture(TrainerCallback):
    """Draws `output_dir/pictures/masks.png` before the first step, and adds it to TensorBoard if that is enabled.

    The clip is that of `first_clip`; without one nothing is drawn.

    Args:
        trainer: The trainer.
        draw: `draw(trainer, batch)` of the batch of that clip.
    """

    def __init__(self, trainer: Any, draw: Callable[[Any, dict[str, Any]], Image.Image]):
        self.trainer, self.draw = trainer, draw

    def on_train_begin(self, args, state, control, **kwargs):
        with warn_on_failure("the picture of the masks"):
            batch = first_clip(self.trainer)
            if batch is None:
                return
            picture = self.draw(self.trainer, batch)
            save_picture(picture, Path(args.output_dir, MASKS))
            for callback in self.trainer.callback_handler.callbacks:
                if isinstance(callback, TensorBoardCallback) and callback.tb_writer is not None:
                    callback.tb_writer.add_image("masks", np.asarray(picture), state.global_step, dataformats="HWC")


class PredictionPicture(TrainerCallback):
    """Draws `output_dir/pictures/predictions.png` at every checkpoint and at the end: the targets of masked modelling
    in the first clip beside the student's predictions.

    Nothing is drawn if the student is sharded, because one process can't run it alone.
    """

    def __init__(self, trainer: Any):
        self.trainer = trainer

    def on_save(self, args, state, control, **kwargs):
        if self.trainer.is_fsdp_enabled or self.trainer.is_deepspeed_enabled:
            return
        with warn_on_failure("the picture of the predictions"):
            batch = first_clip(self.trainer)
            if batch is not None:
                save_picture(draw_predictions_of_run(self.trainer, batch), Path(args.output_dir, PREDICTIONS))

    def on_train_end(self, args, state, control, **kwargs):
        self.on_save(args, state, control)


def first_clip(trainer: Any) -> dict[str, Any] | None:
    """The batch of the clip of index 0 in epoch 0, the same in all runs with the same seed; None to draw nothing.

    Nothing is drawn by other processes than the main one, for a stream, which has no indices, or if the run pushes to
    the Hub: a push uploads the entire folder, and frames of the training videos must not be published unintentionally.
    """
    dataset = trainer.train_dataset
    if not trainer.is_world_process_zero() or trainer.args.push_to_hub or isinstance(dataset, IterableDataset):
        return None
    sample = dataset[(0, 0) if isinstance(dataset, VideoClipDataset) else 0]
    batch = trainer.data_collator([sample])  # one clip for each view of the video, of which the first is drawn
    return {
        name: value[:1].to(trainer.args.device) for name, value in batch.items() if isinstance(value, torch.Tensor)
    }


@torch.no_grad()
def draw_attention_masks(trainer: Any, batch: dict[str, Any]) -> Image.Image:
    """A picture of the first clip of a run of stage 1 or distillation, its masks in epoch 0, and what they follow
    from: the teacher's attention, or the motion."""
    clip = trainer.pixel_values(batch["pixel_values_videos"])
    with trainer.compute_loss_context_manager():
        cls_attention = trainer.teacher(clip).cls_attention  # (1, T, S)
    args, seeds = trainer.args, batch["sample_seeds"]
    scores, masks = trainer.draw_masks(clip, cls_attention, seeds, args.mask_ratio, args.num_masks_per_clip)
    title = f"The first training clip, {args.mask_type} masks"
    scored = "motion" if trainer.token_selection == "motion" else "attention"
    return draw_mask_strip(clip[0], masks[0], scores[0], trainer.model.config.token_grid[1:], title, scored)


def draw_token_masks(trainer: Any, batch: dict[str, Any]) -> Image.Image:
    """A picture of the first clip of a run of masked modelling and its mask in epoch 0."""
    clips = trainer.student_clips(batch)
    visible_indices, _ = trainer.select_tokens(clips, batch["sample_seeds"])
    title = f"The first training clip, {trainer.args.mask_type} mask"
    return draw_masked_clip(clips[0], visible_indices[0], trainer.model.config, title)


@torch.no_grad()
def draw_predictions_of_run(trainer: Any, batch: dict[str, Any]) -> Image.Image:
    """A picture of the targets in the first clip of a run of masked modelling, and of the student's predictions."""
    clips, config = trainer.student_clips(batch), trainer.model.config
    visible_indices, target_indices = trainer.select_tokens(clips, batch["sample_seeds"])
    student = trainer.accelerator.unwrap_model(trainer.model)
    was_training = student.training
    student.eval()
    # accelerate wraps only the `forward` of training in autocast
    with trainer.accelerator.autocast():
        targets = trainer.compute_targets(clips, batch, target_indices)
        predictions = student(clips, visible_indices=visible_indices, target_indices=target_indices).predictions
    student.train(was_training)
    return draw_predictions(
        clips[0],
        visible_indices[0],
        target_indices[0],
        {name: prediction[0] for name, prediction in predictions.items()},
        {name: feature_targets(features[0], config) for name, features in targets.items()},
        config,
        f"The first training clip at step {trainer.state.global_step}",
    )


@contextmanager
def warn_on_failure(what: str) -> Iterator[None]:
    """Turn an error into a warning with its traceback, unless it is of the data loader."""
    try:
        yield
    except Exception as error:
        if is_dead_worker(error):
            raise
        warnings.warn(f"The run continues without {what}:\n{traceback.format_exc()}", RuntimeWarning, stacklevel=3)
