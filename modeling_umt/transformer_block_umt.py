"""The transformer block of the UMT video encoder (arXiv 2303.16058, section 3), which the image teacher has too, and
the attention that the CLIP teacher and the text encoder share with it.

A plain pre-norm block of a ViT. Unusual: in the video encoder queries and values have a bias and keys have none, and
in bfloat16 on a CPU attention is computed unfused instead of by PyTorch's fused kernel.

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
    attn_weights = (query * scaling) @ key.transpose(-1, -2)  # (B, heads, V, V)
    if attention_mask is not None:
        attn_weights = attn_weights + attention_mask
    attn_weights = attn_weights.softmax(dim=-1)  # in 16 bit PyTorch sums in float32 and rounds at the end
    attn_weights = F.dropout(attn_weights, p=dropout, training=module.training)
    return (attn_weights @ value).transpose(1, 2).contiguous(), attn_weights


def eager_attention_without_weights(*args, **kwargs) -> tuple[torch.Tensor, None]:
    """[`eager_attention_forward`] in place of a fused kernel, which returns no weights."""
    attn_output, _ = eager_attention_forward(*args, **kwargs)
    return attn_output, None


def prefers_unfused_attention(config: PreTrainedConfig, query: torch.Tensor) -> bool:
    """Whether separate matrix products and softmax are faster than PyTorch's fused attention.

    In bfloat16 on a CPU they take half the time of the kernel at 197 to 1568 tokens, in float32 longer
    (docs/performance.md). With gradients the attention weights are kept for the backward pass, so only short sequences
    are computed unfused.

    Args:
        config: Configuration of the model.
        query (`(batch, heads, tokens, head_dim)`): The query states.
    """
    if config._attn_implementation != "sdpa" or query.device.type != "cpu" or query.dtype != torch.bfloat16:
        return False
    return query.shape[2] <= (512 if torch.is_grad_enabled() else 2048)


def attention_forward(
    module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **kwargs
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Unmasked attention by the implementation that the module's configuration names, or unfused on a CPU.

    Args:
        module: Attention module with `config` and `scaling`.
        query, key, value (`(batch, heads, tokens, head_dim)`): The projected states.
        kwargs: Further arguments of Transformers' attention functions.

    Returns:
        The output (batch, tokens, heads, head_dim), and the weights (batch, heads, tokens, tokens) with eager
        attention, else None.
    """
    attention_interface: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
        module.config._attn_implementation, eager_attention_forward
    )
    if prefers_unfused_attention(module.config, query):
        attention_interface = eager_attention_without_weights
    return attention_interface(module, query, key, value, None, scaling=module.scaling, dropout=0.0, **kwargs)


def drop_path(hidden_states: torch.Tensor, rate: float) -> torch.Tensor:
    """Zero complete samples with probability `rate` and scale the others by `1 / (1 - rate)`."""
    shape = (hidden_states.shape[0],) + (1,) * (hidden_states.ndim - 1)
    # not `bernoulli_`: its rate is a constant of a compiled graph, so each layer would need a graph of its own
    keep = torch.rand(shape, device=hidden_states.device) >= rate
    return hidden_states * keep / (1 - rate)


class UMTQKVLinear(nn.Linear):
    """Projection to queries, keys or values; a type of its own because its initialisation differs."""


class UMTAttention(nn.Module):
    """Multi-head self-attention over all tokens given; queries and values have a bias, keys only with `key_bias`."""

    def __init__(self, config: PreTrainedConfig, key_bias: bool = False):
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = False
        self.q_proj = UMTQKVLinear(config.hidden_size, config.hidden_size)
        self.k_proj = UMTQKVLinear(config.hidden_size, config.hidden_size, bias=key_bias)
        self.v_proj = UMTQKVLinear(config.hidden_size, config.hidden_size)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def split_heads(self, states: torch.Tensor) -> torch.Tensor:
        return states.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)  # (B, heads, V, head_dim)

    def forward(
        self, hidden_states: torch.Tensor, **kwargs: Unpack[TransformersKwargs]
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        query_states = self.split_heads(self.q_proj(hidden_states))
        key_states = self.split_heads(self.k_proj(hidden_states))
        value_states = self.split_heads(self.v_proj(hidden_states))
        attn_output, attn_weights = attention_forward(self, query_states, key_states, value_states, **kwargs)
        return self.o_proj(attn_output.reshape(hidden_states.shape)), attn_weights


class UMTMLP(nn.Module):
    """Two linear layers with an activation between them, as in CLIP's tower too."""

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACT2FN[config.hidden_act]
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.activation(self.fc1(hidden_states)))


class UMTLayer(GradientCheckpointingLayer):
    """Pre-norm block; the attention and the MLP branch are dropped independently for each sample.

    `key_bias`: see [`UMTAttention`].
    """

    def __init__(self, config: PreTrainedConfig, drop_path_rate: float = 0.0, key_bias: bool = False):
        super().__init__()
        self.norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = UMTAttention(config, key_bias)
        self.norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = UMTMLP(config)
        self.drop_path_rate = drop_path_rate

    def forward(self, hidden_states: torch.Tensor, **kwargs: Unpack[TransformersKwargs]) -> torch.Tensor:
        attn_output, _ = self.attention(self.norm1(hidden_states), **kwargs)
        hidden_states = hidden_states + self.drop_path(attn_output)
        mlp_output = self.mlp(self.norm2(hidden_states))
        return hidden_states + self.drop_path(mlp_output)

    def drop_path(self, branch: torch.Tensor) -> torch.Tensor:
        if self.training and self.drop_path_rate > 0:
            return drop_path(branch, self.drop_path_rate)
        return branch
