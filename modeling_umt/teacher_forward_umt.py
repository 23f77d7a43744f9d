"""The forward pass that all teachers share (arXiv 2303.16058, section 3): single frames in, features of K layers at
the visible tokens and one row of attention to the patches out, in CLIP the class token's in the last layer.

Shape legend: B batch, T frames, C channels, P tokens before the patches of a frame, S patch tokens per frame
(N = T * S), V visible tokens, D hidden size, K aligned layers, F projection size.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers.utils import ModelOutput

from .configuration_umt import UMTTeacherConfig
from .token_selection_umt import resolve_visible_indices


@dataclass
class UMTTeacherOutput(ModelOutput):
    """Output of a teacher.

    Args:
        features (`(batch, num_aligned_layers, visible, projection_dim)`): Features of the visible tokens, or of all
            tokens without a mask, shallowest layer first, tokens frame-major. Unit vectors with `target_norm="l2"`.
        cls_attention (`(batch, frames, tokens per frame)`): Attention of the class token to the patches in the last
            block, or of a pooling head's query to them, mean over heads. The weights of tokens that are not patches
            are cut off and the rest not renormalised.
        visible_indices (int64 `(batch, visible)`): The mask that was given or selected; None without one.
        hidden_states: With `output_hidden_states=True`, of [`UMTTeacherModel`]: (batch * frames, 1 + tokens per frame,
            hidden_size) each.
        attentions: With `output_attentions=True` and eager attention, of [`UMTTeacherModel`]: one map per block.
    """

    features: torch.FloatTensor | None = None
    cls_attention: torch.FloatTensor | None = None
    visible_indices: torch.LongTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


class UMTTeacherForwardMixin:
    """The shared forward pass; the teacher of an image model has these attributes and defines these methods."""

    config: UMTTeacherConfig
    aligned_layers: list[int]
    layers: Sequence[nn.Module]
    num_prefix_tokens: int = 1  # P: the class token, and registers

    def embed_frames(self, frames: torch.Tensor) -> tuple[torch.Tensor, dict[str, Any]]:
        """Frames (B*T, C, H, W) to the first layer's input (B*T, P + S, D), and further arguments of every layer."""
        raise NotImplementedError

    def cls_attention(self, hidden_states: torch.Tensor, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The attention to the patches by which tokens are selected, mean over heads.

        Input of the last layer (B*T, P + S, D) to the weights (B*T, S), float32, and what `last_layer` reuses.
        """
        raise NotImplementedError

    def last_layer(
        self,
        hidden_states: torch.Tensor,
        reused: torch.Tensor | None,
        select_tokens: Callable[[torch.Tensor], torch.Tensor],
        **kwargs: Any,
    ) -> torch.Tensor:
        """Input of the last layer (B*T, P + S, D) to its output at the selected patch tokens (B, V, D)."""
        raise NotImplementedError

    def project(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Patch tokens of an aligned layer (B, V, D) in the target space (B, V, F)."""
        raise NotImplementedError

    def forward_clips(
        self,
        pixel_values_videos: torch.Tensor,
        bool_masked_pos: torch.Tensor | None = None,
        visible_indices: torch.Tensor | None = None,
        token_selector: Callable[[torch.Tensor], torch.Tensor] | None = None,
        interpolate_pos_encoding: bool = False,
        **kwargs: Any,
    ) -> UMTTeacherOutput:
        """Arguments, result and errors are those of [`UMTTeacherModel.forward`]; `kwargs` go to the layers."""
        if sum(mask is not None for mask in (bool_masked_pos, visible_indices, token_selector)) > 1:
            raise ValueError("Give at most one of `bool_masked_pos`, `visible_indices` and `token_selector`.")
        frames = prepare_frames(pixel_values_videos, self.config, interpolate_pos_encoding)  # (B*T, C, H, W)
        batch, num_frames = pixel_values_videos.shape[:2]

        hidden_states, layer_arguments = self.embed_frames(frames)  # (B*T, P + S, D)
        kwargs |= layer_arguments
        aligned = []
        for depth, layer in enumerate(self.layers[:-1]):
            hidden_states = layer(hidden_states, **kwargs)
            if depth in self.aligned_layers:
                aligned.append(hidden_states)

        attention_row, reused = self.cls_attention(hidden_states, **kwargs)
        cls_attention = attention_row.unflatten(0, (batch, num_frames))  # (B, T, S)
        if token_selector is not None:
            visible_indices = token_selector(cls_attention)
        visible_indices = resolve_visible_indices(
            batch,
            math.prod(cls_attention.shape[1:]),
            bool_masked_pos,
            visible_indices,
            allow_repeats=token_selector is not None,
        )
        select_tokens = partial(
            patch_tokens,
            num_frames=num_frames,
            visible_indices=visible_indices,
            num_prefix_tokens=self.num_prefix_tokens,
        )
        aligned = [select_tokens(state) for state in aligned]  # (B, V, D) each
        aligned.append(self.last_layer(hidden_states, reused, select_tokens, **kwargs))
        features = torch.stack([self.project(state) for state in aligned], dim=1)  # (B, K, V, F)
        if self.config.target_norm == "l2":
            features = F.normalize(features, dim=-1)
        return UMTTeacherOutput(features=features, cls_attention=cls_attention, visible_indices=visible_indices)


def prepare_frames(
    pixel_values_videos: torch.Tensor, config: UMTTeacherConfig, interpolate_pos_encoding: bool
) -> torch.Tensor:
    """Clips (B, T, C, H, W) as single frames (B*T, C, H', W') of a size that the teacher accepts.

    Raises:
        ValueError: if the clips are not a float tensor of that shape, or do not divide into patches.
    """
    shape, side, patch = tuple(pixel_values_videos.shape), config.image_size, config.patch_size
    fits = len(shape) == 5 and shape[2] == config.num_channels and 0 not in shape
    if not fits or not pixel_values_videos.is_floating_point():
        raise ValueError(
            f"`pixel_values_videos` must be a floating point tensor (batch, frames, {config.num_channels} channels, "
            f"height, width), and not empty, but is {pixel_values_videos.dtype} {shape}."
        )
    frames = pixel_values_videos.flatten(0, 1)
    if interpolate_pos_encoding:
        if shape[3] % patch or shape[4] % patch:
            raise ValueError(
                f"With `interpolate_pos_encoding` height and width must be multiples of `patch_size` {patch}, but the "
                f"frames have {shape[3]} x {shape[4]} pixels."
            )
    elif shape[3:] != (side, side):
        frames = F.interpolate(frames, size=(side, side), mode="bicubic", align_corners=False)
    return frames


def patch_tokens(
    hidden_states: torch.Tensor, num_frames: int, visible_indices: torch.Tensor | None, num_prefix_tokens: int = 1
) -> torch.Tensor:
    """The patch tokens of single frames (B*T, P + S, D) at `visible_indices` (B, V): (B, V, D); all without a mask."""
    clips = hidden_states.unflatten(0, (-1, num_frames))  # (B, T, P + S, D)
    if visible_indices is None:
        return clips[:, :, num_prefix_tokens:].flatten(1, 2)
    # skip the tokens before every frame's patches
    frame = visible_indices // (clips.shape[2] - num_prefix_tokens)
    positions = visible_indices + (frame + 1) * num_prefix_tokens
    return clips.flatten(1, 2).gather(1, positions[..., None].expand(-1, -1, clips.shape[-1]))


__all__ = ["UMTTeacherForwardMixin", "UMTTeacherOutput"]
