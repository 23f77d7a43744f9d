"""Stage 2's pre-training: four objectives on clips and their texts (arXiv 2303.16058, section 3.3, equations 2 to 4).

Contrast pulls a clip towards its text, matching trains the fusion layers to classify pairs, with hard negatives,
masked language modelling trains them to predict masked tokens, and stage 1's unmasked-token alignment continues.

Unusual:
- Matching and masked language modelling share one forward pass of the fusion layers, with four texts per clip: keys
  and values of the clips' tokens, which are most of the computation, are computed once for all of them.
- The losses in the output are weighted. Official training keeps the temperature in a range: call `clamp_temperature`
  before every forward pass in training, as the trainer does; `forward` itself changes no parameter.
- An objective of weight 0 has no head: without `mlm_weight` and `uta_weight` this is the retrieval fine-tuning model.

Shape legend: B clips and texts, V visible tokens, D hidden size of the video encoder, L tokens of a text, H hidden
size of the text encoder, E dimension of the joint space.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs, can_return_tuple

from .alignment_umt import UMTAlignmentDecoder, align_features
from .configuration_checks_umt import aligned_layers
from .configuration_umt import UMTConfig, UMTTextConfig, UMTVideoTextConfig
from .keyword_arguments_umt import only_documented_keywords
from .modeling_umt import UMTEncoderOutput, UMTForPreTraining
from .modeling_umt_text import UMTTextPredictionHead, read_bert
from .modeling_umt_video_text import (
    TEMPERATURE_RANGE,
    UMTVideoTextModel,
    UMTVideoTextPreTrainedModel,
    mean_of_unit_vectors,
    require_clips_and_texts,
    similarity_over_temperature,
)
from .objectives_umt import (
    masked_language_modeling_loss,
    video_text_contrastive_loss,
    video_text_matching_loss,
)
from .video_text_sampling_umt import mask_tokens, sample_negatives


@dataclass
class UMTForVideoTextPreTrainingOutput(ModelOutput):
    """Output of [`UMTForVideoTextPreTraining`]; entries that were not computed are None.

    Args:
        loss (scalar): Sum of the following.
        loss_vtc, loss_vtm, loss_mlm, loss_uta (scalars): Contrast, matching, masked language modelling and alignment,
            each multiplied by its weight.
        vtm_logits (`(3 * batch, 2)`): Of the pairs (video, its text), (another video, text), (video, another text), in
            this order; column 1 is the match logit.
        mlm_logits (`(batch, length, vocab_size)`): Predictions at every token.
        student_features (`(batch, num_aligned_layers, visible, target_dim)`): As in [`UMTForPreTrainingOutput`].
        video_embeds, text_embeds (`(batch, projection_dim)`): As in [`UMTVideoTextOutput`].
        hidden_states, attentions: On request, of the video encoder.
    """

    loss: torch.FloatTensor | None = None
    loss_vtc: torch.FloatTensor | None = None
    loss_vtm: torch.FloatTensor | None = None
    loss_mlm: torch.FloatTensor | None = None
    loss_uta: torch.FloatTensor | None = None
    vtm_logits: torch.FloatTensor | None = None
    mlm_logits: torch.FloatTensor | None = None
    student_features: torch.FloatTensor | None = None
    video_embeds: torch.FloatTensor | None = None
    text_embeds: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


@dataclass
class EncodedPairs:
    """Clips and their texts after the two encoders."""

    encoder: UMTEncoderOutput
    video_states: torch.Tensor  # (B, V, D), normed
    text_states: torch.Tensor  # (B, L, H)
    video_embeds: torch.Tensor  # (B, E)
    text_embeds: torch.Tensor  # (B, E)


class UMTForVideoTextPreTraining(UMTVideoTextPreTrainedModel):
    """[`UMTVideoTextModel`] with the heads and losses of its training. The teacher is not part of it.

    Attributes:
        gather_embeddings (*optional*): Concatenates a tensor of all processes along its first axis, with gradients.
            The contrast is then among the clips of all processes: it is called with `match_ids`, which `forward` then
            requires, and with the embeddings. None, the default: the contrast is within the batch. Trainers set it.
    """

    remote_code: ClassVar[dict[str, str]] = UMTVideoTextPreTrainedModel.remote_code | {
        "AutoModelForPreTraining": "modeling_umt_video_text_pretraining.UMTForVideoTextPreTraining"
    }
    _keys_to_ignore_on_load_unexpected = [r"^decoders\.", r"^mlm_head\."]
    _tied_weights_keys = {"mlm_head.decoder.weight": "video_text.text_model.embeddings.word_embeddings.weight"}

    def __init__(self, config: UMTVideoTextConfig):
        super().__init__(config)
        self.gather_embeddings: Callable[[torch.Tensor], torch.Tensor] | None = None
        self.video_text = UMTVideoTextModel(config)
        self.aligned_layers = aligned_layers(config.vision_config) if config.uta_weight > 0 else []
        if config.uta_weight > 0:
            self.decoders = nn.ModuleList([UMTAlignmentDecoder(config.vision_config) for _ in self.aligned_layers])
        if config.mlm_weight > 0:
            self.mlm_head = UMTTextPredictionHead(config.text_config)
        else:
            self._tied_weights_keys = None
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if any(module is decoder.projection for decoder in getattr(self, "decoders", [])):
            init.xavier_uniform_(module.weight)  # as in stage 1
            init.zeros_(module.bias)
        else:
            super()._init_weights(module)

    def get_input_embeddings(self) -> nn.Module:
        return self.video_text.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.video_text.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module | None:
        return self.mlm_head.decoder if self.config.mlm_weight > 0 else None

    def set_output_embeddings(self, value: nn.Module) -> None:
        self.mlm_head.decoder = value

    @torch.no_grad()
    def clamp_temperature(self) -> None:
        """Move the learned temperature into `TEMPERATURE_RANGE`, as the official code does before every step."""
        self.video_text.temperature.clamp_(*TEMPERATURE_RANGE)

    @only_documented_keywords
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        bool_masked_pos: torch.Tensor | None = None,
        visible_indices: torch.Tensor | None = None,
        target_features: torch.Tensor | None = None,
        match_ids: torch.Tensor | None = None,
        mlm_input_ids: torch.Tensor | None = None,
        mlm_labels: torch.Tensor | None = None,
        negative_video_indices: torch.Tensor | None = None,
        negative_text_indices: torch.Tensor | None = None,
        keep_temporal: bool | None = None,
        generator: torch.Generator | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> UMTForVideoTextPreTrainingOutput:
        """The losses of clips and their texts. Masked texts and negatives that are not given are sampled.

        Args:
            input_ids (int64 `(batch, length)`): Token ids; text i matches clip i.
            attention_mask (`(batch, length)`, *optional*): 0 where a text is padded.
            pixel_values_videos (`(batch, frames, channels, height, width)`): See [`UMTModel.forward`].
            bool_masked_pos, visible_indices (*optional*): The mask, in one of its two forms; see
                [`UMTModel.forward`].
            target_features (`(batch, num_aligned_layers, visible, target_dim)`, *optional*): The teacher's features at
                the visible tokens; without them `loss_uta` is not computed.
            match_ids (int64 `(batch,)`, *optional*): Clips and texts of the same id match. By default only text i
                matches clip i.
            mlm_input_ids, mlm_labels (int64 `(batch, length)`, *optional*): Masked texts, and the original tokens
                where masked, -100 elsewhere. By default sampled by `mask_tokens`.
            negative_video_indices, negative_text_indices (int64 `(batch,)`, *optional*): A clip that does not match
                text i, a text that does not match clip i. By default sampled by `sample_negatives`.
            keep_temporal (`bool`, *optional*): See [`UMTVideoTextModel.get_video_features`].
            generator (`torch.Generator`, *optional*): Random generator of the sampling, on the model's device.

        Raises:
            ValueError: if clips or texts are missing, shapes do not fit, or `gather_embeddings` is set and `match_ids`
                are missing.
        """
        require_clips_and_texts(input_ids, pixel_values_videos)
        config, bert = self.config, self.config.text_config
        if self.gather_embeddings is not None and match_ids is None:
            raise ValueError(
                "`gather_embeddings` requires `match_ids`: batch indices are not unique across processes."
            )
        pairs = self.encode_pairs(
            input_ids, attention_mask, pixel_values_videos, bool_masked_pos, visible_indices, keep_temporal, **kwargs
        )
        temperature = self.video_text.temperature
        similarity = similarity_over_temperature(pairs.video_embeds, pairs.text_embeds, temperature)  # (B, B)
        loss_vtc = self.contrast(pairs, similarity, match_ids)
        if config.vtm_weight > 0 and (negative_video_indices is None or negative_text_indices is None):
            negative_video_indices, negative_text_indices = sample_negatives(
                similarity.detach().T, match_ids, config.vtm_hard_negatives, generator
            )
        if config.mlm_weight > 0 and (mlm_input_ids is None or mlm_labels is None):
            unmaskable_ids = (bert.pad_token_id, bert.cls_token_id)
            mlm_input_ids, mlm_labels = mask_tokens(
                input_ids, bert.vocab_size, bert.mask_token_id, unmaskable_ids, generator=generator
            )
        loss_vtm, loss_mlm, vtm_logits, mlm_logits = self.match_and_mlm(
            pairs, attention_mask, match_ids, negative_video_indices, negative_text_indices, mlm_input_ids, mlm_labels
        )
        loss_uta, student_features = self.align(pairs, target_features)
        losses = [loss for loss in (loss_vtc, loss_vtm, loss_mlm, loss_uta) if loss is not None]
        return UMTForVideoTextPreTrainingOutput(
            loss=sum(losses) if losses else None,
            loss_vtc=loss_vtc,
            loss_vtm=loss_vtm,
            loss_mlm=loss_mlm,
            loss_uta=loss_uta,
            vtm_logits=vtm_logits,
            mlm_logits=mlm_logits,
            student_features=student_features,
            video_embeds=pairs.video_embeds,
            text_embeds=pairs.text_embeds,
            hidden_states=pairs.encoder.hidden_states,
            attentions=pairs.encoder.attentions,
        )

    def encode_pairs(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        pixel_values_videos: torch.Tensor,
        bool_masked_pos: torch.Tensor | None,
        visible_indices: torch.Tensor | None,
        keep_temporal: bool | None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> EncodedPairs:
        """Clips and texts through the two encoders and into the joint space; arguments as in `forward`."""
        base = self.video_text
        encoder = base.vision_model.encode(
            pixel_values_videos, bool_masked_pos, visible_indices, self.aligned_layers, return_dict=True, **kwargs
        )
        num_clips, num_texts = pixel_values_videos.shape[0], input_ids.shape[0]
        if num_clips != num_texts:
            raise ValueError(f"{num_clips} clips and {num_texts} texts: give one text for each clip.")
        video_states = base.vision_model.norm(encoder.last_hidden_state)
        has_mask = bool_masked_pos is not None or visible_indices is not None
        num_vectors = base.num_video_vectors(pixel_values_videos, has_mask, keep_temporal)
        video_embeds = mean_of_unit_vectors(base.project_video(video_states, num_vectors))
        text_states = base.text_model.encode(input_ids, attention_mask)
        text_embeds = F.normalize(base.text_projection(text_states[:, 0]), dim=-1)
        return EncodedPairs(encoder, video_states, text_states, video_embeds, text_embeds)

    def contrast(
        self, pairs: EncodedPairs, similarity: torch.Tensor, match_ids: torch.Tensor | None
    ) -> torch.Tensor | None:
        """The contrastive loss of the batch, whose similarities (B, B) are given, or of all processes' batches."""
        if self.config.vtc_weight == 0:
            return None
        if (gather := self.gather_embeddings) is not None:
            match_ids = gather(match_ids)
            similarity = similarity_over_temperature(
                gather(pairs.video_embeds), gather(pairs.text_embeds), self.video_text.temperature
            )
        return self.config.vtc_weight * video_text_contrastive_loss(similarity, match_ids, match_ids)

    def match_and_mlm(
        self,
        pairs: EncodedPairs,
        attention_mask: torch.Tensor | None,
        match_ids: torch.Tensor | None,
        negative_video_indices: torch.Tensor | None,
        negative_text_indices: torch.Tensor | None,
        mlm_input_ids: torch.Tensor | None,
        mlm_labels: torch.Tensor | None,
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        """Matching and masked language modelling in one forward pass of the fusion layers; arguments as in `forward`.

        Returns:
            Both losses, matching logits (3B, 2) and token logits (B, L, vocab_size); None with weight 0.
        """
        config, base, texts = self.config, self.video_text, pairs.text_states
        batch = texts.shape[0]
        positives = torch.arange(batch, device=texts.device)
        if attention_mask is None:
            attention_mask = torch.ones(texts.shape[:2], dtype=torch.int64, device=texts.device)
        inputs = []  # texts, their masks, and the index of the video that each attends to
        if config.vtm_weight > 0:
            inputs += [
                (texts, attention_mask, positives),
                (texts, attention_mask, negative_video_indices),
                (texts[negative_text_indices], attention_mask[negative_text_indices], positives),
            ]
        if config.mlm_weight > 0:
            inputs.append((base.text_model.encode(mlm_input_ids, attention_mask), attention_mask, positives))
        loss_vtm = loss_mlm = vtm_logits = mlm_logits = None
        if inputs:
            text_states, masks, video_indices = (torch.cat(column) for column in zip(*inputs, strict=True))
            fused = base.text_model.fuse(text_states, masks, pairs.video_states, video_indices=video_indices)
        if config.vtm_weight > 0:
            vtm_logits = base.matching_head(fused[: 3 * batch, 0])
            labels = matching_labels(positives if match_ids is None else match_ids)
            loss_vtm = config.vtm_weight * video_text_matching_loss(vtm_logits, labels)
        if config.mlm_weight > 0:
            mlm_logits = self.mlm_head(fused[-batch:])
            loss_mlm = config.mlm_weight * masked_language_modeling_loss(mlm_logits, mlm_labels)
        return loss_vtm, loss_mlm, vtm_logits, mlm_logits

    def align(
        self, pairs: EncodedPairs, target_features: torch.Tensor | None
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """The distance to the teacher's features, None without targets, and the student's; None with weight 0."""
        if self.config.uta_weight == 0:
            return None, None
        norm, encoder = self.video_text.vision_model.norm, pairs.encoder
        student_features, distance = align_features(
            self.decoders, norm, encoder.aligned_hidden_states, encoder.position_embeddings, target_features
        )
        return None if distance is None else self.config.uta_weight * distance, student_features

    @classmethod
    def from_video_text_pretrained(
        cls, video: str | PreTrainedModel, text: str, num_frames: int = 4, **kwargs
    ) -> "UMTForVideoTextPreTraining":
        """Combine a stage-1 encoder with a BERT; cross-attention, projections and matching head start fresh.

        Args:
            video: Hub id or folder of a UMT model, or a [`UMTForPreTraining`], e.g. a converted stage-1 file. Its
                decoders are kept.
            text: Hub id or folder of a BERT, e.g. `"google-bert/bert-base-uncased"` for UMT-B/16 and
                `"google-bert/bert-large-uncased"` for UMT-L/16.
            num_frames (`int`, defaults to 4): Frames of the clips.
            kwargs: Fields of [`UMTVideoTextConfig`]. `text_config` may be a mapping of fields that differ from the
                BERT's (`fusion_layer`); `projection_dim` defaults to the dimension of the teacher's joint space.

        Raises:
            ValueError: if `text` is not a BERT with its masked language modelling head.
        """
        student = video
        if isinstance(video, str):
            student = UMTForPreTraining.from_pretrained(video, dtype=torch.float32)
        stage2 = {"num_frames": num_frames, "position_grid": None, "decoder_layer_norm_eps": 1e-5}
        vision_config = UMTConfig.from_dict(student.config.to_dict(), **stage2)
        text_fields = {"encoder_width": vision_config.hidden_size} | kwargs.pop("text_config", {})
        text_fields, bert = read_bert(text, **text_fields)
        kwargs = {"projection_dim": vision_config.target_dim} | kwargs
        config = UMTVideoTextConfig(vision_config=vision_config, text_config=UMTTextConfig(**text_fields), **kwargs)

        state = {f"video_text.vision_model.{key}": tensor for key, tensor in student.umt.state_dict().items()}
        state |= {f"decoders.{key}": tensor for key, tensor in student.decoders.state_dict().items()}
        state |= {
            key.replace("bert.", "video_text.text_model.", 1).replace("cls.predictions.", "mlm_head.", 1): tensor
            for key, tensor in bert.items()
        }
        model = cls(config)
        fresh, unknown = model.load_state_dict(state, strict=False)
        unknown = [key for key in unknown if not key.startswith(("decoders.", "mlm_head."))]
        heads = ("crossattention.", "video_text.pool_norm.", "projection.", "matching_head.", "temperature")
        fresh = [key for key in fresh if not any(head in key for head in heads)]
        if fresh or unknown:
            raise ValueError(
                f"The parts do not fit together. Missing keys: {', '.join(fresh) or '-'}. Unexpected keys: "
                f"{', '.join(unknown) or '-'}."
            )
        return model


def matching_labels(ids: torch.Tensor) -> torch.Tensor:
    """Labels (3B,) of `vtm_logits` by ids (B,): 1, then 0, or -100 where a pair has no negative in the batch."""
    has_no_negative = (ids[:, None] == ids[None, :]).all(dim=1)
    no_match = torch.where(has_no_negative, -100, 0)
    return torch.cat([torch.ones_like(no_match), no_match, no_match])


__all__ = ["UMTForVideoTextPreTraining", "UMTForVideoTextPreTrainingOutput"]
