"""UMT video encoder and its heads (arXiv 2303.16058, section 3): a plain ViT with joint space-time attention.

A clip is cut into tubelets, each a token; a class token does not exist. Unusual:

- **Hidden tokens are never computed.** Given a mask, visible patches are gathered first and embedded by one matrix
  product, so the encoder works on `(batch, visible, dim)` from its first layer.
- The position table is computed, not learned, and resized to any clip (`position_embeddings_umt.py`).
- The last LayerNorm is applied to the tokens in pre-training (`norm`) and to their mean in classifiers (`fc_norm`).
  These are different weights with different names, so neither is ever loaded as the other. A VideoMAE encoder that
  teaches a student has none.
- **Tokens can be dropped by their motion**, in training and inference alike (`UMTConfig.motion_drop_ratio`; EVEREST,
  arXiv 2211.10636): all patches are embedded once, and the blocks encode those that change most.
- `UMTForPreTraining` adds the position table a second time before its decoders.

Shape legend: B batch, T frames, C channels, N tokens of the clip, V visible tokens (those kept by motion, or all,
without a mask),
D hidden size, K aligned layers, F dimension of the teacher's features.
"""

import copy
import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling, ImageClassifierOutput
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs, can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .alignment_umt import UMTAlignmentDecoder, align_features
from .configuration_checks_umt import aligned_layers, require_all_tokens
from .configuration_umt import UMTConfig
from .keyword_arguments_umt import only_documented_keywords
from .pooling_heads_umt import UMTAttentionPooling, UMTFramePooling
from .remote_code_umt import UMTRemoteCodeMixin
from .token_selection_umt import resolve_visible_indices
from .transformer_block_umt import UMTAttention, UMTLayer, UMTQKVLinear
from .video_embeddings_umt import UMTEmbeddings, UMTPositionTable
from .view_averaging_umt import average_views


class UMTPreTrainedModel(UMTRemoteCodeMixin, PreTrainedModel):
    """Weight initialisation and class-level flags of the UMT video models."""

    config: UMTConfig
    remote_code: ClassVar[dict[str, str]] = {
        "AutoConfig": "configuration_umt.UMTConfig",
        "AutoModel": "modeling_umt.UMTModel",
        "AutoModelForVideoClassification": "modeling_umt.UMTForVideoClassification",
        "AutoModelForPreTraining": "modeling_umt.UMTForPreTraining",
    }
    embedding_methods = {"video": ("forward", "pooler_output")}
    base_model_prefix = "umt"
    main_input_name = "pixel_values_videos"
    input_modalities = "video"
    supports_gradient_checkpointing = True
    _no_split_modules = ["UMTEmbeddings", "UMTLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": UMTLayer, "attentions": UMTAttention}
    # losses are means of a batch: Trainer's own count of labels is wrong where a clip has several
    accepts_loss_kwargs = False

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Xavier-uniform encoders for pre-training, truncated normal classifiers, as in the official code.

        Transformers calls this for modules with parameters or buffers of their own, children first.
        """
        if isinstance(module, UMTPositionTable):
            init.copy_(module.position_embeddings, module.make_position_table(module.stored_grid))
        if isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, UMTEmbeddings):
            # PyTorch's default for convolutions, which the official code keeps
            bound = module.patch_embeddings.in_features**-0.5
            init.uniform_(module.patch_embeddings.weight, -bound, bound)
            init.uniform_(module.patch_embeddings.bias, -bound, bound)
        elif isinstance(module, UMTAttentionPooling):
            init.trunc_normal_(module.query, std=self.config.initializer_range)
        elif isinstance(module, nn.Linear):
            if self.config.final_norm != "pooled":
                # officially one fused (3D, D) matrix, whose Xavier bound is sqrt(6 / 4D) and not sqrt(6 / 2D)
                gain = 0.5**0.5 if isinstance(module, UMTQKVLinear) else 1.0
                init.xavier_uniform_(module.weight, gain=gain)
            else:
                init.trunc_normal_(module.weight, std=self.config.initializer_range)
            if module.bias is not None:
                init.zeros_(module.bias)


@dataclass
class UMTEncoderOutput(ModelOutput):
    """Output of [`UMTModel.encode`].

    Args:
        last_hidden_state (`(batch, visible, hidden_size)`): The last block's tokens, before any norm.
        position_embeddings (`(batch, visible, hidden_size)`, or `(1, tokens, hidden_size)` if all are visible).
        aligned_hidden_states: Outputs of the requested blocks, before any norm, (batch, visible, hidden_size) each.
        hidden_states, attentions: See [`UMTForPreTrainingOutput`].
    """

    last_hidden_state: torch.FloatTensor | None = None
    position_embeddings: torch.FloatTensor | None = None
    aligned_hidden_states: tuple[torch.FloatTensor, ...] | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


class UMTModel(UMTPreTrainedModel):
    """The bare UMT video encoder."""

    # every repository contains an encoder, so heads are expected beside it
    _keys_to_ignore_on_load_unexpected = [r"^classifier\.", r"^(attention|frame)_pooling\.", r"^decoders\."]

    def __init__(self, config: UMTConfig):
        config.validate_architecture()  # overrides of `from_pretrained` are assigned without validation
        super().__init__(config)
        depth = config.num_hidden_layers
        self.embeddings = UMTEmbeddings(config)
        self.layers = nn.ModuleList(
            [UMTLayer(config, config.drop_path_rate * i / max(depth - 1, 1)) for i in range(depth)]
        )
        eps = config.layer_norm_eps if config.final_norm_eps is None else config.final_norm_eps
        if config.final_norm == "tokens":
            self.norm = nn.LayerNorm(config.hidden_size, eps=eps)
        elif config.final_norm == "pooled":
            self.fc_norm = nn.LayerNorm(config.hidden_size, eps=eps)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.patch_embeddings

    @only_documented_keywords
    @can_return_tuple
    def forward(
        self,
        pixel_values_videos: torch.Tensor,
        bool_masked_pos: torch.Tensor | None = None,
        visible_indices: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        """Encode clips, or only their visible tokens.

        Without a mask these are all tokens, or, with `motion_drop_ratio` of the configuration, those of most motion.

        Args:
            pixel_values_videos (`(batch, frames, channels, height, width)`): ImageNet-normalised clips of any length
                and size (in pixels) that `tubelet_size` and `patch_size` divide. An image is a clip of one frame.
            bool_masked_pos (bool `(batch, num_tokens)`, *optional*): True hides a token. Every sample must hide the
                same number. Tokens are ordered by frame, then row, then column.
            visible_indices (int64 `(batch, visible)`, *optional*): The same mask as ascending indices of the visible
                tokens: static shapes, no synchronisation with the device. Give one of the two, or neither.

        Returns:
            `BaseModelOutputWithPooling`: `last_hidden_state` (batch, visible tokens, hidden_size), after the norm with
            `final_norm="tokens"`, before it with `"pooled"`; `pooler_output` (batch, hidden_size), the mean of the
            normed tokens, or the norm of the tokens' mean. With `"none"` neither is normed.

        Raises:
            ValueError: if the clip's shape or dtype does not fit the model, the mask does not fit the clip, or tokens
                are dropped by motion and the clip has too few time steps.
        """
        encoded = self.encode(pixel_values_videos, bool_masked_pos, visible_indices, return_dict=True, **kwargs)
        hidden_states = encoded.last_hidden_state
        if self.config.final_norm == "tokens":
            hidden_states = self.norm(hidden_states)
        pooled = hidden_states.mean(dim=1)
        if self.config.final_norm == "pooled":
            pooled = self.fc_norm(pooled)
        return BaseModelOutputWithPooling(
            last_hidden_state=hidden_states,
            pooler_output=pooled,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )

    @only_documented_keywords
    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def encode(
        self,
        pixel_values_videos: torch.Tensor,
        bool_masked_pos: torch.Tensor | None = None,
        visible_indices: torch.Tensor | None = None,
        aligned_layers: Collection[int] = (),
        **kwargs: Unpack[TransformersKwargs],
    ) -> UMTEncoderOutput:
        """Clips, or their visible tokens, through all blocks but not the last norm; heads build upon it.

        Args:
            pixel_values_videos, bool_masked_pos, visible_indices: See `forward`.
            aligned_layers: Indices of the blocks whose outputs are returned as `aligned_hidden_states`.

        Raises:
            ValueError: as `forward`.
        """
        num_tokens = math.prod(self.embeddings.token_grid(pixel_values_videos))
        visible_indices = resolve_visible_indices(
            pixel_values_videos.shape[0], num_tokens, bool_masked_pos, visible_indices
        )
        hidden_states, positions = self.embeddings(pixel_values_videos, visible_indices)
        aligned = []
        for depth, layer in enumerate(self.layers):
            hidden_states = layer(hidden_states, **kwargs)
            if depth in aligned_layers:
                aligned.append(hidden_states)
        return UMTEncoderOutput(
            last_hidden_state=hidden_states, position_embeddings=positions, aligned_hidden_states=tuple(aligned)
        )

    @only_documented_keywords
    def get_feature_map(self, pixel_values_videos: torch.Tensor, **kwargs: Unpack[TransformersKwargs]) -> torch.Tensor:
        """`last_hidden_state` of complete clips, (batch, frames/tubelet, height/patch, width/patch, hidden_size).

        Arguments and errors are those of `forward`, without a mask. A configuration with `motion_drop_ratio` is
        refused.
        """
        require_all_tokens(self.config, "A feature map")
        grid = self.embeddings.token_grid(pixel_values_videos)
        kwargs["return_dict"] = True  # a configuration may disable it
        return self(pixel_values_videos, **kwargs).last_hidden_state.unflatten(1, grid)

    @torch.no_grad()
    def motion_importance(self, pixel_values_videos: torch.Tensor, groups: int = 1) -> torch.Tensor:
        """Motion of every token: the distance of its embedding to that of the same place one time step earlier.

        The tokens of highest importance are those that `motion_drop_ratio` keeps.

        Args:
            pixel_values_videos (`(batch, frames, channels, height, width)`): See `forward`.
            groups (`int`, defaults to 1): Groups of consecutive time steps, as `motion_groups` of the configuration.

        Returns:
            `torch.Tensor` of shape `(batch, frames / tubelet_size, tokens per frame)`, float32.

        Raises:
            ValueError: if the clip does not fit the model, or its time steps do not divide into `groups` of two or
                more.
        """
        embeddings = self.embeddings.embed_patches(pixel_values_videos)
        return self.embeddings.importance_of(embeddings, pixel_values_videos, groups)


class UMTForVideoClassification(UMTPreTrainedModel):
    """UMT with a linear classifier on the norm of the tokens' mean (official fine-tuning model) or other pooling."""

    # a stage-1 repository contains the norm on tokens and the decoders, which a classifier does not have
    _keys_to_ignore_on_load_unexpected = [r"^umt\.norm\.", r"^decoders\."]

    def __init__(self, config: UMTConfig):
        super().__init__(with_final_norm(config, "pooled"))
        self.umt = UMTModel(self.config)
        if config.pooling == "attention":
            self.attention_pooling = UMTAttentionPooling(self.config)
        elif config.pooling == "frames":
            self.frame_pooling = UMTFramePooling(self.config)
        pooled_dim = self.frame_pooling.hidden_size if config.pooling == "frames" else config.hidden_size
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(pooled_dim, config.num_labels)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if module is self.classifier:
            # officially trunc_normal(0.02) times `init_scale` 0.001, so that fresh logits are close to zero
            init.trunc_normal_(module.weight, std=0.001 * self.config.initializer_range)
            init.zeros_(module.bias)
        elif self.config.pooling == "frames" and module is self.frame_pooling.fc1:
            bound = module.in_features**-0.5  # `initializer_range` is too large for so many inputs
            init.uniform_(module.weight, -bound, bound)
            init.zeros_(module.bias)
        else:
            super()._init_weights(module)

    @only_documented_keywords
    @can_return_tuple
    def forward(
        self,
        pixel_values_videos: torch.Tensor,
        labels: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ImageClassifierOutput:
        """Classify clips.

        Args:
            pixel_values_videos (`(batch, frames, channels, height, width)`): See [`UMTModel.forward`]. With a sixth
                dimension, `(batch, views, frames, channels, height, width)`, the predictions of the views are
                averaged: `logits` has one row per video, whose softmax is the mean of the views' probabilities.
            labels (int64 `(batch,)`, *optional*): Class indices; with them the cross-entropy is returned too. Other
                kinds of labels follow Transformers' `problem_type` rules.

        Returns:
            `ImageClassifierOutput`: `loss` (scalar, if `labels` are given), `logits` (batch, num_labels).

        Raises:
            ValueError: if the clips do not fit the model, which includes their number of frames with
                `pooling="frames"`, or `motion_drop_ratio` is set together with it.
        """
        num_views = pixel_values_videos.shape[1] if pixel_values_videos.ndim == 6 else None
        if num_views is not None:
            pixel_values_videos = pixel_values_videos.flatten(0, 1)  # (batch * views, T, C, H, W)
        outputs = self.umt(pixel_values_videos, return_dict=True, **kwargs)
        pooled = outputs.pooler_output
        if self.config.pooling == "attention":
            pooled = self.umt.fc_norm(self.attention_pooling(outputs.last_hidden_state))
        elif self.config.pooling == "frames":
            require_all_tokens(self.config, '`pooling="frames"`')
            num_frames = pixel_values_videos.shape[1] // self.config.tubelet_size
            frame_states = outputs.last_hidden_state.unflatten(1, (num_frames, -1)).mean(dim=2)  # (B, T, D)
            pooled = self.frame_pooling(self.umt.fc_norm(frame_states))
        logits = self.classifier(self.dropout(pooled))
        if num_views is not None:
            logits = average_views(logits, num_views, self.config.problem_type)
        loss = None if labels is None else self.loss_function(labels, logits, self.config)
        return ImageClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


@dataclass
class UMTForPreTrainingOutput(ModelOutput):
    """Output of [`UMTForPreTraining`].

    Args:
        loss (scalar): Unmasked-token alignment, if `target_features` were given.
        student_features (`(batch, num_aligned_layers, visible, target_dim)`): Decoded features of the visible tokens;
            index 0 of the layers is the shallowest. Unit vectors with `target_norm="l2"`.
        hidden_states: With `output_hidden_states=True`: embeddings and every block's output, (batch, visible,
            hidden_size) each.
        attentions: With `output_attentions=True` and eager attention: (batch, heads, visible, visible) per block.
    """

    loss: torch.FloatTensor | None = None
    student_features: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


class UMTForPreTraining(UMTPreTrainedModel):
    """UMT's stage-1 student: visible tokens of K blocks, normed and decoded into the teacher's feature space.

    The teacher is not part of the model: pass its features, or none to get the student's alone.
    """

    _keys_to_ignore_on_load_unexpected = [
        r"^umt\.fc_norm\.",
        r"^classifier\.",
        r"^(attention|frame)_pooling\.",
        r"^decoders\.\D",  # of masked modelling
    ]

    def __init__(self, config: UMTConfig):
        super().__init__(with_final_norm(config, "tokens"))
        self.umt = UMTModel(self.config)
        self.aligned_layers = aligned_layers(config)
        self.decoders = nn.ModuleList([UMTAlignmentDecoder(config) for _ in self.aligned_layers])
        self.post_init()

    @only_documented_keywords
    @can_return_tuple
    def forward(
        self,
        pixel_values_videos: torch.Tensor,
        bool_masked_pos: torch.Tensor | None = None,
        visible_indices: torch.Tensor | None = None,
        target_features: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> UMTForPreTrainingOutput:
        """Features of the visible tokens and their distance to the teacher's (section 3.2).

        Args:
            pixel_values_videos (`(batch, frames, channels, height, width)`): See [`UMTModel.forward`].
            bool_masked_pos, visible_indices: The mask, in one of its two forms; see [`UMTModel.forward`].
            target_features (`(batch, num_aligned_layers, visible, target_dim)`, *optional*): The teacher's features
                at the visible tokens, shallowest layer first, as [`UMTTeacherModel`] returns them.

        Raises:
            ValueError: if the clip, mask or targets do not fit.
        """
        encoded = self.umt.encode(
            pixel_values_videos, bool_masked_pos, visible_indices, self.aligned_layers, return_dict=True, **kwargs
        )
        student_features, loss = align_features(
            self.decoders, self.umt.norm, encoded.aligned_hidden_states, encoded.position_embeddings, target_features
        )
        return UMTForPreTrainingOutput(
            loss=loss,
            student_features=student_features,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )


def with_final_norm(config: UMTConfig, final_norm: str) -> UMTConfig:
    """`config` with the `final_norm` of a head; a copy if it differs, so that the caller's object never changes."""
    if config.final_norm == final_norm:
        return config
    config = copy.deepcopy(config)
    config.final_norm = final_norm
    return config


__all__ = [
    "UMTForPreTraining",
    "UMTForPreTrainingOutput",
    "UMTForVideoClassification",
    "UMTModel",
    "UMTPreTrainedModel",
]
