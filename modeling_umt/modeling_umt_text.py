"""BERT as text encoder and as fusion encoder (arXiv 2303.16058, section 3.3).

One stack of post-norm layers does both: the layers below `fusion_layer` encode a text alone, the others also attend to
a video by cross-attention between self-attention and MLP. Parameter names are BERT's.

Unusual: several texts may share a video. Keys and values of a video are computed once per layer, however many texts
attend to it; this is most of the computation, because a clip has thousands of tokens and a text some thirty. Either
the texts of a video are adjacent, and then attend as one long query without a copy of the video; or `video_indices`
gives the video of each text.

Shape legend: B texts, L tokens of a text, H hidden size, M videos, N tokens of a video, W dimension of these.
"""

from collections.abc import Callable

import torch
from torch import nn
from transformers import BertForMaskedLM, PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.masking_utils import create_bidirectional_mask, create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithCrossAttentions
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .configuration_umt import UMTTextConfig
from .keyword_arguments_umt import only_documented_keywords
from .transformer_block_umt import eager_attention_forward


class UMTTextEmbeddings(nn.Module):
    """Token, position and first token-type embeddings, summed and normed."""

    def __init__(self, config: UMTTextConfig):
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        length, longest = input_ids.shape[1], self.position_embeddings.num_embeddings
        if length > longest:
            raise ValueError(f"The texts have {length} tokens; this model takes at most {longest}.")
        positions = torch.arange(length, device=input_ids.device)
        # the tables are called, not indexed: an offloaded one is only loaded during its call
        embeddings = self.word_embeddings(input_ids) + self.token_type_embeddings(torch.zeros_like(positions))
        return self.dropout(self.LayerNorm(embeddings + self.position_embeddings(positions)))  # (B, L, H)


class UMTTextMultiHeadAttention(nn.Module):
    """Multi-head attention of a text to itself or, with another `key_dim`, to a video; without output projection."""

    def __init__(self, config: UMTTextConfig, key_dim: int, is_causal: bool):
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = is_causal
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(key_dim, config.hidden_size)
        self.value = nn.Linear(key_dim, config.hidden_size)

    def forward(
        self,
        hidden_states: torch.Tensor,
        context_states: torch.Tensor,
        attention_mask: torch.Tensor | None,
        video_indices: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        query_states, key_states, value_states = (
            states.unflatten(-1, (-1, self.head_dim))  # (B, L, heads, head_dim), (M, N, heads, head_dim) twice
            for states in (self.query(hidden_states), self.key(context_states), self.value(context_states))
        )
        if video_indices is not None:
            key_states, value_states = (
                key_states[video_indices],
                value_states[video_indices],
            )  # (B, N, heads, head_dim)
        elif key_states.shape[0] != query_states.shape[0]:
            num_videos = key_states.shape[0]
            query_states = query_states.unflatten(0, (num_videos, -1)).flatten(1, 2)  # (M, B/M * L, heads, head_dim)
        attention_interface: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        attn_output, attn_weights = attention_interface(
            self,
            query_states.transpose(1, 2),
            key_states.transpose(1, 2),
            value_states.transpose(1, 2),
            attention_mask,
            scaling=self.scaling,
            dropout=self.config.attention_probs_dropout_prob if self.training else 0.0,
            **kwargs,
        )
        if attn_weights is not None and attn_weights.shape[0] != hidden_states.shape[0]:
            lengths = (-1, hidden_states.shape[1])
            attn_weights = attn_weights.unflatten(2, lengths).transpose(1, 2).flatten(0, 1)  # (B, heads, L, N)
        return attn_output.reshape(hidden_states.shape), attn_weights


class UMTTextOutput(nn.Module):
    """Output projection of a branch: Linear, dropout, residual, LayerNorm."""

    def __init__(self, config: UMTTextConfig, input_dim: int):
        super().__init__()
        self.dense = nn.Linear(input_dim, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_states: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        return self.LayerNorm(self.dropout(self.dense(hidden_states)) + residual)


class UMTTextAttention(nn.Module):
    """An attention branch with its output projection, of a text to itself or, with another `key_dim`, to a video."""

    def __init__(self, config: UMTTextConfig, key_dim: int, is_causal: bool = False):
        super().__init__()
        self.self = UMTTextMultiHeadAttention(config, key_dim, is_causal)
        self.output = UMTTextOutput(config, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor, *args, **kwargs: Unpack[TransformersKwargs]) -> torch.Tensor:
        attn_output, _ = self.self(hidden_states, *args, **kwargs)
        return self.output(attn_output, hidden_states)


class UMTTextIntermediate(nn.Module):
    """First half of the MLP."""

    def __init__(self, config: UMTTextConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.activation(self.dense(hidden_states))


class UMTTextLayer(GradientCheckpointingLayer):
    """BERT's layer; with `has_cross_attention` it also attends to a video."""

    def __init__(self, config: UMTTextConfig, has_cross_attention: bool):
        super().__init__()
        self.attention = UMTTextAttention(config, config.hidden_size, is_causal=config.is_decoder)
        if has_cross_attention:
            self.crossattention = UMTTextAttention(config, config.encoder_width)
        self.intermediate = UMTTextIntermediate(config)
        self.output = UMTTextOutput(config, config.intermediate_size)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        encoder_hidden_states: torch.Tensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        video_indices: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        hidden_states = self.attention(hidden_states, hidden_states, attention_mask, **kwargs)
        if encoder_hidden_states is not None:
            hidden_states = self.crossattention(
                hidden_states, encoder_hidden_states, encoder_attention_mask, video_indices, **kwargs
            )
        return self.output(self.intermediate(hidden_states), hidden_states)


class UMTTextEncoder(nn.Module):
    """Container of the layers under BERT's name."""

    def __init__(self, config: UMTTextConfig):
        super().__init__()
        self.layer = nn.ModuleList(
            [UMTTextLayer(config, depth >= config.fusion_layer) for depth in range(config.num_hidden_layers)]
        )


class UMTTextPreTrainedModel(PreTrainedModel):
    """Weight initialisation and class-level flags of the text models."""

    config: UMTTextConfig
    base_model_prefix = "bert"
    main_input_name = "input_ids"
    input_modalities = "text"
    supports_gradient_checkpointing = True
    _no_split_modules = ["UMTTextEmbeddings", "UMTTextLayer"]
    _supports_sdpa = True
    # it would apply the mask of the cross-attention's keys to the queries, which have another length
    _supports_flash_attn = False
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {
        "hidden_states": UMTTextLayer,
        "attentions": OutputRecorder(UMTTextMultiHeadAttention, index=1, layer_name="attention"),
        "cross_attentions": OutputRecorder(UMTTextMultiHeadAttention, index=1, layer_name="crossattention"),
    }

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        init_bert_weights(module, self.config.initializer_range)


class UMTTextModel(UMTTextPreTrainedModel):
    """Text encoder and fusion encoder in one stack; with `is_decoder` every token attends to earlier ones only."""

    def __init__(self, config: UMTTextConfig):
        config.validate_architecture()  # overrides of `from_pretrained` are assigned without validation
        super().__init__(config)
        self.embeddings = UMTTextEmbeddings(config)
        self.encoder = UMTTextEncoder(config)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.embeddings.word_embeddings = value

    @only_documented_keywords
    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        encoder_hidden_states: torch.Tensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithCrossAttentions:
        """Encode texts by the lower layers, or together with videos by all of them.

        Args:
            input_ids (int64 `(batch, length)`): Token ids.
            attention_mask (`(batch, length)`, *optional*): 0 where a text is padded.
            encoder_hidden_states (`(videos, tokens, encoder_width)`, *optional*): Tokens of the videos; `batch` must
                be a multiple of `videos`, and the texts of a video must be adjacent. Without it the layers from
                `fusion_layer` on do not run.
            encoder_attention_mask (`(videos, tokens)`, *optional*): 0 where these are padded; videos are not.

        Returns:
            `BaseModelOutputWithCrossAttentions`: `last_hidden_state` (batch, length, hidden_size). On request, of the
            layers that ran: `hidden_states`, and with eager attention `attentions` (batch, heads, length, length)
            and, of the fusion layers, `cross_attentions` (batch, heads, length, tokens).

        Raises:
            ValueError: if a text is longer than `max_position_embeddings`.
        """
        hidden_states = self.encode(input_ids, attention_mask, **kwargs)
        if encoder_hidden_states is not None:
            hidden_states = self.fuse(
                hidden_states, attention_mask, encoder_hidden_states, encoder_attention_mask, **kwargs
            )
        return BaseModelOutputWithCrossAttentions(last_hidden_state=hidden_states)

    @only_documented_keywords
    def encode(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None, **kwargs: Unpack[TransformersKwargs]
    ) -> torch.Tensor:
        """Texts (B, L) through the embeddings and the layers below `fusion_layer`: (B, L, H)."""
        hidden_states = self.embeddings(input_ids)
        mask = self.self_attention_mask(hidden_states, attention_mask)
        for layer in self.encoder.layer[: self.config.fusion_layer]:
            hidden_states = layer(hidden_states, mask, **kwargs)
        return hidden_states

    @only_documented_keywords
    def fuse(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None,
        encoder_hidden_states: torch.Tensor,
        encoder_attention_mask: torch.Tensor | None = None,
        video_indices: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        """Encoded texts (B, L, H) and videos (M, N, W) through the layers from `fusion_layer` on: (B, L, H).

        Text i attends to video `video_indices[i]` or, without them, `i // (B / M)`. A mask of padded videos (M, N) is
        supported only without `video_indices`.
        """
        mask = self.self_attention_mask(hidden_states, attention_mask)
        if encoder_attention_mask is not None:
            queries = hidden_states.unflatten(0, (encoder_hidden_states.shape[0], -1)).flatten(1, 2)  # (M, B/M * L, H)
            encoder_attention_mask = create_bidirectional_mask(
                self.config, queries, encoder_attention_mask, encoder_hidden_states
            )
        for layer in self.encoder.layer[self.config.fusion_layer :]:
            hidden_states = layer(
                hidden_states, mask, encoder_hidden_states, encoder_attention_mask, video_indices, **kwargs
            )
        return hidden_states

    def self_attention_mask(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None
    ) -> torch.Tensor | None:
        """The mask of texts (B, L) in the form that the attention implementation expects."""
        if self.config.is_decoder:
            return create_causal_mask(self.config, hidden_states, attention_mask, None)
        if attention_mask is None:
            return None
        # always built: checking whether any text is padded would wait for the device
        return create_bidirectional_mask(self.config, hidden_states, attention_mask, allow_is_bidirectional_skip=False)


class UMTTextPredictionTransform(nn.Module):
    """Linear, activation, LayerNorm."""

    def __init__(self, config: UMTTextConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = ACT2FN[config.hidden_act]
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.LayerNorm(self.activation(self.dense(hidden_states)))


class UMTTextPredictionHead(nn.Module):
    """BERT's masked language modelling head, with its parameter names; `decoder` shares the word embeddings."""

    def __init__(self, config: UMTTextConfig):
        super().__init__()
        self.transform = UMTTextPredictionTransform(config)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.transform(hidden_states))  # (..., H) -> (..., vocab_size)


def init_bert_weights(module: nn.Module, std: float) -> None:
    """BERT's initialisation: normal matrices and embeddings, zero biases and padding embedding."""
    if isinstance(module, nn.LayerNorm):
        init.ones_(module.weight)
        init.zeros_(module.bias)
    elif isinstance(module, nn.Linear | nn.Embedding):
        init.normal_(module.weight, std=std)
        if isinstance(module, nn.Linear):
            init.zeros_(module.bias)
        elif module.padding_idx is not None:
            init.zeros_(module.weight[module.padding_idx])


# fields that our configuration shares with BERT's
BERT_FIELDS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "max_position_embeddings",
    "type_vocab_size",
    "layer_norm_eps",
    "pad_token_id",
)


def read_bert(pretrained_model_name_or_path: str, **kwargs) -> tuple[dict, dict[str, torch.Tensor]]:
    """Read a BERT of Transformers: fields of [`UMTTextConfig`] and weights `bert.<...>`, `cls.predictions.<...>`.

    Args:
        pretrained_model_name_or_path: Hub id or folder, e.g. `"google-bert/bert-base-uncased"`.
        kwargs: Further fields. `fusion_layer` defaults to 9 of 12 layers and 19 of 24, as published, and to three
            quarters of another depth.

    Raises:
        ValueError: if the checkpoint lacks weights of BERT or of its masked language modelling head.
    """
    bert, report = BertForMaskedLM.from_pretrained(
        pretrained_model_name_or_path, dtype=torch.float32, output_loading_info=True
    )
    if missing := sorted(report["missing_keys"]):
        raise ValueError(
            f"{pretrained_model_name_or_path!r} lacks {len(missing)} weights of BERT or of its masked language "
            f"modelling head, among them {missing[0]!r}; use a BERT such as 'google-bert/bert-base-uncased'."
        )
    fields = {name: getattr(bert.config, name) for name in BERT_FIELDS}
    depth = bert.config.num_hidden_layers
    fields["fusion_layer"] = 19 if depth == 24 else 3 * depth // 4
    # the head's bias has two names; ours is `decoder.bias`
    state = {key: tensor for key, tensor in bert.state_dict().items() if key != "cls.predictions.bias"}
    return fields | kwargs, state


__all__ = ["UMTTextModel", "UMTTextPreTrainedModel"]
