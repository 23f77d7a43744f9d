"""Image models of Transformers behind the teacher's interface (arXiv 2303.16058, section 3).

The paper's teacher is CLIP, but the method requires only features per patch and one row of attention. The student's
clip is normalised with the statistics of ImageNet; a teacher of a family with others normalises it again.

This file and those of its subclasses are not copied to the Hub: a run needs its teacher, the trained model does not.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.image_processing_base import ImageProcessingMixin
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from .configuration_checks_umt import aligned_layers
from .configuration_umt import UMTTeacherConfig
from .teacher_forward_umt import UMTTeacherForwardMixin, UMTTeacherOutput


class UMTBackboneTeacher(UMTTeacherForwardMixin, nn.Module):
    """A frozen image model as teacher; a drop-in for [`UMTTeacherModel`] in training.

    A subclass states the family and defines `layers` and the methods of [`UMTTeacherForwardMixin`].

    Args:
        backbone (`PreTrainedModel`): The model whose patch tokens are the targets.
        image_size (`int`, *optional*): Side of the teacher's input frames in pixels. Defaults to 14 patches, the grid
            of a student with patches of 16 at 224 pixels. The backbone's positions are resized.
        image_mean, image_std (*optional*): Statistics per channel with which the backbone's images are normalised.
            Default to those of the family.
        fields: `num_aligned_layers`, `aligned_layer_interval` and `target_norm` of [`UMTTeacherConfig`].

    Raises:
        ValueError: if the aligned layers are not distinct layers of the model, or the statistics do not fit its
            channels.
    """

    model_types: ClassVar[tuple[str, ...]]
    family: ClassVar[str]
    example: ClassVar[str]  # of a checkpoint
    family_mean: ClassVar[Sequence[float]] = IMAGENET_DEFAULT_MEAN
    family_std: ClassVar[Sequence[float]] = IMAGENET_DEFAULT_STD

    def __init__(
        self,
        backbone: PreTrainedModel,
        image_size: int | None = None,
        image_mean: Sequence[float] | None = None,
        image_std: Sequence[float] | None = None,
        **fields,
    ):
        super().__init__()
        theirs = backbone.config
        self.backbone = backbone
        self.config = UMTTeacherConfig(
            image_size=14 * theirs.patch_size if image_size is None else image_size,
            patch_size=theirs.patch_size,
            num_channels=theirs.num_channels,
            hidden_size=theirs.hidden_size,
            num_hidden_layers=theirs.num_hidden_layers,
            num_attention_heads=theirs.num_attention_heads,
            projection_dim=theirs.hidden_size,
            **fields,
        )
        self.aligned_layers = aligned_layers(self.config)
        self.image_mean = list(self.family_mean if image_mean is None else image_mean)
        self.image_std = list(self.family_std if image_std is None else image_std)
        if self.normalizes_again and not len(self.image_mean) == len(self.image_std) == theirs.num_channels == 3:
            raise ValueError(
                f"The teacher has {theirs.num_channels} channels, and its images are normalised with the mean "
                f"{self.image_mean} and the standard deviation {self.image_std}; clips normalised with the three of "
                "ImageNet can't be converted."
            )

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike, image_size: int | None = None, **fields
    ):
        """A teacher in eval mode from a checkpoint in Transformers' layout.

        The statistics are those of the checkpoint's image processor, if it has one, else those of the family.

        Args:
            pretrained_model_name_or_path: Hub id or folder.
            image_size, fields: See the class.

        Raises:
            ValueError: if the checkpoint is of another model, or lacks weights.
        """
        source = AutoConfig.from_pretrained(pretrained_model_name_or_path)
        if source.model_type not in cls.model_types:
            raise ValueError(
                f"{pretrained_model_name_or_path!r} contains a {source.model_type!r} model; a {cls.family} checkpoint "
                f'was expected, e.g. "{cls.example}".'
            )
        backbone = cls.load_backbone(pretrained_model_name_or_path, source)
        return cls(backbone, image_size, **saved_statistics(pretrained_model_name_or_path), **fields).eval()

    @classmethod
    def load_backbone(cls, name: str | os.PathLike, source: PreTrainedConfig) -> PreTrainedModel:
        """The backbone of a checkpoint with the configuration `source`."""
        raise NotImplementedError

    def forward(
        self,
        pixel_values_videos: torch.Tensor,
        bool_masked_pos: torch.Tensor | None = None,
        visible_indices: torch.Tensor | None = None,
        token_selector: Callable[[torch.Tensor], torch.Tensor] | None = None,
        interpolate_pos_encoding: bool = False,
    ) -> UMTTeacherOutput:
        """Arguments, result and errors are those of [`UMTTeacherModel.forward`]."""
        return self.forward_clips(
            pixel_values_videos, bool_masked_pos, visible_indices, token_selector, interpolate_pos_encoding
        )

    @property
    def normalizes_again(self) -> bool:
        """Whether the backbone's statistics are not those of the student's clip."""
        return (self.image_mean, self.image_std) != (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)

    def backbone_frames(self, frames: torch.Tensor) -> torch.Tensor:
        """Frames (B*T, C, H, W) of the student's clip, as the backbone takes them."""
        if self.normalizes_again:
            options = {"dtype": torch.float32, "device": frames.device}
            clip_mean, clip_std = (torch.tensor(s, **options) for s in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
            mean, std = (torch.tensor(statistic, **options) for statistic in (self.image_mean, self.image_std))
            scale, shift = clip_std / std, (clip_mean - mean) / std
            frames = frames * scale[:, None, None] + shift[:, None, None]
        return frames.to(self.backbone.dtype)

    def last_layer(
        self,
        hidden_states: torch.Tensor,
        reused: None,
        select_tokens: Callable[[torch.Tensor], torch.Tensor],
        **kwargs: Any,
    ) -> torch.Tensor:
        return select_tokens(self.layers[-1](hidden_states, **kwargs))


def saved_statistics(name: str | os.PathLike) -> dict[str, Sequence[float]]:
    """`image_mean` and `image_std` of a checkpoint's image processor; empty without one."""
    try:
        processor, _ = ImageProcessingMixin.get_image_processor_dict(name)
    except OSError:
        return {}
    return {key: processor[key] for key in ("image_mean", "image_std") if processor.get(key) is not None}


def split_heads(states: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Projected states (B*T, N, D) as (B*T, heads, N, head_dim)."""
    return states.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def attention_row(query_states: torch.Tensor, key_states: torch.Tensor) -> torch.Tensor:
    """Attention of one query (B*T, heads, 1, head_dim) to the keys (B*T, heads, N, head_dim): (B*T, N), float32.

    The mean over heads.
    """
    attn_weights = (query_states * key_states.shape[-1] ** -0.5) @ key_states.transpose(-1, -2)
    return attn_weights.softmax(dim=-1, dtype=torch.float32).mean(dim=1)[:, 0]
