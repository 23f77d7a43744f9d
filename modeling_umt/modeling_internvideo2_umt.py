"""InternVideo2's video encoder and its heads (arXiv 2403.15377), by the authors of UMT.

The encoder is aligned with its teachers as UMT's student is; its blocks and its pooling are others
(`layers_internvideo2_umt.py`). Hidden tokens are never computed. A mask covers the patches alone: the class token is
always visible.

Shape legend: B batch, T frames, C channels, N patch tokens of the clip, V visible patch tokens (V = N without a mask),
D hidden size, P pooled size, K aligned layers, F dimension of the teacher's features.
"""

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

from .alignment_umt import align_features
from .configuration_checks_umt import aligned_layers, require_all_tokens
from .configuration_internvideo2_umt import InternVideo2Config
from .keyword_arguments_umt import only_documented_keywords
from .layers_internvideo2_umt import (
    InternVideo2Attention,
    InternVideo2AttentionPooling,
    InternVideo2Decoder,
    InternVideo2DecoderLinear,
    InternVideo2Embeddings,
    InternVideo2Layer,
    InternVideo2Positions,
    InternVideo2RMSNorm,
)
from .objectives_umt import unmasked_token_alignment_loss
from .position_embeddings_umt import space_time_position_table
from .remote_code_umt import UMTRemoteCodeMixin
from .token_selection_umt import resolve_visible_indices
from .view_averaging_umt import average_views

# the parts of a student that no other model has
STUDENT_KEYS = r"^(aligned_positions|second_positions|decoders|final_decoder|second_decoders)\."


class InternVideo2PreTrainedModel(UMTRemoteCodeMixin, PreTrainedModel):
    """Weight initialisation and class-level flags of the InternVideo2 models."""

    config: InternVideo2Config
    remote_code: ClassVar[dict[str, str]] = {
        "AutoConfig": "configuration_internvideo2_umt.InternVideo2Config",
        "AutoModel": "modeling_internvideo2_umt.InternVideo2Model",
        "AutoModelForVideoClassification": "modeling_internvideo2_umt.InternVideo2ForVideoClassification",
        "AutoModelForPreTraining": "modeling_internvideo2_umt.InternVideo2ForPreTraining",
    }
    embedding_methods = {"video": ("forward", "pooler_output")}
    base_model_prefix = "internvideo2"
    main_input_name = "pixel_values_videos"
    input_modalities = "video"
    supports_gradient_checkpointing = True
    _no_split_modules = ["InternVideo2Embeddings", "InternVideo2Layer", "InternVideo2AttentionPooling"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": InternVideo2Layer, "attentions": InternVideo2Attention}
    # losses are means of a batch: Trainer's own count of labels is wrong where a clip has several
    accepts_loss_kwargs = False

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Truncated normal encoders, Xavier-uniform decoders and a space-time position table, as in the official code.

        Transformers calls this for modules with parameters of their own, children first.
        """
        std = self.config.initializer_range
        if isinstance(module, nn.LayerNorm | InternVideo2RMSNorm):
            init.ones_(module.weight)
            if isinstance(module, nn.LayerNorm):
                init.zeros_(module.bias)
        elif isinstance(module, InternVideo2Positions):
            table = space_time_position_table(module.grid, module.position_embeddings.shape[-1])
            class_row = torch.zeros(1 if module.has_class_row else 0, table.shape[-1])
            init.copy_(module.position_embeddings, torch.cat([class_row, table])[None])
        elif isinstance(module, InternVideo2Embeddings):
            init.trunc_normal_(module.cls_token, std=std)
            # PyTorch's default for convolutions, which the official code keeps
            bound = module.patch_embeddings.in_features**-0.5
            init.uniform_(module.patch_embeddings.weight, -bound, bound)
            init.uniform_(module.patch_embeddings.bias, -bound, bound)
        elif isinstance(module, InternVideo2Layer):
            init.constant_(module.layer_scale1, self.config.layer_scale_init_value)
            init.constant_(module.layer_scale2, self.config.layer_scale_init_value)
            for linear in (module.attention.o_proj, module.mlp.fc2):
                init.trunc_normal_(linear.weight, std=std / math.sqrt(2 * (module.depth + 1)))
        elif isinstance(module, nn.Linear):
            if isinstance(module, InternVideo2DecoderLinear):
                init.xavier_uniform_(module.weight)
            else:
                init.trunc_normal_(module.weight, std=std)
            if module.bias is not None:
                init.zeros_(module.bias)


@dataclass
class InternVideo2EncoderOutput(ModelOutput):
    """Output of [`InternVideo2Model.encode`].

    Args:
        last_hidden_state (`(batch, 1 + visible, hidden_size)`): The last block's tokens, the class token first.
        layer_hidden_states: Outputs of the requested blocks, (batch, 1 + visible, hidden_size) each.
        visible_indices (int64 `(batch, visible)`): The mask, or None without one.
        hidden_states, attentions: See [`InternVideo2ForPreTrainingOutput`].
    """

    last_hidden_state: torch.FloatTensor | None = None
    layer_hidden_states: tuple[torch.FloatTensor, ...] | None = None
    visible_indices: torch.LongTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


class InternVideo2Model(InternVideo2PreTrainedModel):
    """The bare InternVideo2 video encoder with its attention pooling."""

    # every repository contains an encoder, so heads are expected beside it
    _keys_to_ignore_on_load_unexpected = [r"^classifier\.", r"^fc_norm\.", STUDENT_KEYS]

    def __init__(self, config: InternVideo2Config):
        config.validate_architecture()  # overrides of `from_pretrained` are assigned without validation
        super().__init__(config)
        self.embeddings = InternVideo2Embeddings(config)
        self.layers = nn.ModuleList([InternVideo2Layer(config, i) for i in range(config.num_hidden_layers)])
        self.pooling = InternVideo2AttentionPooling(config)
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
            bool_masked_pos (bool `(batch, num_tokens)`, *optional*): True hides a patch token. Every sample must hide
                the same number. Tokens are ordered by frame, then row, then column; the class token has no entry.
            visible_indices (int64 `(batch, visible)`, *optional*): The same mask as ascending indices of the visible
                patch tokens: static shapes, no synchronisation with the device. Give one of the two, or neither.

        Returns:
            `BaseModelOutputWithPooling`: `last_hidden_state` (batch, 1 + visible tokens, hidden_size), the output of
            the last block without a norm, the class token first; `pooler_output` (batch, pooled_size), the attention
            pooling of these tokens.

        Raises:
            ValueError: if the clip's shape or dtype does not fit the model, the mask does not fit the clip, or tokens
                are dropped by motion and the clip has too few time steps.
        """
        encoded = self.encode(pixel_values_videos, bool_masked_pos, visible_indices, return_dict=True, **kwargs)
        pooled, _ = self.pooling(encoded.last_hidden_state)
        return BaseModelOutputWithPooling(
            last_hidden_state=encoded.last_hidden_state,
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
        returned_layers: Collection[int] = (),
        **kwargs: Unpack[TransformersKwargs],
    ) -> InternVideo2EncoderOutput:
        """Clips, or their visible tokens, through all blocks but not the pooling; heads and teachers build upon it.

        Args:
            pixel_values_videos, bool_masked_pos, visible_indices: See `forward`.
            returned_layers: Indices of the blocks whose outputs are returned as `layer_hidden_states`.

        Raises:
            ValueError: as `forward`.
        """
        num_tokens = math.prod(self.embeddings.token_grid(pixel_values_videos))
        visible_indices = resolve_visible_indices(
            pixel_values_videos.shape[0], num_tokens, bool_masked_pos, visible_indices
        )
        hidden_states, visible_indices = self.embeddings(pixel_values_videos, visible_indices)
        outputs = []
        for depth, layer in enumerate(self.layers):
            hidden_states = layer(hidden_states, **kwargs)
            if depth in returned_layers:
                outputs.append(hidden_states)
        return InternVideo2EncoderOutput(
            last_hidden_state=hidden_states, layer_hidden_states=tuple(outputs), visible_indices=visible_indices
        )

    @only_documented_keywords
    def get_feature_map(self, pixel_values_videos: torch.Tensor, **kwargs: Unpack[TransformersKwargs]) -> torch.Tensor:
        """The patch tokens of complete clips, (batch, frames/tubelet, height/patch, width/patch, hidden_size).

        Arguments and errors are those of `forward`, without a mask. A configuration with `motion_drop_ratio` is
        refused.
        """
        require_all_tokens(self.config, "A feature map")
        grid = self.embeddings.token_grid(pixel_values_videos)
        kwargs["return_dict"] = True  # a configuration may disable it
        return self(pixel_values_videos, **kwargs).last_hidden_state[:, 1:].unflatten(1, grid)

    @torch.no_grad()
    def motion_importance(self, pixel_values_videos: torch.Tensor, groups: int = 1) -> torch.Tensor:
        """Motion of every patch token, (batch, frames / tubelet_size, tokens per frame), float32.

        The patches of highest importance are those that `motion_drop_ratio` keeps. Arguments and errors are those of
        [`UMTModel.motion_importance`].
        """
        embeddings = self.embeddings.embed_patches(pixel_values_videos)
        return self.embeddings.importance_of(embeddings, pixel_values_videos, groups)


class InternVideo2ForVideoClassification(InternVideo2PreTrainedModel):
    """InternVideo2 with a norm and a linear classifier on the pooled vector (the official fine-tuning model)."""

    _keys_to_ignore_on_load_unexpected = [STUDENT_KEYS]

    def __init__(self, config: InternVideo2Config):
        super().__init__(config)
        self.internvideo2 = InternVideo2Model(config)
        self.fc_norm = nn.LayerNorm(config.pooled_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.pooled_size, config.num_labels)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if module is self.classifier:
            # officially trunc_normal(0.02) times `init_scale` 0.001, so that fresh logits are close to zero
            init.trunc_normal_(module.weight, std=0.001 * self.config.initializer_range)
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
            pixel_values_videos (`(batch, frames, channels, height, width)`): See [`InternVideo2Model.forward`]. With a
                sixth dimension, `(batch, views, frames, channels, height, width)`, the predictions of the views are
                averaged: `logits` has one row per video, whose softmax is the mean of the views' probabilities.
            labels (int64 `(batch,)`, *optional*): Class indices; with them the cross-entropy is returned too. Other
                kinds of labels follow Transformers' `problem_type` rules.

        Returns:
            `ImageClassifierOutput`: `loss` (scalar, if `labels` are given), `logits` (batch, num_labels).

        Raises:
            ValueError: if the clips do not fit the model.
        """
        num_views = pixel_values_videos.shape[1] if pixel_values_videos.ndim == 6 else None
        if num_views is not None:
            pixel_values_videos = pixel_values_videos.flatten(0, 1)  # (batch * views, T, C, H, W)
        outputs = self.internvideo2(pixel_values_videos, return_dict=True, **kwargs)
        logits = self.classifier(self.dropout(self.fc_norm(outputs.pooler_output)))
        if num_views is not None:
            logits = average_views(logits, num_views, self.config.problem_type)
        loss = None if labels is None else self.loss_function(labels, logits, self.config)
        return ImageClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


@dataclass
class InternVideo2ForPreTrainingOutput(ModelOutput):
    """Output of [`InternVideo2ForPreTraining`].

    Args:
        loss (scalar): The sum of the mean distances to the targets that were given, 2 - 2 cos each.
        student_features (`(batch, num_aligned_layers, 1 + visible, target_dim)`): Decoded features of the class token
            and the visible patches, of unit length; index 0 of the layers is the shallowest.
        final_features (`(batch, final_target_dim)`): The decoded pooled vector, of unit length.
        second_features (`(batch, num_second_layers, visible, second_target_dim)`): Those of the second teacher,
            without a class token; None without `num_second_layers`.
        hidden_states: With `output_hidden_states=True`: embeddings and every block's output, (batch, 1 + visible,
            hidden_size) each.
        attentions: With `output_attentions=True` and eager attention: (batch, heads, 1 + visible, 1 + visible) per
            block.
    """

    loss: torch.FloatTensor | None = None
    student_features: torch.FloatTensor | None = None
    final_features: torch.FloatTensor | None = None
    second_features: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


class InternVideo2ForPreTraining(InternVideo2PreTrainedModel):
    """A student: stage 1 of InternVideo2, and the models distilled from it.

    Aligned blocks are decoded into the features of a teacher, the pooled vector into the teacher's, and with
    `num_second_layers` further blocks into the features of a second one. Teachers are not part of the model: pass
    their features, or none to get the student's alone.
    """

    # a classifier's repository contains its head
    _keys_to_ignore_on_load_unexpected = [r"^classifier\.", r"^fc_norm\."]
    _no_split_modules = [*InternVideo2PreTrainedModel._no_split_modules, "InternVideo2Decoder"]

    def __init__(self, config: InternVideo2Config):
        super().__init__(config)
        self.internvideo2 = InternVideo2Model(config)
        self.aligned_layers = aligned_layers(config)
        dim, eps = config.hidden_size, config.layer_norm_eps
        self.aligned_positions = InternVideo2Positions(config)
        self.decoders = nn.ModuleList(
            [InternVideo2Decoder(config.decoder, dim, config.target_dim, eps) for _ in self.aligned_layers]
        )
        self.final_decoder = InternVideo2Decoder(config.decoder, config.pooled_size, config.final_target_dim, eps)
        self.second_layers = []
        if config.num_second_layers:
            self.second_layers = aligned_layers(config, "num_second_layers", "second_layer_interval")
            self.second_positions = InternVideo2Positions(config, has_class_row=False)
            self.second_decoders = nn.ModuleList(
                [InternVideo2Decoder("mlp", dim, config.second_target_dim, eps) for _ in self.second_layers]
            )
        self.post_init()

    @only_documented_keywords
    @can_return_tuple
    def forward(
        self,
        pixel_values_videos: torch.Tensor,
        bool_masked_pos: torch.Tensor | None = None,
        visible_indices: torch.Tensor | None = None,
        target_features: torch.Tensor | None = None,
        target_final: torch.Tensor | None = None,
        target_second: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> InternVideo2ForPreTrainingOutput:
        """Features of the visible tokens and of the clip, and their distance to the teachers' (section 3.1).

        Args:
            pixel_values_videos (`(batch, frames, channels, height, width)`): See [`InternVideo2Model.forward`].
            bool_masked_pos, visible_indices: The mask, in one of its two forms; see [`InternVideo2Model.forward`].
            target_features (`(batch, num_aligned_layers, 1 + visible, target_dim)`, *optional*): The teacher's
                features of the class token and the visible patches, shallowest layer first.
            target_final (`(batch, final_target_dim)`, *optional*): The teacher's pooled vector.
            target_second (`(batch, num_second_layers, visible, second_target_dim)`, *optional*): The second teacher's
                features of the visible patches.

        Raises:
            ValueError: if the clip, mask or targets do not fit.
        """
        if target_second is not None and not self.second_layers:
            raise ValueError(
                "`target_second` was given, but `num_second_layers` is 0: no block is aligned with a second teacher."
            )
        returned_layers = sorted({*self.aligned_layers, *self.second_layers})
        encoded = self.internvideo2.encode(
            pixel_values_videos, bool_masked_pos, visible_indices, returned_layers, return_dict=True, **kwargs
        )
        states = dict(zip(returned_layers, encoded.layer_hidden_states, strict=True))
        grid, visible_indices = self.internvideo2.embeddings.token_grid(pixel_values_videos), encoded.visible_indices

        student_features, loss = align_features(
            self.decoders,
            nn.Identity(),
            [states[i] for i in self.aligned_layers],
            self.aligned_positions(grid, visible_indices),
            target_features,
        )
        pooled, _ = self.internvideo2.pooling(encoded.last_hidden_state)
        final_features = self.final_decoder(pooled)
        final_loss = None
        if target_final is not None:
            if target_final.shape != final_features.shape:
                raise ValueError(
                    f"`target_final` must be (batch, final_target_dim) = {tuple(final_features.shape)}, but is "
                    f"{tuple(target_final.shape)}."
                )
            final_loss = unmasked_token_alignment_loss(final_features, target_final)
        second_features, second_loss = None, None
        if self.second_layers:
            second_features, second_loss = align_features(
                self.second_decoders,
                nn.Identity(),
                [states[i][:, 1:] for i in self.second_layers],
                self.second_positions(grid, visible_indices),
                target_second,
            )
        losses = [part for part in (loss, final_loss, second_loss) if part is not None]
        return InternVideo2ForPreTrainingOutput(
            loss=sum(losses) if losses else None,
            student_features=student_features,
            final_features=final_features,
            second_features=second_features,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )


__all__ = [
    "InternVideo2ForPreTraining",
    "InternVideo2ForPreTrainingOutput",
    "InternVideo2ForVideoClassification",
    "InternVideo2Model",
    "InternVideo2PreTrainedModel",
]
