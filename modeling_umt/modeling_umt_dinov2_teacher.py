"""DINOv2 behind the teacher's interface: another image model that a UMT student can be aligned with.

The paper's teacher is CLIP, but the method requires only features per patch and one row of attention. DINOv2 has no
projection, so its features are the normed patch tokens; it was trained with ImageNet's statistics, so the student's
clip needs no other normalisation.
"""

from collections.abc import Callable

import torch
from torch import nn
from transformers import AutoConfig, Dinov2Model

from .configuration_umt import UMTTeacherConfig, aligned_layers
from .teacher_forward_umt import UMTTeacherForwardMixin, UMTTeacherOutput


class UMTDinov2Teacher(UMTTeacherForwardMixin, nn.Module):
    """A frozen `Dinov2Model` as teacher; a drop-in for [`UMTTeacherModel`] in training.

    Args:
        backbone (`Dinov2Model`): The model whose patch tokens are the targets.
        image_size (`int`, *optional*): Side of the teacher's input frames in pixels. Defaults to 14 patches, the grid
            of a student with patches of 16 at 224 pixels. DINOv2 resizes its own position table.
        fields: `num_aligned_layers`, `aligned_layer_interval` and `target_norm` of [`UMTTeacherConfig`].

    Raises:
        ValueError: if the aligned layers are not distinct layers of the model.
    """

    def __init__(self, backbone: Dinov2Model, image_size: int | None = None, **fields):
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

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str, image_size: int | None = None, **fields):
        """A teacher in eval mode from a DINOv2 checkpoint, e.g. `"facebook/dinov2-large"`.

        `image_size` and `fields`: see the class.

        Raises:
            ValueError: if the checkpoint is of another model.
        """
        family = AutoConfig.from_pretrained(pretrained_model_name_or_path).model_type
        if family != "dinov2":
            raise ValueError(
                f"{pretrained_model_name_or_path!r} contains a {family!r} model; a DINOv2 checkpoint was expected, "
                'e.g. "facebook/dinov2-large".'
            )
        return cls(Dinov2Model.from_pretrained(pretrained_model_name_or_path), image_size, **fields).eval()

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
    def layers(self) -> nn.ModuleList:
        return self.backbone.encoder.layer

    def embed_frames(self, frames: torch.Tensor) -> torch.Tensor:
        return self.backbone.embeddings(frames.to(self.backbone.dtype))  # (B*T, 1 + S, D)

    def cls_attention(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, None]:
        layer = self.layers[-1]
        attention, hidden_states = layer.attention, layer.norm1(hidden_states)
        # Transformers moved these within 5.x
        q_proj = attention.q_proj if hasattr(attention, "q_proj") else attention.attention.query
        k_proj = attention.k_proj if hasattr(attention, "k_proj") else attention.attention.key
        heads = (self.config.num_attention_heads, -1)
        query_states = q_proj(hidden_states[:, :1]).unflatten(-1, heads).transpose(1, 2)  # (B*T, heads, 1, head_dim)
        key_states = k_proj(hidden_states).unflatten(-1, heads).transpose(1, 2)
        attn_weights = (query_states * key_states.shape[-1] ** -0.5) @ key_states.transpose(-1, -2)
        return attn_weights.softmax(dim=-1, dtype=torch.float32).mean(dim=1)[:, 0, 1:], None

    def last_layer(
        self, hidden_states: torch.Tensor, key_states: None, select_tokens: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        return select_tokens(self.layers[-1](hidden_states))

    def project(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.backbone.layernorm(hidden_states)
