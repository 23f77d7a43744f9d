"""Callbacks that draw pictures in the output folder: the curves of a run and, in stage 1, its masks.

An error while drawing becomes a warning with its traceback, because a picture must not stop a training run; the
project's own tests turn this warning into an error. The mask strip is drawn once, before the first step, because its
clip, its masks and its teacher do not change during the run.
"""

import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset
from transformers import TrainerCallback
from transformers.integrations import TensorBoardCallback

from ..data.batching import is_dead_worker
from ..data.video_dataset import VideoClipDataset
from .curves import draw_curves, points
from .drawing import save_picture
from .mask_pictures import draw_mask_strip

# paths in the output folder of a run
CURVES = "pictures/curves.png"
MASKS = "pictures/masks.png"


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

    The clip is that of index 0 in epoch 0, so it is the same in all runs with the same seed. Nothing is drawn for a
    stream, which has no indices, or if the run pushes to the Hub: a push uploads the entire folder, and frames of the
    training videos must not be published unintentionally.
    """

    def __init__(self, trainer: Any):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        dataset = self.trainer.train_dataset
        if not state.is_world_process_zero or args.push_to_hub or isinstance(dataset, IterableDataset):
            return
        with warn_on_failure("the picture of the masks"):
            picture = draw_masks_of_run(self.trainer, dataset)
            save_picture(picture, Path(args.output_dir, MASKS))
            for callback in self.trainer.callback_handler.callbacks:
                if isinstance(callback, TensorBoardCallback) and callback.tb_writer is not None:
                    callback.tb_writer.add_image("masks", np.asarray(picture), state.global_step, dataformats="HWC")


@torch.no_grad()
def draw_masks_of_run(trainer: Any, dataset: Dataset) -> Image.Image:
    """A picture of the first clip of a stage-1 run, its masks in epoch 0 and what they follow from: the teacher's
    attention, or the motion."""
    sample = dataset[(0, 0) if isinstance(dataset, VideoClipDataset) else 0]
    batch = trainer.data_collator([sample])  # one clip for each view of the video, of which the first is drawn
    clip = trainer.pixel_values(batch["pixel_values_videos"][:1].to(trainer.args.device))
    seeds = batch["sample_seeds"][:1].to(trainer.args.device)
    with trainer.compute_loss_context_manager():
        cls_attention = trainer.teacher(clip).cls_attention  # (1, T, S)
    args = trainer.args
    scores, masks = trainer.draw_masks(clip, cls_attention, seeds, args.mask_ratio, args.num_masks_per_clip)
    title = f"The first training clip, {args.mask_type} masks"
    scored = "motion" if trainer.token_selection == "motion" else "attention"
    return draw_mask_strip(clip[0], masks[0], scores[0], trainer.model.config.token_grid[1:], title, scored)


@contextmanager
def warn_on_failure(what: str) -> Iterator[None]:
    """Turn an error into a warning with its traceback, unless it is of the data loader."""
    try:
        yield
    except Exception as error:
        if is_dead_worker(error):
            raise
        warnings.warn(f"The run continues without {what}:\n{traceback.format_exc()}", RuntimeWarning, stacklevel=3)
