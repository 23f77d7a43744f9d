"""SigLIP and SigLIP 2 behind the teacher's interface.

They have no class token: a pooling head's learned query, the probe, attends to the normed patch tokens, and its
attention selects the student's tokens. Features are the normed patch tokens; the pooling head maps no single token to
the joint space of images and texts.

Unusual: the probe attends to the output of the last layer, so this layer is computed for all tokens before the mask is
known.
"""

import os
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel, Siglip2VisionModel, SiglipVisionModel
from transformers.image_utils import IMAGENET_STANDARD_MEAN, IMAGENET_STANDARD_STD

from .backbone_teacher_umt import UMTBackboneTeacher, attention_row, split_heads

# the parts of a complete checkpoint that are not its vision tower
OTHER_PARTS = [r"^text_model\.", r"^logit_(scale|bias)$", r"^classifier\.", r"position_ids$"]


class SiglipVisionTower(SiglipVisionModel):
    """Transformers' SigLIP vision tower, which silently ignores the other weights of a full checkpoint."""

    _keys_to_ignore_on_load_unexpected = OTHER_PARTS


class Siglip2VisionTower(Siglip2VisionModel):
    """The same of SigLIP 2 with flexible resolution (NaFlex)."""

    _keys_to_ignore_on_load_unexpected = OTHER_PARTS


class UMTSiglipTeacher(UMTBackboneTeacher):
    """A frozen `SiglipVisionModel` or `Siglip2VisionModel` as teacher.

    SigLIP 2 checkpoints of a fixed resolution have the architecture of SigLIP. Arguments and errors are those of
    [`UMTBackboneTeacher`].

    Raises:
        ValueError: also if the backbone has no pooling head, whose attention selects the tokens.
    """

    model_types: ClassVar[tuple[str, ...]] = ("siglip", "siglip_vision_model", "siglip2", "siglip2_vision_model")
    family: ClassVar[str] = "SigLIP or SigLIP 2"
    example: ClassVar[str] = "google/siglip2-large-patch16-256"
    family_mean: ClassVar[list[float]] = IMAGENET_STANDARD_MEAN
    family_std: ClassVar[list[float]] = IMAGENET_STANDARD_STD
    num_prefix_tokens = 0

    def __init__(self, backbone: PreTrainedModel, image_size: int | None = None, **fields):
        super().__init__(backbone, image_size, **fields)
        if not backbone.config.vision_use_head:
            raise ValueError(
                "This SigLIP has no pooling head (`vision_use_head` is False), but its attention selects the tokens; "
                "take a checkpoint with one."
            )

    @classmethod
    def load_backbone(cls, name: str | os.PathLike, source: PreTrainedConfig) -> PreTrainedModel:
        model_class = Siglip2VisionTower if source.model_type.startswith("siglip2") else SiglipVisionTower
        vision = getattr(source, "vision_config", source)
        backbone, report = model_class.from_pretrained(name, config=vision, output_loading_info=True)
        if missing := sorted(report["missing_keys"]):
            raise ValueError(
                f"{name!r} lacks {len(missing)} weights of SigLIP's vision tower, among them {missing[0]!r}."
            )
        return backbone

    @property
    def layers(self) -> nn.ModuleList:
        return self.backbone.encoder.layers

    def embed_frames(self, frames: torch.Tensor) -> tuple[torch.Tensor, dict[str, Any]]:
        frames, embeddings = self.backbone_frames(frames), self.backbone.embeddings
        if isinstance(self.backbone, Siglip2VisionModel):
            patch = self.config.patch_size
            grid = frames.shape[-2] // patch, frames.shape[-1] // patch
            patches = frames.unflatten(-2, (grid[0], patch)).unflatten(-1, (grid[1], patch))
            patches = patches.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)  # (B*T, S, p * p * C)
            # the positions of one frame, which are the same for all; Transformers computes them on the CPU too
            hidden_states = embeddings(patches, torch.tensor([grid]))
        else:
            hidden_states = embeddings(frames, interpolate_pos_encoding=True)
        return hidden_states, {"attention_mask": None}  # (B*T, S, D)

    def cls_attention(self, hidden_states: torch.Tensor, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        last_hidden_states = self.layers[-1](hidden_states, **kwargs)
        head = self.backbone.head
        query_weight, key_weight, _ = head.attention.in_proj_weight.chunk(3)
        query_bias, key_bias, _ = head.attention.in_proj_bias.chunk(3)
        query = F.linear(head.probe, query_weight, query_bias)  # (1, 1, D)
        keys = F.linear(self.project(last_hidden_states), key_weight, key_bias)  # (B*T, S, D)
        heads = self.config.num_attention_heads
        return attention_row(split_heads(query, heads), split_heads(keys, heads)), last_hidden_states

    def last_layer(
        self,
        hidden_states: torch.Tensor,
        reused: torch.Tensor,
        select_tokens: Callable[[torch.Tensor], torch.Tensor],
        **kwargs: Any,
    ) -> torch.Tensor:
        return select_tokens(reused)

    def project(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.backbone.post_layernorm(hidden_states)
