"""The decoders of unmasked-token alignment (arXiv 2303.16058, section 3.2): from K blocks of the student to the
teacher's feature space, and the distance of each to the teacher's features. Both stages use them.

Unusual: with targets a layer at a time is normed, decoded and compared, and the backward pass does so once more
instead of keeping what it needs of all K. What stays in memory meanwhile are the blocks' outputs and the targets. The
numbers are the same, and the decoders' forward pass is half a percent of the student's arithmetic.

Shape legend: B batch, V visible tokens, D hidden size, K aligned layers, F width of the teacher's features.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from .configuration_umt import UMTConfig
from .objectives_umt import check_same_features, unmasked_token_alignment_loss


class UMTAlignmentDecoder(nn.Module):
    """One aligned layer's decoder: positions added once more, Linear, LayerNorm and, for "l2", unit length."""

    def __init__(self, config: UMTConfig):
        super().__init__()
        self.projection = nn.Linear(config.hidden_size, config.target_dim)
        self.norm = nn.LayerNorm(config.target_dim, eps=config.decoder_layer_norm_eps)
        self.normalize = config.target_norm == "l2"

    def forward(self, hidden_states: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        features = self.norm(self.projection(hidden_states + positions.to(hidden_states.dtype)))
        return F.normalize(features, dim=-1) if self.normalize else features  # (B, V, F)


def decode_and_align(
    config: UMTConfig,
    norm: nn.Module,
    decoders: nn.ModuleList,
    hidden_states: Sequence[torch.Tensor],
    positions: torch.Tensor,
    target_features: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """
    Features of the aligned layers and their distance to the teacher's (method, 3 and 6).

    Args:
        config: Of the student; names the distance (`alignment_loss`).
        norm: The encoder's, shared by all layers.
        decoders: K of them.
        hidden_states (K of `(batch, visible, hidden_size)`): The blocks' outputs, shallowest first.
        positions (`(batch, visible, hidden_size)` or `(1, tokens, hidden_size)`): Their position codes.
        target_features (`(batch, K, visible, target_dim)`, *optional*): The teacher's.

    Returns:
        Student features (batch, K, visible, target_dim), and the mean distance, float32, or None without targets.

    Raises:
        ValueError: if the targets have another shape than the student's features.
    """
    layers = list(zip(decoders, hidden_states, strict=True))
    if target_features is None:
        return torch.stack([decoder(norm(state), positions) for decoder, state in layers], dim=1), None

    batch, visible, _ = hidden_states[0].shape
    check_same_features((batch, len(layers), visible, config.target_dim), target_features.shape)

    def decode_and_compare(decoder: nn.Module, state: torch.Tensor, targets: torch.Tensor):
        features = decoder(norm(state), positions)  # (B, V, F)
        return features, unmasked_token_alignment_loss(features, targets, config.alignment_loss)

    features, distances = [], []
    for layer, targets in zip(layers, target_features.unbind(1), strict=True):
        # nothing is drawn in here, so that there is no state of a generator to bring back
        decoded, distance = checkpoint(
            decode_and_compare, *layer, targets, use_reentrant=False, preserve_rng_state=False
        )
        features.append(decoded)
        distances.append(distance)
    return torch.stack(features, dim=1), torch.stack(distances).mean()  # layers are of one size: the mean of all
