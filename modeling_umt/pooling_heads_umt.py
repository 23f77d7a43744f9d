"""Pooling heads of a classifier that replace the mean of the tokens (`UMTConfig.pooling`).

The UMT paper's classifiers take the mean. `UMTAttentionPooling` is the attentive probe by which frozen video encoders
are compared (V-JEPA, arXiv 2404.08471). `UMTFramePooling` keeps the order of the frames and is this project's own.

Shape legend: B batch, N tokens, T frames of tokens (after tubelets), D hidden size.
"""

import torch
from torch import nn
from torch.nn import functional as F
from transformers.activations import ACT2FN

from .configuration_umt import UMTConfig


class UMTAttentionPooling(nn.Module):
    """One cross-attention block with a learned query: the head selects positions while the encoder can stay frozen."""

    def __init__(self, config: UMTConfig):
        super().__init__()
        dim = config.hidden_size
        self.head_dim = dim // config.num_attention_heads
        self.query = nn.Parameter(torch.empty(1, 1, dim))
        self.norm1 = nn.LayerNorm(dim, eps=config.layer_norm_eps)
        self.k_proj = nn.Linear(dim, dim)
        self.v_proj = nn.Linear(dim, dim)
        self.o_proj = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim, eps=config.layer_norm_eps)
        self.fc1 = nn.Linear(dim, config.intermediate_size)
        self.activation = ACT2FN[config.hidden_act]
        self.fc2 = nn.Linear(config.intermediate_size, dim)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Tokens (B, N, D), before the last norm, to one vector each (B, D)."""
        hidden_states = self.norm1(hidden_states)
        query = self.query.to(hidden_states.dtype).expand(hidden_states.shape[0], -1, -1)
        query_states, key_states, value_states = (
            states.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)  # (B, heads, 1 or N, head_dim)
            for states in (query, self.k_proj(hidden_states), self.v_proj(hidden_states))
        )
        attn_output = F.scaled_dot_product_attention(query_states, key_states, value_states)
        pooled = query + self.o_proj(attn_output.transpose(1, 2).flatten(2))  # (B, 1, D)
        pooled = pooled + self.fc2(self.activation(self.fc1(self.norm2(pooled))))
        return pooled[:, 0]


class UMTFramePooling(nn.Module):
    """One hidden layer over the concatenated means of the frames, so that their order stays readable.

    The mean of all tokens contains the order of events only as far as the encoder has written it into the tokens. A
    small encoder trained on few labels profits from reading it directly.
    """

    def __init__(self, config: UMTConfig):
        super().__init__()
        self.num_frames = config.num_frames // config.tubelet_size
        self.hidden_size = self.num_frames * config.hidden_size  # a smaller hidden layer learned more slowly
        self.fc1 = nn.Linear(self.hidden_size, self.hidden_size)
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, frame_states: torch.Tensor) -> torch.Tensor:
        """Normed means of the frames (B, T, D) to one vector each (B, T * D).

        Raises:
            ValueError: if T is not `num_frames / tubelet_size` of the configuration.
        """
        if frame_states.shape[1] != self.num_frames:
            raise ValueError(
                f'The clip has {frame_states.shape[1]} frames of tokens, but `pooling="frames"` was created for '
                f"{self.num_frames}; give clips of `num_frames` frames, or use another pooling."
            )
        return self.activation(self.fc1(frame_states.flatten(1)))
