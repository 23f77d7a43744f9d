"""Video question answering (arXiv 2303.16058, section 4.3).

The question is encoded by all layers of stage 2's BERT, of which the upper ones attend to the video's tokens. A small
decoder, initialised from those upper layers, generates the answer and attends to the question's states alone.

Unusual:
- `rank_answers` selects an answer from a list and counts the probability of its first token twice, as the official
  code does; `generate` writes one freely.
- Generation has no cache of keys and values, because answers have only about four tokens.
- Several questions may share a clip, and several answers a question: shared states are computed once.

Shape legend: B questions, M clips, N tokens of a clip, D their dimension, L tokens of a question, H hidden size of the
text encoder, A answers of a batch, C candidates, V vocabulary size.
"""

import copy
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from transformers import GenerationConfig, GenerationMixin
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs, can_return_tuple

from .configuration_umt import UMTConfig, UMTTextConfig, UMTVideoTextConfig
from .keyword_arguments_umt import only_documented_keywords
from .modeling_umt import UMTModel
from .modeling_umt_text import UMTTextModel, UMTTextPredictionHead
from .modeling_umt_video_text import UMTVideoTextPreTrainedModel
from .modeling_umt_video_text_pretraining import UMTForVideoTextPreTraining
from .objectives_umt import answer_losses

PARTS_OF_STAGE_2 = ("video_text.vision_model.", "video_text.text_model.", "mlm_head.")
MAX_NEW_TOKENS = 4  # of an answer in training, [SEP] included
# what `generate` passes for the sake of a cache, under the names of several versions of Transformers
CACHE_INPUTS = (
    *("use_cache", "cache", "past_key_values", "cache_position", "next_sequence_length", "is_first_iteration"),
)


@dataclass
class UMTQuestionEncoderOutput(ModelOutput):
    """Output of [`UMTForVideoQuestionAnswering.encode_questions`].

    Args:
        last_hidden_state (`(questions, length, hidden_size)`): The questions after the fusion layers.
        hidden_states, attentions: On request, of the question encoder; attentions (questions, heads, length, length).
        cross_attentions: On request, of its fusion layers, (questions, heads, length, tokens of a clip) each.
        video_hidden_states, video_attentions: On request, of the video encoder; see [`UMTForPreTrainingOutput`].
    """

    last_hidden_state: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None
    cross_attentions: tuple[torch.FloatTensor, ...] | None = None
    video_hidden_states: tuple[torch.FloatTensor, ...] | None = None
    video_attentions: tuple[torch.FloatTensor, ...] | None = None


@dataclass
class UMTForVideoQuestionAnsweringOutput(ModelOutput):
    """Output of [`UMTForVideoQuestionAnswering`]; without labels both losses are None.

    The names are those of Transformers' `Seq2SeqLMOutput`. Hidden states and attentions are returned on request, the
    latter with eager attention.

    Args:
        loss (scalar): Sum of the answers' weighted losses divided by the number of questions.
        logits (`(answers, length, vocab_size)`): At every token of an answer the logits of the next.
        answer_losses (`(answers,)`): Sum of the cross-entropies of an answer's tokens, not weighted.
        encoder_last_hidden_state (`(questions, length, hidden_size)`): The questions after the fusion layers.
        encoder_hidden_states, encoder_attentions: Of the question encoder; see [`UMTQuestionEncoderOutput`].
        decoder_hidden_states: Of the decoder, (answers, answer length, hidden_size) each.
        decoder_attentions: Of an answer to itself, (answers, heads, answer length, answer length) each.
        cross_attentions: Of an answer to its question, (answers, heads, answer length, length) each.
        hidden_states, attentions: Of the video encoder; see [`UMTForPreTrainingOutput`].
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    answer_losses: torch.FloatTensor | None = None
    encoder_last_hidden_state: torch.FloatTensor | None = None
    encoder_hidden_states: tuple[torch.FloatTensor, ...] | None = None
    encoder_attentions: tuple[torch.FloatTensor, ...] | None = None
    decoder_hidden_states: tuple[torch.FloatTensor, ...] | None = None
    decoder_attentions: tuple[torch.FloatTensor, ...] | None = None
    cross_attentions: tuple[torch.FloatTensor, ...] | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


class UMTForVideoQuestionAnswering(UMTVideoTextPreTrainedModel, GenerationMixin):
    """Video encoder, question encoder and answer decoder, without the joint space of [`UMTVideoTextModel`]."""

    # without AutoModel: the projections and the temperature of a UMTVideoTextModel do not exist here
    remote_code: ClassVar[dict[str, str]] = {
        "AutoConfig": "configuration_umt.UMTVideoTextConfig",
        "AutoModelForVisualQuestionAnswering": "modeling_umt_question_answering.UMTForVideoQuestionAnswering",
    }
    embedding_methods = {}  # its video and text vectors are not projected into a joint space
    _can_compile_fullgraph = False  # `generate` has no static cache; a forward pass alone does compile into one graph
    _tied_weights_keys = {"lm_head.decoder.weight": "text_decoder.embeddings.word_embeddings.weight"}

    def __init__(self, config: UMTVideoTextConfig):
        config.validate_architecture()  # overrides of `from_pretrained` are assigned without validation
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
            max_new_tokens=MAX_NEW_TOKENS,
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
        """As Transformers does, for the encoder's embeddings too: encoder and decoder share one vocabulary."""
        embeddings = super().resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)
        for part in (self.text_model, self.text_decoder):  # of the decoder only the configuration is still to change
            part.resize_token_embeddings(embeddings.num_embeddings, mean_resizing=mean_resizing)
        return embeddings

    @only_documented_keywords
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
        encoder_outputs: UMTQuestionEncoderOutput | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> UMTForVideoQuestionAnsweringOutput:
        """The losses of answers to questions about clips.

        Args:
            input_ids (int64 `(questions, length)`): Questions as from [`UMTProcessor`]: `[CLS]`, tokens, no `[SEP]`.
            attention_mask (`(questions, length)`, *optional*): 0 where a question is padded.
            pixel_values_videos (`(clips, frames, channels, height, width)`): See [`UMTModel.forward`]. `questions` is
                a multiple of `clips`; the questions of a clip are adjacent.
            labels (int64 `(answers, answer length)`, *optional*): Answers, `[CLS]` tokens `[SEP]`, padded by the
                padding token or -100. The answers of a question are adjacent.
            decoder_attention_mask (`(answers, answer length)`, *optional*): 0 where an answer is padded; defaults to
                the padding of `labels`.
            answers_per_question (int64 `(questions,)`, *optional*): Number of answers of each question; by default
                equal for all questions.
            answer_weights (`(answers,)`, *optional*): Defaults to 1 for every answer.
            decoder_input_ids (int64 `(answers, answer length)`, *optional*): Instead of `labels`, for logits alone.
            encoder_outputs (*optional*): The result of `encode_questions`, instead of questions and clips.

        Raises:
            ValueError: if answers, questions or clips are missing, or shapes do not fit.
        """
        if encoder_outputs is None:
            encoder_outputs = self.encode_questions(
                input_ids, attention_mask, pixel_values_videos, return_dict=True, **kwargs
            )
        questions = encoder_outputs.last_hidden_state  # (B, L, H)
        if (labels is None) == (decoder_input_ids is None):
            raise ValueError("Give answers as `labels`, or as `decoder_input_ids` for logits alone.")
        if labels is not None:
            padded = (labels == -100) | (labels == self.config.text_config.pad_token_id)
            decoder_input_ids = labels.masked_fill(padded, self.config.text_config.pad_token_id)
            decoder_attention_mask = ~padded if decoder_attention_mask is None else decoder_attention_mask
        if answers_per_question is not None:
            num_answers = decoder_input_ids.shape[0]  # given, so that `repeat_interleave` does not wait for the device
            questions = questions.repeat_interleave(answers_per_question, dim=0, output_size=num_answers)
            if attention_mask is not None:
                attention_mask = attention_mask.repeat_interleave(answers_per_question, 0, output_size=num_answers)
        elif decoder_input_ids.shape[0] % questions.shape[0]:
            raise ValueError(
                f"{decoder_input_ids.shape[0]} answers to {questions.shape[0]} questions: give "
                "`answers_per_question`, or a multiple of the number of questions."
            )
        decoded = self.text_decoder(
            decoder_input_ids, decoder_attention_mask, questions, attention_mask, return_dict=True, **kwargs
        )
        logits = self.lm_head(decoded.last_hidden_state)

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
            encoder_hidden_states=encoder_outputs.hidden_states,
            encoder_attentions=encoder_outputs.attentions,
            decoder_hidden_states=decoded.hidden_states,
            decoder_attentions=decoded.attentions,
            cross_attentions=decoded.cross_attentions,
            hidden_states=encoder_outputs.video_hidden_states,
            attentions=encoder_outputs.video_attentions,
        )

    @only_documented_keywords
    @can_return_tuple
    def encode_questions(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        pixel_values_videos: torch.Tensor,
        **kwargs: Unpack[TransformersKwargs],
    ) -> UMTQuestionEncoderOutput:
        """Questions through text encoder and fusion layers, where they attend to their clips.

        Args:
            input_ids, attention_mask, pixel_values_videos: See `forward`.

        Raises:
            ValueError: if questions or clips are missing, or the number of questions is not a multiple of the number
                of clips.
        """
        if input_ids is None or pixel_values_videos is None:
            raise ValueError("Give `input_ids` and `pixel_values_videos`: a question is asked about a clip.")
        self.vision_model.embeddings.token_grid(pixel_values_videos)  # rejects other tensors before clips are counted
        num_questions, num_clips = input_ids.shape[0], pixel_values_videos.shape[0]
        if num_clips == 0 or num_questions % num_clips:
            raise ValueError(
                f"{num_questions} questions about {num_clips} clips: the number of questions must be a multiple of "
                "the number of clips."
            )
        encoded = self.vision_model.encode(pixel_values_videos, return_dict=True, **kwargs)
        videos = self.vision_model.norm(encoded.last_hidden_state)  # (M, N, D)
        questions = self.text_model(input_ids, attention_mask, videos, return_dict=True, **kwargs)
        return UMTQuestionEncoderOutput(
            last_hidden_state=questions.last_hidden_state,  # (B, L, H)
            hidden_states=questions.hidden_states,
            attentions=questions.attentions,
            cross_attentions=questions.cross_attentions,
            video_hidden_states=encoded.hidden_states,
            video_attentions=encoded.attentions,
        )

    def decode(
        self,
        decoder_input_ids: torch.Tensor,
        decoder_attention_mask: torch.Tensor | None,
        questions: torch.Tensor,
        attention_mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """Answers (A, L'), adjacent for a question, and question states (B, L, H) to logits (A, L', V)."""
        decoded = self.text_decoder(
            decoder_input_ids, decoder_attention_mask, questions, attention_mask, return_dict=True
        )
        return self.lm_head(decoded.last_hidden_state)

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
        """Rank a list of candidate answers, common to all questions.

        The `k` candidates whose first token is most probable are scored by `log p(first token) + log p(answer)`, and
        the softmax over these scores is returned. The first token is thus counted twice, as in the official code.
        Candidates with the same first token are kept in the list's order where `k` cuts them off.

        Args:
            input_ids, attention_mask, pixel_values_videos: See `forward`.
            candidate_ids (int64 `(candidates, answer length)`): `[CLS]` tokens `[SEP]`, padded.
            candidate_attention_mask (`(candidates, answer length)`, *optional*): 0 where a candidate is padded; by
                default at every padding token.
            k (`int`, defaults to 128): Number of candidates to score; all of a shorter list.

        Returns:
            indices int64 and scores float32, both `(questions, min(k, candidates))`, best first. Indices are those of
            the list; the scores of a question sum to 1.

        Raises:
            ValueError: if the list is empty or `k` is less than 1, and as `encode_questions`.
        """
        if len(candidate_ids) == 0 or k < 1:
            raise ValueError(f"{len(candidate_ids)} candidates can't be ranked with k = {k}; both must be at least 1.")
        kwargs["return_dict"] = True  # a configuration may disable it
        questions = self.encode_questions(input_ids, attention_mask, pixel_values_videos, **kwargs).last_hidden_state
        padded = candidate_ids == self.config.text_config.pad_token_id
        mask = ~padded if candidate_attention_mask is None else candidate_attention_mask
        labels = candidate_ids.masked_fill(padded, -100)
        start = candidate_ids[:1, :1].expand(len(questions), 1)
        log_probs = self.decode(start, None, questions, attention_mask)[:, -1].float().log_softmax(-1)  # (B, V)
        first_log_probs = log_probs[:, candidate_ids[:, 1]]  # (B, C)
        top_k = first_log_probs.sort(dim=-1, descending=True, stable=True).indices[:, :k]
        scores = []
        for row, indices in enumerate(top_k):  # one question at a time: k answers have millions of logits
            question_mask = None if attention_mask is None else attention_mask[row : row + 1]
            logits = self.decode(candidate_ids[indices], mask[indices], questions[row : row + 1], question_mask)
            scores.append(first_log_probs[row, indices] - answer_losses(logits, labels[indices]))
        scores, order = torch.stack(scores).softmax(dim=-1).sort(dim=-1, descending=True, stable=True)
        return top_k.gather(-1, order), scores

    @torch.no_grad()
    def generate(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        **kwargs,
    ) -> torch.Tensor | ModelOutput:
        """Generate answers, from `[CLS]` to `[SEP]` (`GenerationMixin.generate`).

        Args:
            input_ids, attention_mask, pixel_values_videos: See `forward`.
            kwargs: Options of `GenerationMixin.generate`, such as `num_beams`. By default decoding is greedy, and an
                answer has at most 4 new tokens, `[SEP]` included, as in training; `max_new_tokens` allows more. Other
                keywords, such as `decoder_attention_mask`, go to `forward`.

        Returns:
            int64 `(questions, length)`: the answers with their `[CLS]`, padded; to be decoded by a tokenizer's
            `batch_decode(…, skip_special_tokens=True)`.

        Raises:
            ValueError: as `encode_questions`.
        """
        config = kwargs.get("generation_config") or self.generation_config
        recorded = {
            name: kwargs.get(name, getattr(config, name)) for name in ("output_hidden_states", "output_attentions")
        }
        encoder_outputs = self.encode_questions(
            input_ids, attention_mask, pixel_values_videos, return_dict=True, **recorded
        )
        return super().generate(encoder_outputs=encoder_outputs, attention_mask=attention_mask, **kwargs)

    def prepare_inputs_for_generation(self, input_ids: torch.Tensor, **kwargs) -> dict:
        """The inputs of `forward` at one step of `generate`: the complete answer so far, without a cache."""
        passed_on = {name: value for name, value in kwargs.items() if name not in CACHE_INPUTS}
        return {"decoder_input_ids": input_ids} | passed_on

    @classmethod
    def from_video_text(
        cls, video_text: str | UMTForVideoTextPreTraining, **vision_fields
    ) -> "UMTForVideoQuestionAnswering":
        """Initialise from a stage-2 model; no weight is fresh.

        The decoder's layers are copies of the fusion layers, its embeddings are those of the text encoder, and its
        head is the masked language modelling head.

        Args:
            video_text: Hub id or folder of a [`UMTForVideoTextPreTraining`], or one in memory, e.g. a converted
                stage-2 file.
            vision_fields: Changed fields of the video encoder's [`UMTConfig`], such as `num_frames=12`.

        Raises:
            ValueError: if the model lacks an encoder or the masked language modelling head, or its two encoders differ
                in `hidden_size`: the decoder's layers attend to question states where the fusion layers attend to
                video tokens.
        """
        source = video_text
        if isinstance(video_text, str):
            source, report = UMTForVideoTextPreTraining.from_pretrained(
                video_text, dtype=torch.float32, output_loading_info=True
            )
            if missing := sorted(key for key in report["missing_keys"] if key.startswith(PARTS_OF_STAGE_2)):
                raise ValueError(
                    f"{video_text} lacks {', '.join(missing[:4])}{' ...' if len(missing) > 4 else ''}, with which "
                    "question answering starts; give a stage-2 model."
                )
        config = copy.deepcopy(source.config)
        vision, text = config.vision_config, config.text_config
        if not isinstance(source, UMTForVideoTextPreTraining) or config.mlm_weight == 0:
            raise ValueError(
                f"Question answering starts from a UMTForVideoTextPreTraining with its masked language modelling head "
                f"(`mlm_weight` above 0), which becomes the decoder's; this is a {type(source).__name__} with "
                f"`mlm_weight` {config.mlm_weight:g}."
            )
        if vision.hidden_size != text.hidden_size:
            raise ValueError(
                f"The video encoder's `hidden_size` {vision.hidden_size} and the text encoder's {text.hidden_size} "
                "must be the same, because the fusion layers become the decoder's."
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
    """Configuration of the decoder: as many layers as the encoder's fusion layers, all with cross-attention."""
    config = copy.deepcopy(config)  # `to_dict` would leave out the attention implementation
    config.num_hidden_layers -= config.fusion_layer
    config.fusion_layer, config.encoder_width, config.is_decoder = 0, config.hidden_size, True
    return config


def key_in_decoder(key: str, fusion_layer: int) -> str | None:
    """The decoder's key that is initialised from the weight `text_model.<...>`; None without one."""
    part, _, name = key.partition(".")
    if part != "text_model":
        return None
    if name.startswith("encoder.layer."):
        _, _, depth, rest = name.split(".", 3)
        return f"text_decoder.encoder.layer.{int(depth) - fusion_layer}.{rest}" if int(depth) >= fusion_layer else None
    return f"text_decoder.{name}"


__all__ = ["UMTForVideoQuestionAnswering", "UMTForVideoQuestionAnsweringOutput"]
