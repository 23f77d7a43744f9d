"""Answers to questions about a video (arXiv 2303.16058, section 4.3; method, 19).

The question is encoded by all layers of stage 2's BERT, the upper ones looking at the video's tokens. A small decoder,
started from those upper layers, writes the answer and looks at the question's states alone.

Unusual:
- An answer is chosen from a list by `rank_answers`, which counts the probability of its first word piece twice, as the
  official code does; `generate` writes one freely.
- Generation keeps no cache of keys and values: answers have at most some four word pieces.
- Several questions may share a clip, and several answers a question: what they look at is computed once.

Shape legend: B questions, M clips, N tokens of a clip, D their width, L word pieces, H width of the text encoder,
A answers of a whole batch, C candidates.
"""

import copy
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from transformers import GenerationConfig, GenerationMixin
from transformers.modeling_outputs import BaseModelOutput
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs, can_return_tuple

from .configuration_umt import UMTConfig, UMTTextConfig, UMTVideoTextConfig
from .modeling_umt import UMTModel
from .modeling_umt_text import UMTTextModel, UMTTextPredictionHead
from .modeling_umt_video_text import UMTVideoTextPreTrainedModel
from .modeling_umt_video_text_pretraining import UMTForVideoTextPreTraining
from .objectives_umt import answer_losses

NEW_WORD_PIECES = 4  # of an answer in training, [SEP] included


@dataclass
class UMTForVideoQuestionAnsweringOutput(ModelOutput):
    """Output of [`UMTForVideoQuestionAnswering`]; without labels both losses are None.

    Args:
        loss (scalar): Sum of the answers' weighted losses over the number of questions.
        logits (`(answers, length, vocab_size)`): At every token of an answer those of the next one.
        answer_losses (`(answers,)`): Sum of the cross-entropies of an answer's word pieces, not weighted.
        encoder_last_hidden_state (`(questions, length, hidden_size)`): The questions, having looked at their clips.
        hidden_states, attentions: On demand, of the video encoder; see [`UMTForPreTrainingOutput`].
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    answer_losses: torch.FloatTensor | None = None
    encoder_last_hidden_state: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


class UMTForVideoQuestionAnswering(UMTVideoTextPreTrainedModel, GenerationMixin):
    """Video encoder, question encoder and answer decoder, without the joint space of [`UMTVideoTextModel`]."""

    # no AutoModel: a UMTVideoTextModel has projections and a temperature, which there are not
    remote_code: ClassVar[dict[str, str]] = {
        "AutoModelForVisualQuestionAnswering": "modeling_umt_question_answering.UMTForVideoQuestionAnswering"
    }
    _tied_weights_keys = {"lm_head.decoder.weight": "text_decoder.embeddings.word_embeddings.weight"}

    def __init__(self, config: UMTVideoTextConfig):
        config.validate_architecture()  # overrides of `from_pretrained` were assigned unseen
        config = copy.copy(config)  # the caller's object is not changed
        config.is_encoder_decoder = True  # for `generate`
        super().__init__(config)
        self.vision_model = UMTModel._from_config(config.vision_config)
        self.text_model = UMTTextModel._from_config(config.text_config)
        self.text_decoder = UMTTextModel._from_config(decoder_config(config.text_config))
        self.lm_head = UMTTextPredictionHead(config.text_config)
        self.generation_config = GenerationConfig(
            decoder_start_token_id=config.text_config.cls_token_id,
            eos_token_id=config.text_config.sep_token_id,
            pad_token_id=config.text_config.pad_token_id,
            max_new_tokens=NEW_WORD_PIECES,
            use_cache=False,
        )
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.text_decoder.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.text_decoder.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head.decoder

    def set_output_embeddings(self, value: nn.Module) -> None:
        self.lm_head.decoder = value

    def resize_token_embeddings(
        self,
        new_num_tokens: int | None = None,
        pad_to_multiple_of: int | None = None,
        mean_resizing: bool = True,
    ) -> nn.Embedding:
        """As Transformers does, and the table of the questions too: the two have one vocabulary."""
        embeddings = super().resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)
        for part in (self.text_model, self.text_decoder):  # the latter's table has that size, its configuration not
            part.resize_token_embeddings(embeddings.num_embeddings, mean_resizing=mean_resizing)
        return embeddings

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        answers_per_question: torch.Tensor | None = None,
        answer_weights: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        encoder_outputs: BaseModelOutput | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> UMTForVideoQuestionAnsweringOutput:
        """The losses of answers to questions about clips.

        Args:
            input_ids (int64 `(questions, length)`): Questions as [`UMTProcessor`] makes them: `[CLS]`, words, no
                `[SEP]`.
            attention_mask (`(questions, length)`, *optional*): 0 where a question is padded.
            pixel_values_videos (`(clips, frames, channels, height, width)`): See [`UMTModel.forward`]. A clip for each
                question, or fewer: then `questions` is a multiple of `clips`, a clip's questions lying side by side.
            labels (int64 `(answers, answer length)`, *optional*): Answers, `[CLS]` words `[SEP]`, padded by the
                padding token or -100. Those of a question lie side by side.
            decoder_attention_mask (`(answers, answer length)`, *optional*): 0 where an answer is padded; by default
                what `labels` say.
            answers_per_question (int64 `(questions,)`, *optional*): By default each question has as many as any other.
            answer_weights (`(answers,)`, *optional*): By default 1 for every answer.
            decoder_input_ids (int64 `(answers, answer length)`, *optional*): Instead of `labels`, for logits alone.
            encoder_outputs (*optional*): What `encode_questions` returns, instead of questions' words and clips.

        Raises:
            ValueError: if there is no answer, no clip, or shapes do not fit.
        """
        if encoder_outputs is None:
            encoder_outputs = self.encode_questions(input_ids, attention_mask, pixel_values_videos, **kwargs)
        questions = encoder_outputs.last_hidden_state  # (B, L, H)
        if (labels is None) == (decoder_input_ids is None):
            raise ValueError("Give answers as `labels`, or as `decoder_input_ids` for logits alone.")
        if labels is not None:
            padded = (labels == -100) | (labels == self.config.text_config.pad_token_id)
            decoder_input_ids = labels.masked_fill(padded, self.config.text_config.pad_token_id)
            decoder_attention_mask = ~padded if decoder_attention_mask is None else decoder_attention_mask
        if answers_per_question is not None:
            num_answers = decoder_input_ids.shape[0]  # known beforehand, so that nothing waits for the device
            questions = questions.repeat_interleave(answers_per_question, dim=0, output_size=num_answers)
            if attention_mask is not None:
                attention_mask = attention_mask.repeat_interleave(answers_per_question, 0, output_size=num_answers)
        elif decoder_input_ids.shape[0] % questions.shape[0]:
            raise ValueError(
                f"{decoder_input_ids.shape[0]} answers can't be shared out evenly among {questions.shape[0]} "
                "questions: give `answers_per_question`."
            )
        logits = self.decode(decoder_input_ids, decoder_attention_mask, questions, attention_mask)

        loss = losses = None
        if labels is not None:
            losses = answer_losses(logits, labels.masked_fill(padded, -100))
            weighted = losses if answer_weights is None else losses * answer_weights
            loss = weighted.sum() / encoder_outputs.last_hidden_state.shape[0]
        return UMTForVideoQuestionAnsweringOutput(
            loss=loss,
            answer_losses=losses,
            logits=logits,
            encoder_last_hidden_state=encoder_outputs.last_hidden_state,
            hidden_states=encoder_outputs.hidden_states,
            attentions=encoder_outputs.attentions,
        )

    def encode_questions(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        pixel_values_videos: torch.Tensor,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutput:
        """Questions that look at clips.

        Args:
            input_ids, attention_mask, pixel_values_videos: See `forward`.

        Returns:
            `BaseModelOutput`: `last_hidden_state` (questions, length, hidden_size); `hidden_states` and `attentions`,
            on demand, of the video encoder.

        Raises:
            ValueError: if words or clips are missing, or the questions can't be shared out evenly among the clips.
        """
        if input_ids is None or pixel_values_videos is None:
            raise ValueError("Give `input_ids` and `pixel_values_videos`: a question is asked about a clip.")
        self.vision_model.embeddings.token_grid(pixel_values_videos)  # refuses what is no clip, before it is counted
        num_questions, num_clips = input_ids.shape[0], pixel_values_videos.shape[0]
        if num_clips == 0 or num_questions % num_clips:
            raise ValueError(
                f"{num_questions} questions can't be shared out evenly among {num_clips} clips: give a clip for each, "
                "or as many questions for every clip."
            )
        kwargs["return_dict"] = True  # which configurations may leave out
        encoded = self.vision_model.encode(pixel_values_videos, None, **kwargs)
        videos = self.vision_model.norm(encoded.last_hidden_state)  # (M, N, D)
        texts = self.text_model.encode(input_ids, attention_mask)  # (B, L, H)
        return BaseModelOutput(
            last_hidden_state=self.text_model.fuse(texts, attention_mask, videos),
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )

    def decode(
        self,
        decoder_input_ids: torch.Tensor,
        decoder_attention_mask: torch.Tensor | None,
        questions: torch.Tensor,
        attention_mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """Answers (A, L'), those of a question side by side, and question states (B, L, H) to logits (A, L', V)."""
        states = self.text_decoder.encode(decoder_input_ids, decoder_attention_mask)  # the embeddings alone
        return self.lm_head(self.text_decoder.fuse(states, decoder_attention_mask, questions, attention_mask))

    @torch.no_grad()
    def rank_answers(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        *,
        candidate_ids: torch.Tensor,
        candidate_attention_mask: torch.Tensor | None = None,
        k: int = 128,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The best answers to questions out of a list that all of them share (method, 19).

        The `k` candidates whose first word piece is likeliest are scored by `log p(first piece) + log p(answer)`, and
        the softmax over these scores is returned. The first piece is thus counted twice, as in the official code.
        Candidates that share a first piece are kept in the list's order where `k` cuts them off.

        Args:
            input_ids, attention_mask, pixel_values_videos: See `forward`.
            candidate_ids (int64 `(candidates, answer length)`): `[CLS]` words `[SEP]`, padded.
            candidate_attention_mask (`(candidates, answer length)`, *optional*): 0 where one is padded; by default
                where the padding token stands.
            k (`int`, defaults to 128): Candidates to score; of a list that is shorter, all are.

        Returns:
            indices int64 and scores float32, both `(questions, min(k, candidates))`, best first. Indices are places
            in the list; the scores of a question sum to 1.

        Raises:
            ValueError: if there are no candidates, `k` is less than 1, and what `encode_questions` raises.
        """
        if len(candidate_ids) == 0 or k < 1:
            raise ValueError(f"{len(candidate_ids)} candidates can't be ranked with k = {k}; both must be 1 at least.")
        questions = self.encode_questions(input_ids, attention_mask, pixel_values_videos, **kwargs).last_hidden_state
        padded = candidate_ids == self.config.text_config.pad_token_id
        mask = ~padded if candidate_attention_mask is None else candidate_attention_mask
        labels = candidate_ids.masked_fill(padded, -100)
        start = candidate_ids[:1, :1].expand(len(questions), 1)
        next_piece = self.decode(start, None, questions, attention_mask)[:, -1].float().log_softmax(-1)  # (B, vocab)
        first_piece = next_piece[:, candidate_ids[:, 1]]  # (B, C)
        chosen = first_piece.sort(dim=-1, descending=True, stable=True).indices[:, :k]
        scores = []
        for row, own in enumerate(chosen):  # one question at a time: k answers have millions of logits
            question_mask = None if attention_mask is None else attention_mask[row : row + 1]
            logits = self.decode(candidate_ids[own], mask[own], questions[row : row + 1], question_mask)
            scores.append(first_piece[row, own] - answer_losses(logits, labels[own]))
        scores, order = torch.stack(scores).softmax(dim=-1).sort(dim=-1, descending=True, stable=True)
        return chosen.gather(-1, order), scores

    @torch.no_grad()
    def generate(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        **kwargs,
    ) -> torch.Tensor | ModelOutput:
        """Write answers, from `[CLS]` to `[SEP]` (`GenerationMixin.generate`).

        Args:
            input_ids, attention_mask, pixel_values_videos: See `forward`.
            kwargs: Options of `GenerationMixin.generate`, such as `num_beams`. By default an answer is written
                greedily and has at most 4 word pieces, `[SEP]` included, as in training; `max_new_tokens` allows more.

        Returns:
            int64 `(questions, length)`: the answers with their `[CLS]`, padded; a tokenizer's
            `batch_decode(…, skip_special_tokens=True)` makes them text.
        """
        encoder_outputs = self.encode_questions(input_ids, attention_mask, pixel_values_videos)
        return super().generate(encoder_outputs=encoder_outputs, attention_mask=attention_mask, **kwargs)

    def prepare_inputs_for_generation(
        self,
        decoder_input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        encoder_outputs: BaseModelOutput | None = None,
        **kwargs,
    ) -> dict[str, torch.Tensor | BaseModelOutput | None]:
        """What `generate` gives `forward` at a step; without a cache, that is the whole answer so far."""
        return {
            "decoder_input_ids": decoder_input_ids,
            "attention_mask": attention_mask,
            "encoder_outputs": encoder_outputs,
        }

    @classmethod
    def from_video_text(
        cls, video_text: str | UMTForVideoTextPreTraining, **vision_fields
    ) -> "UMTForVideoQuestionAnswering":
        """Start from a stage-2 model; nothing is fresh (method, 19).

        The decoder's layers are copies of the fusion layers, its embeddings and its head of the text encoder's
        embeddings and of the head for masked language modelling.

        Args:
            video_text: Hub id or folder of a [`UMTForVideoTextPreTraining`], or one in memory, e.g. a converted
                stage-2 file.
            vision_fields: Fields of the video encoder's [`UMTConfig`] that shall differ, such as `num_frames=12`.

        Raises:
            ValueError: if the model has no head for masked language modelling, or its two towers differ in width:
                the decoder's layers look at question states where the fusion layers look at video tokens.
        """
        source = video_text
        if isinstance(video_text, str):
            source = UMTForVideoTextPreTraining.from_pretrained(video_text, dtype=torch.float32)
        config = copy.deepcopy(source.config)
        vision, text = config.vision_config, config.text_config
        if not isinstance(source, UMTForVideoTextPreTraining) or config.mlm_weight == 0:
            raise ValueError(
                f"Question answering starts from a UMTForVideoTextPreTraining with its head for masked language "
                f"modelling (`mlm_weight` above 0), which becomes the decoder's; this is a {type(source).__name__} "
                f"with `mlm_weight` {config.mlm_weight:g}."
            )
        if vision.hidden_size != text.hidden_size:
            raise ValueError(
                f"The video encoder's `hidden_size` {vision.hidden_size} and the text encoder's {text.hidden_size} "
                "must be the same, so that fusion layers can become the decoder's."
            )
        config.vision_config = UMTConfig.from_dict(vision.to_dict(), **vision_fields)
        state = {}
        for key, tensor in source.state_dict().items():
            if key.startswith("mlm_head."):
                state[key.replace("mlm_head.", "lm_head.")] = tensor
            elif key.startswith(("video_text.vision_model.", "video_text.text_model.")):
                state[key.removeprefix("video_text.")] = tensor
                if decoder_key := key_in_decoder(key.removeprefix("video_text."), text.fusion_layer):
                    state[decoder_key] = tensor
        model = cls(config)
        model.load_state_dict(state)
        return model


def decoder_config(config: UMTTextConfig) -> UMTTextConfig:
    """The decoder of a question encoder: as many layers as it has fusion layers, all of which look at questions."""
    config = copy.deepcopy(config)  # and not by `to_dict`, which leaves out the attention implementation
    config.num_hidden_layers -= config.fusion_layer
    config.fusion_layer, config.encoder_width, config.is_decoder = 0, config.hidden_size, True
    return config


def key_in_decoder(key: str, fusion_layer: int) -> str | None:
    """Where a weight `text_model.<...>` starts one of the decoder, if it does."""
    part, _, name = key.partition(".")
    if part != "text_model":
        return None
    if name.startswith("encoder.layer."):
        _, _, depth, rest = name.split(".", 3)
        return f"text_decoder.encoder.layer.{int(depth) - fusion_layer}.{rest}" if int(depth) >= fusion_layer else None
    return f"text_decoder.{name}"


__all__ = ["UMTForVideoQuestionAnswering", "UMTForVideoQuestionAnsweringOutput"]
