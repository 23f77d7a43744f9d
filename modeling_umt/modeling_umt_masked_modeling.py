"""Masked modelling with a video encoder: predict what the hidden tokens contain from the visible ones.

`UMTConfig.masked_targets` names what is predicted: features of frozen teachers, as in MVD (arXiv 2212.04500), or the
pixels themselves, as in VideoMAE (arXiv 2203.12602) and EVEREST (arXiv 2211.10636). Each target has a small
transformer as decoder, which fine-tuning drops.

Unusual: a decoder only sees the visible tokens and those that are predicted, which may be some of the hidden ones.

Shape legend: B batch, N tokens of the clip, V visible tokens, M target tokens, D hidden size of the encoder, d of the
decoders, F dimension of a target.
"""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn
from transformers import initialization as init
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs, can_return_tuple

from .configuration_umt import PIXELS, UMTConfig
from .keyword_arguments_umt import only_documented_keywords
from .modeling_umt import UMTModel, UMTPreTrainedModel, with_final_norm
from .objectives_umt import feature_targets, masked_prediction_loss, pixel_targets
from .token_selection_umt import hidden_indices, resolve_visible_indices
from .transformer_block_umt import UMTLayer
from .video_embeddings_umt import UMTPositionTable


@dataclass
class UMTMaskedModelingOutput(ModelOutput):
    """Output of [`UMTForMaskedModeling`].

    Args:
        loss (scalar): The sum of `losses` by their weights, if all targets are known.
        losses (`dict[str, scalar]`): The distance to each target, unweighted, with `loss`.
        predictions (`dict[str, (batch, targets, dim)]`): The prediction of each target at the target tokens.
        hidden_states: With `output_hidden_states=True`: the encoder's embeddings and every block's output, (batch,
            visible, hidden_size) each.
        attentions: With `output_attentions=True` and eager attention: (batch, heads, visible, visible) per block of
            the encoder.
    """

    loss: torch.FloatTensor | None = None
    losses: dict[str, torch.FloatTensor] | None = None
    predictions: dict[str, torch.FloatTensor] | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


class UMTMaskedDecoder(UMTPositionTable):
    """The decoder of one target: visible tokens and mask tokens with positions of their own through a few blocks."""

    def __init__(self, config: UMTConfig, target_dim: int):
        super().__init__()
        hidden_size, num_heads = config.decoder_sizes
        depth = config.decoder_num_hidden_layers
        self.mask_token = nn.Parameter(torch.empty(1, 1, hidden_size))
        self.projection = nn.Linear(config.hidden_size, hidden_size, bias=config.decoder_projection_bias)
        sizes = copy.copy(config)
        sizes.hidden_size, sizes.num_attention_heads = hidden_size, num_heads
        sizes.intermediate_size = 4 * hidden_size
        self.layers = nn.ModuleList(
            [UMTLayer(sizes, config.drop_path_rate * i / max(depth - 1, 1)) for i in range(depth)]
        )
        for layer in self.layers:
            layer.attention.config = config  # which `set_attn_implementation` changes, unlike a copy
        self.norm = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.head = nn.Linear(hidden_size, target_dim)
        self.store_position_table(config, hidden_size)

    def forward(
        self,
        hidden_states: torch.Tensor,
        grid: tuple[int, int, int],
        visible_indices: torch.Tensor,
        target_indices: torch.Tensor,
    ) -> torch.Tensor:
        """The encoder's tokens (B, V, D) to predictions (B, M, F) at `target_indices`."""
        visible = self.projection(hidden_states)  # (B, V, d)
        positions = self.positions_of(grid, visible.device).to(visible.dtype)
        visible = visible + positions[visible_indices]
        masked = self.mask_token.to(visible.dtype) + positions[target_indices]  # (B, M, d)
        hidden_states = torch.cat([visible, masked], dim=1)
        for layer in self.layers:
            hidden_states = layer(hidden_states)
        return self.head(self.norm(hidden_states[:, visible.shape[1] :]))


class UMTForMaskedModeling(UMTPreTrainedModel):
    """The encoder with one decoder for each entry of `masked_targets`: MVD's student, VideoMAE, EVEREST.

    Teachers are not part of the model: pass their features, or none to get the predictions alone.

    Raises:
        ValueError: if the configuration has no `masked_targets`, or the name of one is an attribute of PyTorch's
            modules, such as `"type"`.
    """

    remote_code = UMTPreTrainedModel.remote_code | {
        "AutoModelForPreTraining": "modeling_umt_masked_modeling.UMTForMaskedModeling"
    }
    _no_split_modules = [*UMTPreTrainedModel._no_split_modules, "UMTMaskedDecoder"]
    _keys_to_ignore_on_load_unexpected = [
        r"^umt\.fc_norm\.",
        r"^classifier\.",
        r"^(attention|frame)_pooling\.",
    ]

    def __init__(self, config: UMTConfig):
        super().__init__(with_final_norm(config, "tokens"))
        if not config.masked_targets:
            raise ValueError(
                "The configuration has no `masked_targets`; state what is predicted, e.g. "
                '{"image": 768, "video": 768} for the features of two teachers.'
            )
        if reserved := [name for name in config.masked_targets if hasattr(nn.ModuleDict(), name)]:
            raise ValueError(f"{reserved[0]!r} in `masked_targets` is an attribute of PyTorch's modules; rename it.")
        # of stage 1 and of other targets
        other_decoders = rf"^decoders\.(?!({'|'.join(config.masked_targets)})\.)"
        self._keys_to_ignore_on_load_unexpected = [*self._keys_to_ignore_on_load_unexpected, other_decoders]
        self.umt = UMTModel(self.config)
        self.decoders = nn.ModuleDict(
            {name: UMTMaskedDecoder(self.config, dim) for name, dim in config.masked_targets.items()}
        )
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, UMTMaskedDecoder):
            std = self.config.initializer_range
            init.trunc_normal_(module.mask_token, std=std, a=-std, b=std)
            if module.projection.bias is None:
                # PyTorch's default, which the official models of pixels keep
                bound = module.projection.in_features**-0.5
                init.uniform_(module.projection.weight, -bound, bound)

    @only_documented_keywords
    @can_return_tuple
    def forward(
        self,
        pixel_values_videos: torch.Tensor,
        bool_masked_pos: torch.Tensor | None = None,
        visible_indices: torch.Tensor | None = None,
        target_indices: torch.Tensor | None = None,
        target_features: dict[str, torch.Tensor] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> UMTMaskedModelingOutput:
        """Predictions at the target tokens, and their distance to the targets.

        Args:
            pixel_values_videos (`(batch, frames, channels, height, width)`): See [`UMTModel.forward`].
            bool_masked_pos, visible_indices: The mask, in one of its two forms; see [`UMTModel.forward`]. Required.
            target_indices (int64 `(batch, targets)`, *optional*): Ascending indices of the tokens that are predicted.
                Defaults to every hidden token.
            target_features (`dict[str, (batch, targets, dim)]`, *optional*): The teachers' features at these tokens,
                for every entry of `masked_targets` but `"pixels"`, which are computed from the clip.

        Raises:
            ValueError: if the clip, mask or targets do not fit.
        """
        grid = self.umt.embeddings.token_grid(pixel_values_videos)
        num_clips, num_tokens = pixel_values_videos.shape[0], math.prod(grid)
        visible_indices = resolve_visible_indices(num_clips, num_tokens, bool_masked_pos, visible_indices)
        if visible_indices is None:
            raise ValueError("Masked modelling requires a mask; give `bool_masked_pos` or `visible_indices`.")
        if target_indices is None:
            target_indices = hidden_indices(visible_indices, num_tokens)
        elif (
            target_indices.dtype != torch.int64
            or target_indices.ndim != 2
            or target_indices.shape[0] != num_clips
            or not 1 <= target_indices.shape[1] <= num_tokens
        ):
            raise ValueError(
                f"`target_indices` must be int64 (batch {num_clips}, 1 to {num_tokens} tokens), but is "
                f"{target_indices.dtype} {tuple(target_indices.shape)}."
            )
        encoded = self.umt.encode(pixel_values_videos, visible_indices=visible_indices, return_dict=True, **kwargs)
        tokens = self.umt.norm(encoded.last_hidden_state)
        predictions = {
            name: decoder(tokens, grid, visible_indices, target_indices) for name, decoder in self.decoders.items()
        }
        loss, losses = self.losses(predictions, pixel_values_videos, target_indices, target_features)
        return UMTMaskedModelingOutput(
            loss=loss,
            losses=losses,
            predictions=predictions,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )

    def losses(
        self,
        predictions: Mapping[str, torch.Tensor],
        pixel_values_videos: torch.Tensor,
        target_indices: torch.Tensor,
        target_features: Mapping[str, torch.Tensor] | None,
    ) -> tuple[torch.Tensor | None, dict[str, torch.Tensor] | None]:
        """The weighted sum of the distances to all targets, and each distance; None without the features of teachers.

        Raises:
            ValueError: if features are missing, unexpected or of another shape than the predictions.
        """
        features = [name for name in predictions if name != PIXELS]
        if target_features is None and features:
            return None, None
        given = {} if target_features is None else target_features
        if set(given) != set(features):
            raise ValueError(
                f"`target_features` must have the features of {', '.join(features) or 'no teacher'}, but has "
                f"{', '.join(given) or 'none'}. The target {PIXELS!r} is computed from the clip."
            )
        losses = {}
        for name, prediction in predictions.items():
            if name == PIXELS:
                clips = torch.arange(len(target_indices), device=target_indices.device)[:, None]
                target = pixel_targets(pixel_values_videos, self.config)[clips, target_indices]  # (B, M, F)
            else:
                target = given[name]
                if target.shape != prediction.shape:
                    raise ValueError(
                        f"`target_features[{name!r}]` must be (batch, targets, dim) = {tuple(prediction.shape)}, but "
                        f"is {tuple(target.shape)}."
                    )
                target = feature_targets(target, self.config)
            losses[name] = masked_prediction_loss(prediction, target, self.config.masked_loss)
        weights = self.config.masked_target_weights or dict.fromkeys(losses, 1.0)
        return sum(weights[name] * loss for name, loss in losses.items()), losses


__all__ = ["UMTForMaskedModeling", "UMTMaskedModelingOutput"]
