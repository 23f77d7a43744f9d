"""Masked modelling as a Transformers Trainer: MVD (arXiv 2212.04500), VideoMAE (arXiv 2203.12602), EVEREST (arXiv
2211.10636).

A mask hides most tokens of a clip. The student encodes the visible ones, and predicts at the others the features of
frozen teachers (MVD: of MAE for every second frame, and of VideoMAE) or the pixels. With `mask_type="motion"` only the
tokens that change most take part (`masked_tokens.py`).

Unusual: the teachers encode all tokens of a clip, which attend to each other, but only the features at the target
tokens are compared.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import PreTrainedModel

from modeling_umt.video_embeddings_umt import clip_token_grid

from ..pictures.run_pictures import MaskPicture, PredictionPicture, draw_token_masks
from .base_trainer import UMTTrainer
from .loss_parts import LossParts
from .masked_modeling_teachers import check_teachers_fit, frame_step, teacher_image_size
from .masked_tokens import num_pool_frames, select_masked_tokens, select_pool_frames
from .teacher_student import MOTION, TOKEN_SELECTIONS, frozen_teacher, require_unsharded
from .training_arguments import UMTTrainingArguments

MASK_TYPES = ("tube", "random", MOTION)  # those that need no attention of a teacher


@dataclass
class UMTMaskedModelingArguments(UMTTrainingArguments):
    """Arguments of [`UMTMaskedModelingTrainer`]. The defaults are those of the published MVD runs of 400 epochs.

    Args:
        mask_type: Token selection: `"tube"`, the same positions in every frame, `"random"`, or `"motion"`, from the
            tokens whose embeddings by the student differ most from the same place one time step earlier (EVEREST).
        mask_ratio: Fraction of the tokens hidden from the student: of those of a frame for `"tube"`, of those of the
            clip for `"random"`, rounded down. For `"motion"` the visible ones are rounded down instead, as in EVEREST.
        keep_ratio: For `"motion"`, which requires it: fraction of the tokens that change most and take part, 0.3 in
            EVEREST. Of these, `(1 - mask_ratio)` of all tokens are visible, and the others are predicted.
        frame_pool_ratio: For `"motion"`: the frames of a clip are selected from this many times as many, those with
            the most kept tokens being the most likely; 1.5 in EVEREST's run on untrimmed videos. 1: no selection.
    """

    ranges: ClassVar[dict[str, str]] = UMTTrainingArguments.ranges | {
        "mask_ratio": "(0, 1)",
        "keep_ratio": "(0, 1]",
        "frame_pool_ratio": "[1, inf)",
    }

    mask_type: str = "tube"
    mask_ratio: float = 0.9
    keep_ratio: float | None = None
    frame_pool_ratio: float = 1.0
    adam_beta2: float = 0.95
    base_min_learning_rate: float = 1e-4
    warmup_epochs: float = 40.0
    num_train_epochs: float = 401.0

    def __post_init__(self):
        super().__post_init__()
        if self.mask_type not in MASK_TYPES:
            raise ValueError(f"`mask_type` must be one of {', '.join(MASK_TYPES)}, but is {self.mask_type!r}.")
        if self.mask_type == MOTION:
            if self.keep_ratio is None:
                raise ValueError("`mask_type` 'motion' requires a `keep_ratio`; EVEREST keeps 0.3 of the tokens.")
            return
        for name, unused in (("keep_ratio", None), ("frame_pool_ratio", 1)):
            if getattr(self, name) != unused:
                raise ValueError(
                    f"`{name}` {getattr(self, name)} was given, but only `mask_type` 'motion' uses it; leave it out."
                )


class UMTMaskedModelingTrainer(UMTTrainer):
    """Trains a [`UMTForMaskedModeling`] to predict the features of frozen teachers, or pixels, at the hidden tokens.

    The log lines contain the loss of each target, `loss_<target>`, without its weight. Writes to the output folder
    `pictures/masks.png`, the first training clip under its mask, and at every checkpoint `pictures/predictions.png`,
    the targets in this clip beside the student's predictions.

    Args:
        model ([`UMTForMaskedModeling`]): The student.
        teachers: The teacher of each entry of the student's `masked_targets` but `"pixels"`; None for pixels alone. A
            teacher is [`UMTImageTeacherModel`], [`UMTModel`] with `final_norm="none"`, or a module that maps clips
            `(batch, frames, channels, height, width)` to `last_hidden_state` `(batch, tokens, dim)` and has a
            configuration with `hidden_size`, `patch_size`, `image_height_width` and, if a token covers several
            frames, `tubelet_size` and `num_frames`. Teachers are set to evaluation mode, frozen, moved to the device
            and cast to the precision of the run (bf16 or fp16 under mixed precision). A teacher of single frames gets
            every `tubelet_size`-th frame of the student's clip.
        args ([`UMTMaskedModelingArguments`]): The training arguments; by default those of the published runs, with
            Transformers' `output_dir`, `"trainer_output"`.
        token_selection (*optional*): Replaces the token selection of `mask_type`, `"tube"` or `"random"`; a function
            with the signature of [`tube_token_selection`], whose first argument contains zeros, because there is no
            attention.
        kwargs: Further arguments of [`UMTTrainer`]. For teachers that take frames of another size than the student's,
            the samples have a second clip, `teacher_pixel_values_videos`; see [`augment_for_masked_modeling`]. With
            `frame_pool_ratio` the clips of the samples have the frames of [`num_pool_frames`].

    Raises:
        ValueError: if the teachers are not those of `masked_targets`, a dimension or token grid differs, or selection
            by motion is not possible: no token would be predicted, a `token_selection` is given, clips of other sizes
            for teachers together with a pool of frames, under FSDP.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        teachers: Mapping[str, nn.Module] | None = None,
        args: UMTMaskedModelingArguments | None = None,
        token_selection: Callable | None = None,
        **kwargs,
    ):
        teachers, args = teachers or {}, args or UMTMaskedModelingArguments("trainer_output")
        configs = {name: teacher.config for name, teacher in teachers.items()}
        check_teachers_fit(model.config, configs)
        self.teacher_clip_size = teacher_image_size(model.config, configs)
        self.frame_steps = {name: frame_step(model.config, config) for name, config in configs.items()}
        self.resized_teachers = {
            name for name, config in configs.items() if config.image_height_width == self.teacher_clip_size
        }
        super().__init__(model=model, args=args, **kwargs)
        self.teachers = {name: frozen_teacher(teacher, args) for name, teacher in teachers.items()}
        self.token_selection = token_selection or TOKEN_SELECTIONS.get(args.mask_type)  # None: by motion
        if args.mask_type == MOTION:
            self.check_motion()
        self.loss_parts = LossParts(self.accelerator)
        self.add_callback(MaskPicture(self, draw_token_masks))
        self.add_callback(PredictionPicture(self))

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        clips = self.student_clips(inputs)
        visible_indices, target_indices = self.select_tokens(clips, inputs["sample_seeds"])
        outputs = model(
            pixel_values_videos=clips,
            visible_indices=visible_indices,
            target_indices=target_indices,
            target_features=self.compute_targets(clips, inputs, target_indices),
        )
        if model.training:  # log lines report training steps only
            for name, loss in outputs.losses.items():
                self.loss_parts.add(f"loss_{name}", loss)
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def check_motion(self) -> None:
        """Raise a ValueError if tokens or frames can't be selected by motion, before a clip is read."""
        require_unsharded(self)
        if self.token_selection is not None:
            raise ValueError("A `token_selection` replaces those of `mask_type` tube and random, but not motion's.")
        if self.resized_teachers and self.args.frame_pool_ratio > 1:
            raise ValueError(
                f"`frame_pool_ratio` {self.args.frame_pool_ratio} selects frames of the student's clips only, but "
                f"the {', '.join(sorted(self.resized_teachers))} teacher takes its own, of "
                f"{self.teacher_clip_size} pixels; leave it out."
            )
        config, device = self.model.config, self.args.device
        num_frames = num_pool_frames(config, self.args.frame_pool_ratio)
        clip = torch.zeros(1, num_frames, config.num_channels, *config.image_height_width, device=device)
        seeds = torch.zeros(1, dtype=torch.int64, device=device)
        self.select_tokens(self.student_clips({"pixel_values_videos": clip, "sample_seeds": seeds}), seeds)

    def student_clips(self, inputs: Mapping[str, Any]) -> torch.Tensor:
        """The normalised clips of a batch (B, T, C, H, W); of more frames than the student's those of most motion.

        Raises:
            ValueError: if the clips do not have the frames from which those of the student are selected.
        """
        clips = self.pixel_values(inputs["pixel_values_videos"])
        config, ratio = self.model.config, self.args.frame_pool_ratio
        if ratio == 1:
            return clips
        num_frames = num_pool_frames(config, ratio)
        if clips.shape[1] != num_frames:
            raise ValueError(
                f"The clips have {clips.shape[1]} frames, but `frame_pool_ratio` {ratio} selects the student's "
                f"{config.num_frames} from {num_frames}; give a data set of clips of {num_frames} frames."
            )
        return select_pool_frames(self.model.base_model, clips, inputs["sample_seeds"], self.args.keep_ratio)

    def select_tokens(self, clips: torch.Tensor, sample_seeds: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The visible tokens of clips, int64 (B, V), and those that are predicted, (B, M)."""
        args = self.args
        return select_masked_tokens(
            self.model.base_model, clips, sample_seeds, args.mask_ratio, args.keep_ratio, self.token_selection
        )

    # Not `inference_mode`, whose tensors can't take part in a backward pass.
    @torch.no_grad()
    def compute_targets(
        self, clips: torch.Tensor, inputs: Mapping[str, Any], target_indices: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """The features of every teacher at the target tokens, (B, M, F) each.

        Args:
            clips: The student's clips, normalised float (B, T, C, H, W).
            inputs: The batch, with `teacher_pixel_values_videos` if a teacher takes clips of another size.
            target_indices: int64 (B, M).

        Raises:
            ValueError: if a teacher's clips are missing or of another size, or it returns another number of tokens.
        """
        if not self.teachers:
            return {}
        num_tokens = math.prod(clip_token_grid(clips, self.model.config, self.model.config.tubelet_size))
        # the time of a step's parts is that of training steps
        with self.timer("teacher" if self.model.training else "evaluation"):
            teacher_clips = self.teacher_clips(inputs) if self.resized_teachers else clips
            features = {}
            for name, teacher in self.teachers.items():
                seen = (teacher_clips if name in self.resized_teachers else clips)[:, :: self.frame_steps[name]]
                tokens = teacher(seen).last_hidden_state  # (B, N, F)
                if tokens.shape[1] != num_tokens:
                    raise ValueError(
                        f"The {name} teacher returns {tokens.shape[1]} tokens for a clip, but the student's has "
                        f"{num_tokens}; a teacher returns the tokens of patches alone, ordered by frame, row, column."
                    )
                features[name] = tokens.gather(1, target_indices[..., None].expand(-1, -1, tokens.shape[-1]))
            return features

    def teacher_clips(self, inputs: Mapping[str, Any]) -> torch.Tensor:
        """The clips of the teachers that take another size than the student, normalised float (B, T, C, H, W)."""
        height, width = self.teacher_clip_size
        clips = inputs.get("teacher_pixel_values_videos")
        if clips is None or clips.shape[-2:] != (height, width):
            given = "there are none" if clips is None else f"they have {clips.shape[-2]} x {clips.shape[-1]}"
            raise ValueError(
                f"The {', '.join(sorted(self.resized_teachers))} teacher takes frames of {height} x {width} pixels, "
                f"which a batch contains as `teacher_pixel_values_videos`, but {given}; `augment_for_masked_modeling` "
                f"with `teacher_size={height}` makes them."
            )
        return self.pixel_values(clips)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """The log line of [`UMTTrainer`] with the mean loss of each target over steps and processes."""
        if "loss" in logs:
            logs.update(self.loss_parts.collect())
        super().log(logs, start_time)
