"""DINOv2 behind the teacher's interface: another image model that a UMT student can be aligned with.

The paper's teacher is CLIP; this adapter exists because the method asks only for features per patch and one attention
row. Unusual: DINOv2 has no projection, so its features are the normed patch tokens themselves, and it was trained on
ImageNet's statistics, so the student's clip needs no other normalisation.
"""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoConfig, Dinov2Model

from .configuration_umt import UMTTeacherConfig, aligned_layers
from .modeling_umt_teacher import UMTTeacherOutput, check_one_mask, patch_tokens, prepare_frames, resolve_mask


class UMTDinov2Teacher(nn.Module):
    """A frozen `Dinov2Model` as teacher; a drop-in for [`UMTTeacherModel`] in training.

    Args:
        backbone (`Dinov2Model`): The model whose patch tokens are the targets.
        image_size (`int`, *optional*): Pixels of the frames it sees, by default 14 patches a side: the grid of a
            student with patches of 16 at 224 pixels. DINOv2 resizes its own position table.
        fields: `num_aligned_layers`, `aligned_layer_interval` and `target_norm` of [`UMTTeacherConfig`].
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
        """A teacher from a DINOv2 checkpoint, e.g. `"facebook/dinov2-large"`; see the class for the arguments.

        Raises:
            ValueError: if the checkpoint is another model's.
        """
        family = AutoConfig.from_pretrained(pretrained_model_name_or_path).model_type
        if family != "dinov2":
            raise ValueError(
                f"{pretrained_model_name_or_path!r} holds a {family!r} model; a DINOv2 checkpoint was expected, e.g. "
                '"facebook/dinov2-large".'
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
        """Look at a clip frame by frame; arguments, result and errors are those of [`UMTTeacherModel.forward`]."""
        check_one_mask(bool_masked_pos, visible_indices, token_selector)
        frames = prepare_frames(pixel_values_videos, self.config, interpolate_pos_encoding)  # (B*T, C, H, W)
        batch, num_frames = pixel_values_videos.shape[:2]

        hidden_states = self.backbone.embeddings(frames.to(self.backbone.dtype))  # (B*T, 1 + S, D)
        aligned = []
        layers = self.backbone.encoder.layer
        for depth, layer in enumerate(layers):
            if depth == len(layers) - 1:
                cls_attention = self.cls_attention(layer, hidden_states).unflatten(0, (batch, num_frames))
            hidden_states = layer(hidden_states)
            if depth in self.aligned_layers:
                aligned.append(hidden_states)

        visible_indices = resolve_mask(cls_attention, bool_masked_pos, visible_indices, token_selector)
        features = [self.backbone.layernorm(patch_tokens(state, num_frames, visible_indices)) for state in aligned]
        if self.config.target_norm == "l2":
            features = [F.normalize(feature, dim=-1) for feature in features]
        return UMTTeacherOutput(
            features=torch.stack(features, dim=1), cls_attention=cls_attention, visible_indices=visible_indices
        )

    def cls_attention(self, layer: nn.Module, hidden_states: torch.Tensor) -> torch.Tensor:
        """The class token's weights for the patches in `layer`, mean over heads: (B*T, 1 + S, D) to (B*T, S)."""
        attention, states = layer.attention, layer.norm1(hidden_states)
        # Transformers moved these within 5.x
        q_proj = attention.q_proj if hasattr(attention, "q_proj") else attention.attention.query
        k_proj = attention.k_proj if hasattr(attention, "k_proj") else attention.attention.key
        heads = (self.config.num_attention_heads, -1)
        query = q_proj(states[:, :1]).unflatten(-1, heads).transpose(1, 2)  # (B*T, heads, 1, head_dim)
        key = k_proj(states).unflatten(-1, heads).transpose(1, 2)
        weights = (query * key.shape[-1] ** -0.5) @ key.transpose(-1, -2)
        return weights.softmax(dim=-1, dtype=torch.float32).mean(dim=1)[:, 0, 1:]
