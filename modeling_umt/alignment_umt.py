"""The decoders of unmasked-token alignment (arXiv 2303.16058, section 3.2): from K blocks of the student to the
teacher's feature space, and the distance to the teacher's features. Both stages use them.

Unusual: with targets one layer at a time is normed, decoded and compared, and the backward pass recomputes this
instead of keeping the intermediate states of all K layers. Only the blocks' outputs and the targets stay in memory.
The values are the same, and the decoders' forward pass is half a percent of the student's arithmetic.

Shape legend: B batch, V visible tokens, D hidden size, K aligned layers, F dimension of the teacher's features.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from .configuration_umt import UMTConfig
from .objectives_umt import check_same_features, unmasked_token_alignment_loss


class UMTAlignmentDecoder(nn.Module):
    """Decoder of one aligned layer: positions added a second time, Linear, LayerNorm and, for "l2", unit length."""

    def __init__(self, config: UMTConfig):
        super().__init__()
        self.projection = nn.Linear(config.hidden_size, config.target_dim)
        self.norm = nn.LayerNorm(config.target_dim, eps=config.decoder_layer_norm_eps)
        self.normalize = config.target_norm == "l2"
        self.target_dim = config.target_dim
        self.alignment_loss = config.alignment_loss

    def forward(self, hidden_states: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        features = self.norm(self.projection(hidden_states + positions.to(hidden_states.dtype)))
        return F.normalize(features, dim=-1) if self.normalize else features  # (B, V, F)


# not a method of a ModuleList of its own: accelerate's regional compilation replaces every such list by a plain one
def align_features(
    decoders: nn.ModuleList,
    norm: nn.Module,
    hidden_states: Sequence[torch.Tensor],
    positions: torch.Tensor,
    target_features: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Decode the aligned layers and measure their distance to the teacher's features (section 3.2).

    Args:
        decoders: K [`UMTAlignmentDecoder`], shallowest layer first.
        norm: The encoder's last norm, shared by all layers.
        hidden_states (K of `(batch, visible, hidden_size)`): The blocks' outputs, shallowest first.
        positions (`(batch, visible, hidden_size)` or `(1, tokens, hidden_size)`): Their position embeddings.
        target_features (`(batch, K, visible, target_dim)`, *optional*): The teacher's features.

    Returns:
        The student's features (batch, K, visible, target_dim), and the mean distance, a float32 scalar, or None
        without targets.

    Raises:
        ValueError: if the targets' shape is not that of the student's features.
    """
    layers = list(zip(decoders, hidden_states, strict=True))
    if target_features is None:
        return torch.stack([decoder(norm(state), positions) for decoder, state in layers], dim=1), None

    batch, visible, _ = hidden_states[0].shape
    check_same_features((batch, len(layers), visible, decoders[0].target_dim), target_features.shape)

    def decode_and_compare(decoder: nn.Module, state: torch.Tensor, targets: torch.Tensor):
        features = decoder(norm(state), positions)  # (B, V, F)
        return features, unmasked_token_alignment_loss(features, targets, decoder.alignment_loss)

    features, distances = [], []
    for layer, targets in zip(layers, target_features.unbind(1), strict=True):
        # nothing random happens in here, so no state of a random generator has to be restored
        decoded, distance = checkpoint(
            decode_and_compare, *layer, targets, use_reentrant=False, preserve_rng_state=False
        )
        features.append(decoded)
        distances.append(distance)
    return torch.stack(features, dim=1), torch.stack(distances).mean()  # layers have one size: the mean of all
