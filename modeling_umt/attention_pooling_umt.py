"""Attention pooling: one learned query reads a clip's tokens, in place of their mean.

Not of the UMT paper, whose classifiers take the mean; it is the "attentive probe" by which frozen video encoders are
compared (V-JEPA, arXiv 2404.08471): one cross-attention block, so that a head can choose where in space and time to
look while the encoder stays as it is.
"""

import torch
from torch import nn
from torch.nn import functional as F
from transformers.activations import ACT2FN

from .configuration_umt import UMTConfig


class UMTAttentionPooling(nn.Module):
    """Tokens (batch, tokens, hidden_size), not yet normed, to one vector each (batch, hidden_size)."""

    def __init__(self, config: UMTConfig):
        super().__init__()
        width = config.hidden_size
        self.head_dim = width // config.num_attention_heads
        self.query = nn.Parameter(torch.empty(1, 1, width))
        self.norm1 = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.o_proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.fc1 = nn.Linear(width, config.intermediate_size)
        self.activation = ACT2FN[config.hidden_act]
        self.fc2 = nn.Linear(config.intermediate_size, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        tokens = self.norm1(tokens)
        query = self.query.to(tokens.dtype).expand(tokens.shape[0], -1, -1)
        heads = [
            state.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)  # (batch, heads, 1 or tokens, head_dim)
            for state in (query, self.k_proj(tokens), self.v_proj(tokens))
        ]
        attended = F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)  # (batch, 1, hidden_size)
        pooled = query + self.o_proj(attended)
        pooled = pooled + self.fc2(self.activation(self.fc1(self.norm2(pooled))))
        return pooled[:, 0]
