"""DINOv2 behind the teacher's interface: another image model that a UMT student can be aligned with.

DINOv2 has no projection, so its features are the normed patch tokens.
"""

import os
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import Dinov2Model, PreTrainedConfig

from .backbone_teacher_umt import UMTBackboneTeacher, attention_row, split_heads


class UMTDinov2Teacher(UMTBackboneTeacher):
    """A frozen `Dinov2Model` as teacher; arguments and errors are those of [`UMTBackboneTeacher`]."""

    model_types: ClassVar[tuple[str, ...]] = ("dinov2",)
    family: ClassVar[str] = "DINOv2"
    example: ClassVar[str] = "facebook/dinov2-large"

    @classmethod
    def load_backbone(cls, name: str | os.PathLike, source: PreTrainedConfig) -> Dinov2Model:
        return Dinov2Model.from_pretrained(name)

    @property
    def layers(self) -> nn.ModuleList:
        return self.backbone.encoder.layer

    def embed_frames(self, frames: torch.Tensor) -> tuple[torch.Tensor, dict[str, Any]]:
        return self.backbone.embeddings(self.backbone_frames(frames)), {}  # (B*T, 1 + S, D)

    def cls_attention(self, hidden_states: torch.Tensor, **kwargs: Any) -> tuple[torch.Tensor, None]:
        layer = self.layers[-1]
        attention, hidden_states = layer.attention, layer.norm1(hidden_states)
        # Transformers moved these within 5.x
        q_proj = attention.q_proj if hasattr(attention, "q_proj") else attention.attention.query
        k_proj = attention.k_proj if hasattr(attention, "k_proj") else attention.attention.key
        heads = self.config.num_attention_heads
        row = attention_row(
            split_heads(q_proj(hidden_states[:, :1]), heads), split_heads(k_proj(hidden_states), heads)
        )
        return row[:, 1:], None

    def project(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.backbone.layernorm(hidden_states)
