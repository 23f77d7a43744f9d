"""Stage 2's pre-training: four objectives on clips and their texts (arXiv 2303.16058, section 3.3, equations 2 to 4).

Contrast puts a clip near its text, matching has the fusion layers tell pairs that belong together from hard ones that
do not, masked language modelling has them guess hidden word pieces, and stage 1's unmasked-token alignment goes on.

Unusual:
- Matching and masked language modelling are one pass of the fusion layers, four texts a clip: keys and values of the
  clips' tokens, which cost most of it, are computed once for all of them.
- Losses come weighted, and the temperature is kept within bounds before every step, as in the official code.
- An objective of weight 0 has no head: without `mlm_weight` and `uta_weight` this is the retrieval fine-tuning model.

Shape legend: B clips and texts, V visible tokens, D width of the video encoder, L word pieces, H width of the text
encoder, E width of the joint space.
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

from .alignment_umt import UMTAlignmentDecoder, decode_and_align
from .configuration_umt import UMTConfig, UMTTextConfig, UMTVideoTextConfig, aligned_layers
from .modeling_umt import UMTForPreTraining
from .modeling_umt_text import UMTTextPredictionHead, read_bert
from .modeling_umt_video_text import (
    TEMPERATURE_RANGE,
    UMTVideoTextModel,
    UMTVideoTextPreTrainedModel,
    mean_of_unit_vectors,
    similarity_over_temperature,
)
from .objectives_umt import (
    masked_language_modeling_loss,
    video_text_contrastive_loss,
    video_text_matching_loss,
)
from .video_text_sampling_umt import draw_negatives, hide_word_pieces


@dataclass
class UMTForVideoTextPreTrainingOutput(ModelOutput):
    """Output of [`UMTForVideoTextPreTraining`]; what was not computed is None.

    Args:
        loss (scalar): Sum of the following.
        loss_vtc, loss_vtm, loss_mlm, loss_uta (scalars): Contrast, matching, masked language modelling and alignment,
            each times its weight.
        vtm_logits (`(3 * batch, 2)`): Of the pairs (video, its text), (another video, text), (video, another text), in
            this order; column 1 speaks for a match.
        mlm_logits (`(batch, length, vocab_size)`): Guesses of every word piece.
        student_features (`(batch, num_aligned_layers, visible, target_dim)`): As in [`UMTForPreTrainingOutput`].
        video_embeds, text_embeds (`(batch, projection_dim)`): As in [`UMTVideoTextOutput`].
        hidden_states, attentions: On demand, of the video encoder.
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


class UMTForVideoTextPreTraining(UMTVideoTextPreTrainedModel):
    """[`UMTVideoTextModel`] with the heads and losses of its training. The teacher is not part of it."""

    remote_code: ClassVar[dict[str, str]] = UMTVideoTextPreTrainedModel.remote_code | {
        "AutoModelForPreTraining": "modeling_umt_video_text_pretraining.UMTForVideoTextPreTraining"
    }
    _keys_to_ignore_on_load_unexpected = [r"^decoders\.", r"^mlm_head\."]
    _tied_weights_keys = {"mlm_head.decoder.weight": "video_text.text_model.embeddings.word_embeddings.weight"}

    def __init__(self, config: UMTVideoTextConfig):
        super().__init__(config)
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

    @can_return_tuple
    def forward(
        self,
        pixel_values_videos: torch.Tensor,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        bool_masked_pos: torch.Tensor | None = None,
        visible_indices: torch.Tensor | None = None,
        target_features: torch.Tensor | None = None,
        match_ids: torch.Tensor | None = None,
        mlm_input_ids: torch.Tensor | None = None,
        mlm_labels: torch.Tensor | None = None,
        negative_video_indices: torch.Tensor | None = None,
        negative_text_indices: torch.Tensor | None = None,
        keep_temporal: bool | None = None,
        gather: Callable[[torch.Tensor], torch.Tensor] | None = None,
        generator: torch.Generator | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> UMTForVideoTextPreTrainingOutput:
        """The losses of clips and their texts (method, 15). What is not given is drawn.

        Args:
            pixel_values_videos (`(batch, frames, channels, height, width)`): See [`UMTModel.forward`].
            input_ids (int64 `(batch, length)`): Text i belongs to clip i.
            attention_mask (`(batch, length)`, *optional*): 0 where a text is padded.
            bool_masked_pos, visible_indices (*optional*): The mask, in one of its two forms. Without one, all tokens
                are visible.
            target_features (`(batch, num_aligned_layers, visible, target_dim)`, *optional*): The teacher's features at
                the visible tokens; without them nothing is aligned.
            match_ids (int64 `(batch,)`, *optional*): Clips and texts of the same id belong together. By default each
                pair is alone.
            mlm_input_ids, mlm_labels (int64 `(batch, length)`, *optional*): Texts with hidden word pieces, and these,
                -100 elsewhere. By default drawn by `hide_word_pieces`.
            negative_video_indices, negative_text_indices (int64 `(batch,)`, *optional*): A clip that does not belong
                to text i, a text that does not belong to clip i. By default drawn by `draw_negatives`.
            keep_temporal (`bool`, *optional*): See [`UMTVideoTextModel.get_video_features`].
            gather (*optional*): Puts together a tensor of all processes along its first axis, with gradients, so that
                the contrast is among the clips of all of them. It is called with embeddings and with `match_ids`,
                which are needed then.
            generator (*optional*): The source of what is drawn, on the device of the model.

        Raises:
            ValueError: if shapes do not fit, or `gather` is given without `match_ids`.
        """
        config, base = self.config, self.video_text
        visible_indices = base.vision_model.resolve_mask(pixel_values_videos, bool_masked_pos, visible_indices)
        batch = input_ids.shape[0]
        if pixel_values_videos.shape[0] != batch:
            raise ValueError(f"{pixel_values_videos.shape[0]} clips and {batch} texts: give one text for each clip.")
        if gather is not None and match_ids is None:
            raise ValueError("`gather` needs `match_ids`: places in a batch say nothing across processes.")
        with torch.no_grad():
            base.temperature.clamp_(*TEMPERATURE_RANGE)

        # --- the two towers
        encoded = base.vision_model.encode(
            pixel_values_videos, visible_indices, self.aligned_layers, return_dict=True, **kwargs
        )
        videos = base.vision_model.norm(encoded.last_hidden_state)  # (B, V, D)
        video_embeds = mean_of_unit_vectors(
            base.project_video(videos, base.num_video_vectors(pixel_values_videos, visible_indices, keep_temporal))
        )  # (B, E)
        texts = base.text_model.encode(input_ids, attention_mask)  # (B, L, H)
        text_embeds = F.normalize(base.text_projection(texts[:, 0]), dim=-1)  # (B, E)
        losses = {}

        # --- contrast
        if config.vtc_weight > 0:
            everywhere = gather or (lambda tensor: tensor)
            ids = None if match_ids is None else everywhere(match_ids)
            similarity = similarity_over_temperature(
                everywhere(video_embeds), everywhere(text_embeds), base.temperature
            )
            losses["vtc"] = config.vtc_weight * video_text_contrastive_loss(similarity, ids, ids)

        # --- matching and masked language modelling: texts, their masks, and which video each looks at
        own = torch.arange(batch, device=texts.device)
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        pairs = []
        if config.vtm_weight > 0:
            if negative_video_indices is None or negative_text_indices is None:
                # of this process alone
                similarity = similarity_over_temperature(video_embeds, text_embeds, base.temperature).detach()
                negative_video_indices, negative_text_indices = draw_negatives(
                    similarity.T, match_ids, config.vtm_hard_negatives, generator
                )
            pairs += [
                (texts, attention_mask, own),
                (texts, attention_mask, negative_video_indices),
                (texts[negative_text_indices], attention_mask[negative_text_indices], own),
            ]
        if config.mlm_weight > 0:
            if mlm_input_ids is None or mlm_labels is None:
                bert = config.text_config
                never = (bert.pad_token_id, bert.cls_token_id)
                mlm_input_ids, mlm_labels = hide_word_pieces(
                    input_ids, bert.vocab_size, bert.mask_token_id, never, generator=generator
                )
            pairs.append((base.text_model.encode(mlm_input_ids, attention_mask), attention_mask, own))
        vtm_logits = mlm_logits = None
        if pairs:
            fused_texts, masks, looks_at = (torch.cat(column) for column in zip(*pairs, strict=True))
            fused = base.text_model.fuse(fused_texts, masks, videos, video_indices=looks_at)  # (3B, 4B or B, L, H)
        if config.vtm_weight > 0:
            vtm_logits = base.matching_head(fused[: 3 * batch, 0])
            labels = matching_labels(own if match_ids is None else match_ids)
            losses["vtm"] = config.vtm_weight * video_text_matching_loss(vtm_logits, labels)
        if config.mlm_weight > 0:
            mlm_logits = self.mlm_head(fused[-batch:])
            losses["mlm"] = config.mlm_weight * masked_language_modeling_loss(mlm_logits, mlm_labels)

        # --- alignment with the teacher
        student_features = None
        if config.uta_weight > 0:
            student_features, loss_uta = decode_and_align(
                config.vision_config,
                base.vision_model.norm,
                self.decoders,
                encoded.aligned_hidden_states,
                encoded.position_embeddings,
                target_features,
            )
            if loss_uta is not None:
                losses["uta"] = config.uta_weight * loss_uta

        return UMTForVideoTextPreTrainingOutput(
            loss=sum(losses.values()) if losses else None,
            **{f"loss_{name}": loss for name, loss in losses.items()},
            vtm_logits=vtm_logits,
            mlm_logits=mlm_logits,
            student_features=student_features,
            video_embeds=video_embeds,
            text_embeds=text_embeds,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )

    @classmethod
    def from_video_text_pretrained(
        cls, video: str | PreTrainedModel, text: str, num_frames: int = 4, **kwargs
    ) -> "UMTForVideoTextPreTraining":
        """Join a stage-1 encoder with a BERT; cross-attention, projections and matching head start fresh.

        Args:
            video: Hub id or folder of a UMT model, or a [`UMTForPreTraining`], e.g. a converted stage-1 file. Its
                decoders come along.
            text: Hub id or folder of a BERT, e.g. `"google-bert/bert-base-uncased"` for UMT-B/16 and
                `"google-bert/bert-large-uncased"` for UMT-L/16.
            num_frames (`int`, defaults to 4): Frames of the clips.
            kwargs: Fields of [`UMTVideoTextConfig`]. `text_config` may be a mapping of fields that differ from the
                BERT's (`fusion_layer`); `projection_dim` is by default the width of the teacher's joint space.

        Raises:
            ValueError: if `text` is no BERT with its masked language modelling head.
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
                f"The parts do not fit together; without weights: {', '.join(fresh) or '-'}; without a place: "
                f"{', '.join(unknown) or '-'}."
            )
        return model


def matching_labels(ids: torch.Tensor) -> torch.Tensor:
    """Labels (3B,) of `vtm_logits` by ids (B,): 1, then 0, or -100 for what has no negative in the batch."""
    alone = (ids[:, None] == ids[None, :]).all(dim=1)
    no_match = torch.where(alone, -100, 0)
    return torch.cat([torch.ones_like(no_match), no_match, no_match])


__all__ = ["UMTForVideoTextPreTraining", "UMTForVideoTextPreTrainingOutput"]
