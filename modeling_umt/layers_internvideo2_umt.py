"""The parts of InternVideo2's encoder that differ from UMT's: position table, embeddings, norm, attention, block,
pooling (arXiv 2403.15377, section 3).

Unusual:
- A class token comes before the patches. It is one of the keys of the pooling, and nothing reads it alone.
- Queries and keys are normed over all channels before they are split into heads.
- The norms and LayerScale compute in at least float32, as the fused kernels of the official code do; the residual
  stream keeps the dtype of the weights.
- No norm follows the last block.

Shape legend: B batch, N patch tokens of the clip, V visible patch tokens, D hidden size, P pooled size.
"""

import torch
from torch import nn
from torch.nn import functional as F
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs

from .configuration_internvideo2_umt import InternVideo2Config
from .position_embeddings_umt import resize_learned_table
from .transformer_block_umt import UMTMLP, attention_forward, drop_path, eager_attention_forward
from .video_embeddings_umt import UMTPatchProjection


def at_least_float32(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


class InternVideo2Positions(nn.Module):
    """A learned position table for the grid of the model's clips, resized to those of other clips."""

    def __init__(self, config: InternVideo2Config, has_class_row: bool = True):
        super().__init__()
        self.grid = config.token_grid
        self.single_frame = config.single_frame
        self.has_class_row = has_class_row
        frames, rows, columns = self.grid
        num_rows = frames * rows * columns + (1 if has_class_row else 0)
        self.position_embeddings = nn.Parameter(torch.empty(1, num_rows, config.hidden_size))

    def forward(self, grid: tuple[int, int, int], visible_indices: torch.Tensor | None = None) -> torch.Tensor:
        """The rows of the class token, if the table has one, and of the visible patches: (B, 1 + V, D), or of all
        patches without a mask: (1, 1 + N, D)."""
        table = resize_learned_table(
            self.position_embeddings[0], self.grid, grid, self.has_class_row, self.single_frame
        )
        if visible_indices is None:
            return table[None]
        return table[F.pad(visible_indices + 1, (1, 0)) if self.has_class_row else visible_indices]


class InternVideo2Embeddings(UMTPatchProjection, nn.Module):
    """The class token and the projected patches of a clip, of all tokens or of some, plus their positions."""

    def __init__(self, config: InternVideo2Config):
        super().__init__()
        self.config = config
        self.cls_token = nn.Parameter(torch.empty(1, 1, config.hidden_size))
        patch_values = config.num_channels * config.tubelet_size * config.patch_size**2
        # the official Conv3d kernel, flattened: stride equals kernel size
        self.patch_embeddings = nn.Linear(patch_values, config.hidden_size)
        self.positions = InternVideo2Positions(config)

    def forward(
        self, pixel_values_videos: torch.Tensor, visible_indices: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Embeddings (B, 1 + V, D), the class token first, and the indices of the patches (B, V), None for all.

        The patches are those of `embed_tokens`.
        """
        grid = self.token_grid(pixel_values_videos)
        embeddings, visible_indices = self.embed_tokens(pixel_values_videos, visible_indices)
        cls_token = self.cls_token.to(embeddings.dtype).expand(embeddings.shape[0], -1, -1)
        embeddings = torch.cat([cls_token, embeddings], dim=1)
        return embeddings + self.positions(grid, visible_indices).to(embeddings.dtype), visible_indices


class InternVideo2RMSNorm(nn.Module):
    """Root mean square norm with a weight, computed in at least float32 and returned in the input's dtype."""

    def __init__(self, dim: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        states = at_least_float32(hidden_states)
        return F.rms_norm(states, self.weight.shape, self.weight.to(states.dtype), self.eps).to(hidden_states.dtype)


class InternVideo2Attention(nn.Module):
    """Multi-head self-attention over all tokens given, with normed queries and keys and without biases before it."""

    def __init__(self, config: InternVideo2Config):
        super().__init__()
        self.config = config
        dim = config.hidden_size
        self.head_dim = dim // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = False
        self.q_proj = nn.Linear(dim, dim, bias=False)
        self.k_proj = nn.Linear(dim, dim, bias=False)
        self.v_proj = nn.Linear(dim, dim, bias=False)
        self.q_norm = InternVideo2RMSNorm(dim, config.rms_norm_eps)
        self.k_norm = InternVideo2RMSNorm(dim, config.rms_norm_eps)
        self.o_proj = nn.Linear(dim, dim)

    def forward(
        self, hidden_states: torch.Tensor, **kwargs: Unpack[TransformersKwargs]
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        query_states, key_states, value_states = (
            states.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)  # (B, heads, tokens, head_dim)
            for states in (
                self.q_norm(self.q_proj(hidden_states)),
                self.k_norm(self.k_proj(hidden_states)),
                self.v_proj(hidden_states),
            )
        )
        attn_output, attn_weights = attention_forward(self, query_states, key_states, value_states, **kwargs)
        return self.o_proj(attn_output.reshape(hidden_states.shape)), attn_weights


class InternVideo2Layer(GradientCheckpointingLayer):
    """Pre-norm block; each branch is multiplied by its LayerScale and dropped independently for each sample.

    `depth` is the index of the block, on which the initial weights depend.
    """

    def __init__(self, config: InternVideo2Config, depth: int):
        super().__init__()
        self.norm1 = InternVideo2RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.attention = InternVideo2Attention(config)
        self.layer_scale1 = nn.Parameter(torch.empty(config.hidden_size))
        self.norm2 = InternVideo2RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = UMTMLP(config)
        self.layer_scale2 = nn.Parameter(torch.empty(config.hidden_size))
        self.depth = depth
        self.drop_path_rate = config.drop_path_rate * depth / max(config.num_hidden_layers - 1, 1)

    def forward(self, hidden_states: torch.Tensor, **kwargs: Unpack[TransformersKwargs]) -> torch.Tensor:
        attn_output, _ = self.attention(self.norm1(hidden_states), **kwargs)
        hidden_states = hidden_states + self.scaled(attn_output, self.layer_scale1)
        mlp_output = self.mlp(self.norm2(hidden_states))
        return hidden_states + self.scaled(mlp_output, self.layer_scale2)

    def scaled(self, branch: torch.Tensor, layer_scale: torch.Tensor) -> torch.Tensor:
        """A branch multiplied by its LayerScale and, in training, dropped for some samples."""
        branch = (at_least_float32(branch) * layer_scale).to(branch.dtype)
        if self.training and self.drop_path_rate > 0:
            return drop_path(branch, self.drop_path_rate)
        return branch


class InternVideo2AttentionPooling(nn.Module):
    """Cross-attention to all tokens, whose query is their mean; no residual and no MLP."""

    def __init__(self, config: InternVideo2Config):
        super().__init__()
        dim = config.hidden_size
        self.head_dim = dim // config.num_pooling_heads
        self.scaling = self.head_dim**-0.5
        self.q_norm = nn.LayerNorm(dim, eps=config.layer_norm_eps)
        self.k_norm = nn.LayerNorm(dim, eps=config.layer_norm_eps)
        self.v_norm = nn.LayerNorm(dim, eps=config.layer_norm_eps)
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = nn.Linear(dim, dim)
        self.v_proj = nn.Linear(dim, dim)
        self.o_proj = nn.Linear(dim, config.pooled_size)

    def forward(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens (B, 1 + V, D) to one vector each (B, P), and the query's attention weights (B, heads, 1 + V)."""
        query = hidden_states.mean(dim=1, keepdim=True)
        query_states, key_states, value_states = (
            states.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)  # (B, heads, 1 or 1 + V, head_dim)
            for states in (
                self.q_proj(self.q_norm(query)),
                self.k_proj(self.k_norm(hidden_states)),
                self.v_proj(self.v_norm(hidden_states)),
            )
        )
        # a single query: the weights cost nothing, and a teacher selects tokens by them
        attn_output, attn_weights = eager_attention_forward(
            self, query_states, key_states, value_states, None, self.scaling
        )
        return self.o_proj(attn_output.flatten(1)), attn_weights[:, :, 0]


class InternVideo2DecoderLinear(nn.Linear):
    """A matrix of a decoder; a type of its own because its initialisation differs."""


class InternVideo2Decoder(nn.Module):
    """From the student's to a teacher's features: Linear, or an MLP, then LayerNorm and unit length.

    Unusual: the MLP has the exact GELU, whatever that of the encoder is.
    """

    alignment_loss = "l2"  # of `align_features`, which decodes and compares layer by layer

    def __init__(self, kind: str, dim: int, target_dim: int, eps: float):
        super().__init__()
        self.fc1 = InternVideo2DecoderLinear(dim, dim) if kind == "mlp" else None
        self.projection = InternVideo2DecoderLinear(dim, target_dim)
        self.norm = nn.LayerNorm(target_dim, eps=eps)
        self.target_dim = target_dim

    def forward(self, hidden_states: torch.Tensor, positions: torch.Tensor | None = None) -> torch.Tensor:
        """States (..., D), to which `positions` are added, to features (..., target_dim)."""
        if positions is not None:
            hidden_states = hidden_states + positions.to(hidden_states.dtype)
        if self.fc1 is not None:
            hidden_states = F.gelu(self.fc1(hidden_states))
        return F.normalize(self.norm(self.projection(hidden_states)), dim=-1)
