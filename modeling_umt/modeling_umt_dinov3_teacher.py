"""DINOv3 behind the teacher's interface: features are the normed patch tokens, attention is the class token's.

Unusual: positions are rotations of queries and keys of the patches, and register tokens stand between the class token
and the patches. Their attention weights are cut off, like the class token's for itself.
"""

import os
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import DINOv3ViTModel, PreTrainedConfig
from transformers.models.dinov3_vit.modeling_dinov3_vit import apply_rotary_pos_emb

from .backbone_teacher_umt import UMTBackboneTeacher, attention_row, split_heads


class UMTDinov3Teacher(UMTBackboneTeacher):
    """A frozen `DINOv3ViTModel` as teacher; arguments and errors are those of [`UMTBackboneTeacher`].

    Checkpoints for web images have the statistics of ImageNet, those for satellite images their own, which their image
    processor contains.
    """

    model_types: ClassVar[tuple[str, ...]] = ("dinov3_vit",)
    family: ClassVar[str] = "DINOv3 ViT"
    example: ClassVar[str] = "facebook/dinov3-vitl16-pretrain-lvd1689m"

    @classmethod
    def load_backbone(cls, name: str | os.PathLike, source: PreTrainedConfig) -> DINOv3ViTModel:
        return DINOv3ViTModel.from_pretrained(name)

    @property
    def layers(self) -> nn.ModuleList:
        return self.backbone.model.layer

    @property
    def num_prefix_tokens(self) -> int:
        return 1 + self.backbone.config.num_register_tokens

    def embed_frames(self, frames: torch.Tensor) -> tuple[torch.Tensor, dict[str, Any]]:
        frames = self.backbone_frames(frames)
        return self.backbone.embeddings(frames), {"position_embeddings": self.backbone.rope_embeddings(frames)}

    def cls_attention(
        self, hidden_states: torch.Tensor, position_embeddings: tuple[torch.Tensor, torch.Tensor], **kwargs: Any
    ) -> tuple[torch.Tensor, None]:
        layer = self.layers[-1]
        attention, hidden_states = layer.attention, layer.norm1(hidden_states)
        heads = self.config.num_attention_heads
        key_states = split_heads(attention.k_proj(hidden_states), heads)
        key_states, _ = apply_rotary_pos_emb(key_states, key_states, *position_embeddings)
        query_states = split_heads(attention.q_proj(hidden_states[:, :1]), heads)  # the class token is not rotated
        return attention_row(query_states, key_states)[:, self.num_prefix_tokens :], None

    def project(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.backbone.norm(hidden_states)
