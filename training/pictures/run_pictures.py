"""Pictures that the trainers leave in their folder: the curves of a run, and in stage 1 what its masks look like.

Not of the paper. Unusual: a picture that fails is a warning with its traceback, and the run goes on, for hours of
training are worth more than a picture; the project's own tests turn that warning into an error. The mask strip is
drawn before the first step and never again: its clip, its mask and its teacher stay the same for the whole run.
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

from modeling_umt.token_selection_umt import draw_masks

from ..data.video_dataset import VideoClipDataset
from .curves import draw_curves, points
from .drawing import save_picture
from .mask_pictures import draw_mask_strip

# in a run's folder
CURVES = "pictures/curves.png"
MASKS = "pictures/masks.png"


class CurvePicture(TrainerCallback):
    """Draws `output_dir/pictures/curves.png` with every checkpoint and at the end, once there is a loss to show."""

    def on_save(self, args, state, control, **kwargs):
        if state.is_world_process_zero and points(state.log_history, "loss"):
            with going_on_without("the curves"):
                picture = draw_curves({Path(args.output_dir).name: state.log_history})
                save_picture(picture, Path(args.output_dir, CURVES))

    def on_train_end(self, args, state, control, **kwargs):
        self.on_save(args, state, control)


class MaskPicture(TrainerCallback):
    """Draws `output_dir/pictures/masks.png` before the first step, and shows it to TensorBoard where that is on.

    The clip is that of index 0 in epoch 0, so it is the same in every run of a seed. There is no picture of a stream,
    which has no index, and none of a run that pushes to the Hub: a push takes all of the folder, and whoever publishes
    a model has not thereby agreed to publish frames of the training videos.
    """

    def __init__(self, trainer: Any):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        dataset = self.trainer.train_dataset
        if not state.is_world_process_zero or args.push_to_hub or isinstance(dataset, IterableDataset):
            return
        with going_on_without("the picture of the masks"):
            picture = draw_masks_of_run(self.trainer, dataset)
            save_picture(picture, Path(args.output_dir, MASKS))
            for report in self.trainer.callback_handler.callbacks:
                if isinstance(report, TensorBoardCallback) and report.tb_writer is not None:
                    report.tb_writer.add_image("masks", np.asarray(picture), state.global_step, dataformats="HWC")


@torch.no_grad()
def draw_masks_of_run(trainer: Any, dataset: Dataset) -> Image.Image:
    """The first clip of a stage-1 run, its masks of epoch 0, and what the run's teacher attends to."""
    sample = dataset[(0, 0) if isinstance(dataset, VideoClipDataset) else 0]
    batch = trainer.data_collator([sample])  # several views of a video make several clips; the first one is drawn
    clip = trainer.pixel_values(batch["pixel_values_videos"][:1].to(trainer.args.device))
    seeds = batch["sample_seeds"][:1].to(trainer.args.device)
    with trainer.compute_loss_context_manager():
        cls_attention = trainer.teacher(clip).cls_attention  # (1, T, S)
    args = trainer.args
    masks = draw_masks(trainer.token_selection, cls_attention, args.mask_ratio, seeds, args.num_masks_per_clip)
    title = f"The first training clip under {args.mask_type} masking"
    return draw_mask_strip(clip[0], masks[0], cls_attention[0], trainer.model.config.token_grid[1:], title)


@contextmanager
def going_on_without(what: str) -> Iterator[None]:
    """Turns an error into a warning that shows where it came from."""
    try:
        yield
    except Exception:
        warnings.warn(f"The run goes on without {what}:\n{traceback.format_exc()}", RuntimeWarning, stacklevel=3)
