"""Stage 2's dual encoder and cross-encoder: the video encoder and BERT in one joint space, and fused (arXiv
2303.16058, section 3.3).

Cosines in the joint space compare every video with every text; the fusion layers encode a video and a text together
and classify whether they match. The first is fast and finds candidates, the second is slow and re-ranks them.

Unusual: a clip without a mask has one vector per frame in the joint space, and a text's similarity is the mean of its
cosines with them. In pre-training, where a frame has few visible tokens or none, a clip has one vector.

Shape legend: B clips or texts, T frames, V visible tokens, D hidden size of the video encoder, E dimension of the
joint space.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs, can_return_tuple
from transformers.utils.generic import maybe_autocast

from .configuration_checks_umt import require_all_tokens
from .configuration_umt import UMTVideoTextConfig
from .keyword_arguments_umt import only_documented_keywords
from .modeling_umt import UMTModel
from .modeling_umt_text import UMTTextModel, init_bert_weights
from .remote_code_umt import UMTRemoteCodeMixin

TEMPERATURE_RANGE = (0.001, 0.5)  # officially enforced before every step


@dataclass
class UMTVideoTextOutput(ModelOutput):
    """Output of [`UMTVideoTextModel`].

    Args:
        logits_per_video (`(videos, texts)`): Similarities divided by the temperature, float32.
        logits_per_text (`(texts, videos)`): Its transpose.
        video_embeds (`(videos, projection_dim)`): Mean of the L2-normalised vectors of the frames, not normalised
            again: its dot product with a text's vector is the mean of cosines.
        text_embeds (`(texts, projection_dim)`): Unit vectors.
        hidden_states, attentions: On request, of the video encoder; see [`UMTForPreTrainingOutput`].
    """

    logits_per_video: torch.FloatTensor | None = None
    logits_per_text: torch.FloatTensor | None = None
    video_embeds: torch.FloatTensor | None = None
    text_embeds: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


class UMTVideoTextPreTrainedModel(UMTRemoteCodeMixin, PreTrainedModel):
    """Weight initialisation and class-level flags of the video-text models."""

    config: UMTVideoTextConfig
    remote_code: ClassVar[dict[str, str]] = {
        "AutoConfig": "configuration_umt.UMTVideoTextConfig",
        "AutoModel": "modeling_umt_video_text.UMTVideoTextModel",
    }
    embedding_methods = {
        "text": ("get_text_embeds", None),
        "video": ("get_video_embeds", None),
        "image": ("get_video_embeds", None),
    }
    base_model_prefix = "video_text"
    main_input_name = "input_ids"
    input_modalities = ("video", "text")
    supports_gradient_checkpointing = True
    _no_split_modules = ["UMTEmbeddings", "UMTLayer", "UMTTextEmbeddings", "UMTTextLayer"]
    _supports_sdpa = True
    # the text encoder does not; `attn_implementation={"vision_config": "flash_attention_2"}` leaves it out
    _supports_flash_attn = False
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    accepts_loss_kwargs = False  # losses are means of a batch, not of the labels that Trainer counts

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Heads as BERT's; the two towers are separate models and initialise themselves."""
        init_bert_weights(module, self.config.initializer_range)

    def resize_token_embeddings(
        self,
        new_num_tokens: int | None = None,
        pad_to_multiple_of: int | None = None,
        mean_resizing: bool = True,
    ) -> nn.Embedding:
        """As Transformers does; another number of embeddings is another vocabulary, whose hash is not known."""
        num_tokens = self.config.text_config.vocab_size
        embeddings = super().resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)
        if embeddings.num_embeddings != num_tokens:
            self.config.vocabulary_hash = None
        return embeddings


class UMTVideoTextModel(UMTVideoTextPreTrainedModel):
    """Dual encoder and cross-encoder of videos and texts: the official retrieval model."""

    _keys_to_ignore_on_load_unexpected = [r"^decoders\.", r"^mlm_head\."]

    def __init__(self, config: UMTVideoTextConfig):
        config.validate_architecture()  # overrides of `from_pretrained` are assigned without validation
        super().__init__(config)
        video, text = config.vision_config, config.text_config
        self.vision_model = UMTModel._from_config(video)
        self.text_model = UMTTextModel._from_config(text)
        self.pool_norm = nn.LayerNorm(video.hidden_size, eps=video.layer_norm_eps)
        self.video_projection = nn.Linear(video.hidden_size, config.projection_dim)
        self.text_projection = nn.Linear(text.hidden_size, config.projection_dim)
        self.matching_head = nn.Linear(text.hidden_size, 2)
        self.temperature = nn.Parameter(torch.empty(()))
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if module is self:
            init.constant_(self.temperature, self.config.temperature_init_value)
        else:
            super()._init_weights(module)

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        """As `PreTrainedModel.from_pretrained`.

        Raises:
            ValueError: if the weights are those of a question-answering model, which has no joint space.
        """
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if kwargs.get("output_loading_info") else loaded
        if model.config.architectures == ["UMTForVideoQuestionAnswering"]:
            raise ValueError(
                f"{model.name_or_path} is a question-answering model, which has no joint space of videos and texts; "
                "load it by AutoModelForVisualQuestionAnswering, or give a retrieval or stage-2 model."
            )
        return loaded

    def get_input_embeddings(self) -> nn.Module:
        return self.text_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.text_model.set_input_embeddings(value)

    @only_documented_keywords
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> UMTVideoTextOutput:
        """Compare every video with every text by cosines in the joint space.

        Args:
            input_ids (int64 `(texts, length)`): Token ids of any number of texts, as from [`UMTProcessor`]: `[CLS]`
                first and no `[SEP]`.
            attention_mask (`(texts, length)`, *optional*): 0 where a text is padded.
            pixel_values_videos (`(videos, frames, channels, height, width)`): See [`UMTModel.forward`].

        Raises:
            ValueError: if clips or texts are missing, the clips do not fit the model or a text is too long.
        """
        require_clips_and_texts(input_ids, pixel_values_videos)
        video = self.get_video_features(pixel_values_videos, return_dict=True, **kwargs)
        text = self.get_text_features(input_ids, attention_mask, return_dict=True)
        video_embeds = mean_of_unit_vectors(video.pooler_output)
        text_embeds = F.normalize(text.pooler_output, dim=-1)
        temperature = self.temperature.clamp(*TEMPERATURE_RANGE)
        logits_per_video = similarity_over_temperature(video_embeds, text_embeds, temperature)
        return UMTVideoTextOutput(
            logits_per_video=logits_per_video,
            logits_per_text=logits_per_video.T,
            video_embeds=video_embeds,
            text_embeds=text_embeds,
            hidden_states=video.hidden_states,
            attentions=video.attentions,
        )

    @only_documented_keywords
    @can_return_tuple
    def get_video_features(
        self,
        pixel_values_videos: torch.Tensor,
        bool_masked_pos: torch.Tensor | None = None,
        visible_indices: torch.Tensor | None = None,
        keep_temporal: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        """Tokens of clips, and their vectors in the joint space.

        Args:
            pixel_values_videos, bool_masked_pos, visible_indices: See [`UMTModel.forward`].
            keep_temporal (`bool`, *optional*): One vector per frame, which requires equally many visible tokens in
                every frame, or one per clip. Defaults to one per clip with a mask or with tokens dropped by motion,
                and to the configuration's `keep_temporal` without.

        Returns:
            `BaseModelOutputWithPooling`: `last_hidden_state` (batch, visible tokens, hidden_size), normed;
            `pooler_output` (batch, frames or 1, projection_dim), not of unit length. On request `hidden_states` and
            `attentions` of the video encoder.

        Raises:
            ValueError: if the clips do not fit the model, the mask does not fit the clips, or one vector per frame is
                requested and tokens are dropped by motion (`motion_drop_ratio` of the video encoder).
        """
        encoded = self.vision_model.encode(
            pixel_values_videos, bool_masked_pos, visible_indices, return_dict=True, **kwargs
        )
        tokens = self.vision_model.norm(encoded.last_hidden_state)
        has_mask = bool_masked_pos is not None or visible_indices is not None
        num_vectors = self.num_video_vectors(pixel_values_videos, has_mask, keep_temporal)
        return BaseModelOutputWithPooling(
            last_hidden_state=tokens,
            pooler_output=self.project_video(tokens, num_vectors),
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )

    def num_video_vectors(self, pixel_values_videos: torch.Tensor, has_mask: bool, keep_temporal: bool | None) -> int:
        """Number of vectors of a clip in the joint space: its frames (after tubelets), or 1."""
        video = self.config.vision_config
        if keep_temporal is None:
            keep_temporal = self.config.keep_temporal and not has_mask and not video.motion_drop_ratio
        elif keep_temporal and not has_mask:
            require_all_tokens(video, "`keep_temporal=True` without a mask")
        return self.vision_model.embeddings.token_grid(pixel_values_videos)[0] if keep_temporal else 1

    def project_video(self, tokens: torch.Tensor, num_vectors: int) -> torch.Tensor:
        """Tokens (B, V, D), ordered by frame, equally many of each, to vectors of the joint space (B, vectors, E)."""
        pooled = tokens.unflatten(1, (num_vectors, -1)).mean(dim=2)
        return self.video_projection(self.pool_norm(pooled))

    @only_documented_keywords
    @can_return_tuple
    def get_text_features(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        """Texts through the layers below `fusion_layer`, and their vectors in the joint space.

        Args:
            input_ids, attention_mask: See `forward`.

        Returns:
            `BaseModelOutputWithPooling`: `last_hidden_state` (batch, length, hidden_size), the input of `match`;
            `pooler_output` (batch, projection_dim), the projection of the first token, not of unit length. On request
            `hidden_states` and `attentions` of the layers below `fusion_layer`.

        Raises:
            ValueError: if a text is longer than the model's `max_position_embeddings`.
        """
        encoded = self.text_model(input_ids, attention_mask, return_dict=True, **kwargs)
        return BaseModelOutputWithPooling(
            last_hidden_state=encoded.last_hidden_state,
            pooler_output=self.text_projection(encoded.last_hidden_state[:, 0]),
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )

    def get_video_embeds(self, pixel_values_videos: torch.Tensor) -> torch.Tensor:
        """The `video_embeds` of clips, (batch, projection_dim), without texts.

        Args:
            pixel_values_videos (`(batch, frames, channels, height, width)`): See [`UMTModel.forward`].

        Raises:
            ValueError: if the clips do not fit the model.
        """
        return mean_of_unit_vectors(self.get_video_features(pixel_values_videos, return_dict=True).pooler_output)

    def get_text_embeds(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """The `text_embeds` of texts, (texts, projection_dim), without clips.

        Args:
            input_ids, attention_mask: See `forward`.

        Raises:
            ValueError: if a text is longer than the model's `max_position_embeddings`.
        """
        return F.normalize(self.get_text_features(input_ids, attention_mask, return_dict=True).pooler_output, dim=-1)

    def match(
        self,
        text_hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None,
        video_hidden_states: torch.Tensor,
        chunk_size: int | None = None,
    ) -> torch.Tensor:
        """Classify pairs of texts and videos as matching or not by the fusion layers (cross-encoder).

        Args:
            text_hidden_states (`(n, length, hidden_size)`): `get_text_features(...).last_hidden_state`.
            attention_mask (`(n, length)` or None): 0 where a text is padded.
            video_hidden_states (`(videos, tokens, hidden_size)`): `get_video_features(...).last_hidden_state`. `n` is
                a multiple of `videos`; the texts of a video are adjacent, and its keys and values are computed once
                for all of them. A single video is compared with all texts.
            chunk_size (`int`, *optional*): Number of texts per forward pass, which bounds the memory. Defaults to all.

        Returns:
            `torch.Tensor` of shape `(n, 2)`: logits; column 1 is the match logit.

        Raises:
            ValueError: if the number of texts is not a multiple of the number of videos.
        """
        num_texts, num_videos = text_hidden_states.shape[0], video_hidden_states.shape[0]
        if num_videos == 0 or num_texts % num_videos:
            raise ValueError(
                f"{num_texts} texts and {num_videos} videos: the number of texts must be a multiple of the number of "
                "videos."
            )
        if attention_mask is None:
            attention_mask = torch.ones(text_hidden_states.shape[:2], device=text_hidden_states.device)
        chunk_size = num_texts if chunk_size is None else chunk_size
        texts_per_video = num_texts // num_videos
        videos_at_once = max(1, chunk_size // texts_per_video)
        logits = []
        for first in range(0, num_videos, videos_at_once):
            videos = video_hidden_states[first : first + videos_at_once]
            rows = slice(first * texts_per_video, (first + len(videos)) * texts_per_video)
            texts, masks = text_hidden_states[rows], attention_mask[rows]
            # a single video may have more texts than fit into a chunk
            chunks = zip(texts.split(chunk_size), masks.split(chunk_size), strict=True)
            logits += [self.matching_head(self.text_model.fuse(*chunk, videos)[:, 0]) for chunk in chunks]
        return torch.cat(logits)


def require_clips_and_texts(input_ids: torch.Tensor | None, pixel_values_videos: torch.Tensor | None) -> None:
    """Raise a ValueError unless both are given."""
    if input_ids is None or pixel_values_videos is None:
        raise ValueError("Give `input_ids` and `pixel_values_videos`: this model takes texts together with clips.")


def mean_of_unit_vectors(frames: torch.Tensor) -> torch.Tensor:
    """Vectors of frames (B, T, E) to one per clip (B, E), whose dot product with a text's is the mean of cosines."""
    return F.normalize(frames, dim=-1).mean(dim=1)


def similarity_over_temperature(
    video_embeds: torch.Tensor, text_embeds: torch.Tensor, temperature: torch.Tensor
) -> torch.Tensor:
    """Dot products of clips (B, E) and texts (B', E), divided by the temperature: (B, B').

    In float32, also under autocast: bfloat16 would round a similarity of 1 / 0.07 to a sixteenth. The temperature may
    be on another device, as in a model split by `device_map`. It is not clamped here, because a clamp has no gradient
    at its ends: training keeps the parameter in its range by `clamp_temperature`.
    """
    with maybe_autocast(video_embeds.device.type, enabled=False):
        similarity = video_embeds.float() @ text_embeds.float().T
        return similarity / temperature.to(similarity)


__all__ = [
    "UMTVideoTextModel",
    "UMTVideoTextOutput",
    "UMTVideoTextPreTrainedModel",
]
