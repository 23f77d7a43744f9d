"""The transformer block of the UMT video encoder (arXiv 2303.16058, section 3), and the attention that teacher and
text encoder share with it.

A plain pre-norm block of a ViT. Unusual: queries and values have a bias, keys have none, and in bf16 on a CPU
attention is computed in parts instead of by PyTorch's fused kernel.

Shape legend: B batch, V tokens, D hidden size.
"""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs

from .configuration_umt import UMTConfig


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention by its definition: (B, heads, V, head_dim) in, (B, V, heads, head_dim) and the weights out."""
    weights = (query * scaling) @ key.transpose(-1, -2)  # (B, heads, V, V)
    if attention_mask is not None:
        weights = weights + attention_mask
    weights = weights.softmax(dim=-1)  # in 16 bit PyTorch sums in float32 and rounds at the end
    weights = F.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


def parts_are_faster(config: PreTrainedConfig, query: torch.Tensor) -> bool:
    """Whether the products and the softmax by themselves beat PyTorch's fused attention.

    In bf16 on a CPU they take half the time of the kernel at 197 to 1568 tokens, in float32 longer
    (docs/performance.md). The map of weights is kept for a backward pass: only short sequences go without the kernel
    there.

    Args:
        config: Of the model.
        query (`(batch, heads, tokens, head_dim)`): What attends.
    """
    if config._attn_implementation != "sdpa" or query.device.type != "cpu" or query.dtype != torch.bfloat16:
        return False
    return query.shape[2] <= (512 if torch.is_grad_enabled() else 2048)


def unfused_attention_forward(*args, **kwargs) -> tuple[torch.Tensor, None]:
    """[`eager_attention_forward`] in place of a fused kernel, which has no weights to return."""
    output, _ = eager_attention_forward(*args, **kwargs)
    return output, None


def drop_path(hidden_states: torch.Tensor, rate: float) -> torch.Tensor:
    """Zero whole samples with probability `rate` and scale the kept ones by `1 / (1 - rate)`."""
    shape = (hidden_states.shape[0],) + (1,) * (hidden_states.ndim - 1)
    # not `bernoulli_`: its rate is a constant of a compiled graph, and each layer's would need a graph of its own
    keep = torch.rand(shape, device=hidden_states.device) >= rate
    return hidden_states * keep / (1 - rate)


class UMTAttention(nn.Module):
    """Joint space-time self-attention; queries and values have a bias, keys have none."""

    def __init__(self, config: UMTConfig):
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = False
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size)
        for projection in (self.q_proj, self.k_proj, self.v_proj):
            # officially one fused (3D, D) matrix, whose Xavier bound is sqrt(6 / 4D) and not sqrt(6 / 2D)
            projection.xavier_gain = 0.5**0.5

    def forward(
        self, hidden_states: torch.Tensor, **kwargs: Unpack[TransformersKwargs]
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        heads = (*hidden_states.shape[:-1], -1, self.head_dim)
        query = self.q_proj(hidden_states).view(heads).transpose(1, 2)  # (B, heads, V, head_dim)
        key = self.k_proj(hidden_states).view(heads).transpose(1, 2)
        value = self.v_proj(hidden_states).view(heads).transpose(1, 2)
        attend: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        if parts_are_faster(self.config, query):
            attend = unfused_attention_forward
        output, weights = attend(self, query, key, value, None, scaling=self.scaling, dropout=0.0, **kwargs)
        return self.o_proj(output.reshape(hidden_states.shape)), weights


class UMTMLP(nn.Module):
    """Two linear layers with an activation between; CLIP's tower has the same."""

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACT2FN[config.hidden_act]
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.activation(self.fc1(hidden_states)))


class UMTLayer(GradientCheckpointingLayer):
    """Pre-norm block; attention and MLP branch drop out independently per sample."""

    def __init__(self, config: UMTConfig, drop_path_rate: float = 0.0):
        super().__init__()
        self.norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = UMTAttention(config)
        self.norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = UMTMLP(config)
        self.drop_path_rate = drop_path_rate

    def forward(self, hidden_states: torch.Tensor, **kwargs: Unpack[TransformersKwargs]) -> torch.Tensor:
        branch, _ = self.attention(self.norm1(hidden_states), **kwargs)
        hidden_states = hidden_states + self.drop_path(branch)
        branch = self.mlp(self.norm2(hidden_states))
        return hidden_states + self.drop_path(branch)

    def drop_path(self, branch: torch.Tensor) -> torch.Tensor:
        if self.training and self.drop_path_rate > 0:
            return drop_path(branch, self.drop_path_rate)
        return branch
