"""Fine-tuning for question answering (arXiv 2303.16058, section 4.3) as a Transformers Trainer.

A question may have several answers, each weighted by the fraction of people who gave it. As for the published models,
evaluation ranks a list of candidate answers. Unlike `umt evaluate`, which counts a question about a broken video as
wrong, it replaces and reports broken videos, as the other trainers do.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from transformers import EvalPrediction, PreTrainedModel

from modeling_umt.vocabulary_umt import record_vocabulary
from processing_umt import UMTProcessor

from ..cards.question_answering_card import question_answering_sections
from ..cards.trainer_card import CardSections
from ..data.question_records import weigh_answers
from ..data.video_dataset import collate_clips
from ..evaluation.equal_texts import equal_to_another, first_equal
from .absolute_learning_rate import AbsoluteLearningRateArguments, AbsoluteLearningRateMixin
from .activation_checkpointing import checkpoint_first_blocks
from .base_trainer import UMTTrainer


@dataclass
class UMTQuestionAnsweringArguments(AbsoluteLearningRateArguments):
    """Arguments of [`UMTQuestionAnsweringTrainer`]. The defaults are common to the published recipes.

    Args:
        checkpoint_blocks: Number of blocks of the video encoder, from the first, whose activations are recomputed in
            the backward pass.
    """

    ranges: ClassVar[dict[str, str]] = AbsoluteLearningRateArguments.ranges | {"checkpoint_blocks": "[0, inf)"}

    learning_rate: float = 2e-5
    checkpoint_blocks: int = 0


class QuestionCollator:
    """Collates clips with their questions and answers as token ids.

    Args:
        processor ([`UMTProcessor`]): Cleans and tokenises questions, tokenises answers.
        candidates: The answers that evaluation ranks.
    """

    def __init__(self, processor: UMTProcessor, candidates: Sequence[str] = ()):
        self.processor = processor
        self.candidate_ids = {answer: index for index, answer in enumerate(candidates)}

    def __call__(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """The batch of `collate_clips` with the following in place of `question` and `answer`; Q questions have A
        distinct answers in total.

        - `input_ids`, `attention_mask` `(Q, length)`: the questions.
        - `labels`, `decoder_attention_mask` `(A, length)`, `answer_weights` `(A,)`: the answers.
        - `answers_per_question` `(Q,)`.
        - `answer_ids` `(Q,)`: index of the most frequent answer among the candidates, or -1.

        Raises:
            ValueError: if the samples have no question or no answer.
        """
        batch = collate_clips(samples)
        if "question" not in batch or "answer" not in batch:
            raise ValueError("Samples need a question and an answer; load their records with `load_question_records`.")
        weighted = [weigh_answers(answer) for answer in batch.pop("answer")]
        answers = self.processor.encode_answers([text for texts, _ in weighted for text in texts], return_tensors="pt")
        most_frequent = [most_frequent_answer(texts, weights) for texts, weights in weighted]
        return {
            **batch,
            **self.processor(text=batch.pop("question"), return_tensors="pt"),
            "labels": answers["input_ids"],
            "decoder_attention_mask": answers["attention_mask"],
            "answers_per_question": torch.tensor([len(texts) for texts, _ in weighted]),
            "answer_weights": torch.tensor([weight for _, weights in weighted for weight in weights]),
            "answer_ids": torch.tensor([self.candidate_ids.get(text, -1) for text in most_frequent]),
        }


class UMTQuestionAnsweringTrainer(AbsoluteLearningRateMixin, UMTTrainer):
    """Fine-tunes a [`UMTForVideoQuestionAnswering`]. Evaluation measures the accuracy of the highest-ranked answers.

    Args:
        model ([`UMTForVideoQuestionAnswering`]): The model.
        args ([`UMTQuestionAnsweringArguments`]): The training arguments.
        processing_class ([`UMTProcessor`]): Cleans and tokenises the questions, tokenises the answers.
        candidates: The answers that evaluation ranks.
        k: Number of candidates that the decoder scores, see `rank_answers`.
        compute_metrics (*optional*): Defaults to `accuracy` and `possible_accuracy` in percent.
        kwargs: Further arguments of [`UMTTrainer`]. The records of the data sets are from `load_question_records`.

    Raises:
        ValueError: if there is an evaluation data set but no candidates, `candidates` is a text, the model has fewer
            than `checkpoint_blocks` blocks, or the processor has another vocabulary than the model.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        args: UMTQuestionAnsweringArguments,
        processing_class: UMTProcessor,
        candidates: Sequence[str] = (),
        k: int = 128,
        compute_metrics=None,
        **kwargs,
    ):
        record_vocabulary(model.config, processing_class.tokenizer)
        if isinstance(candidates, str):
            raise ValueError(f"`candidates` is the text {candidates!r}; expected a list of answers.")
        super().__init__(
            model=model,
            args=args,
            processing_class=processing_class,
            data_collator=QuestionCollator(processing_class, candidates),
            compute_metrics=compute_metrics or accuracy,
            **kwargs,
        )
        if self.eval_dataset is not None and not candidates:
            raise ValueError("Evaluation ranks a list of answers: give `candidates`, or no `eval_dataset`.")
        checkpoint_first_blocks(model.vision_model, args.checkpoint_blocks)
        if args.checkpoint_text:
            for part in (model.text_model, model.text_decoder):
                checkpoint_first_blocks(part)
        self.candidates, self.k = list(candidates), k
        if candidates:
            self.encoded_candidates = processing_class.encode_answers(self.candidates, return_tensors="pt")
            self.first_equal = torch.tensor(first_equal(self.encoded_candidates["input_ids"]))

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        outputs = model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            pixel_values_videos=self.pixel_values(inputs["pixel_values_videos"]),
            labels=inputs["labels"],
            decoder_attention_mask=inputs["decoder_attention_mask"],
            answers_per_question=inputs["answers_per_question"],
            answer_weights=inputs["answer_weights"],
        )
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """The indices of the highest-ranked and of the correct answer to each question, for `compute_metrics`."""
        self.report_broken_videos(inputs)
        inputs = self._prepare_inputs(inputs)
        answers = self.encoded_candidates.to(self.args.device)
        # accelerate wraps only the model's `forward` in autocast, which is not called here
        with self.accelerator.autocast():
            indices, _ = self.accelerator.unwrap_model(model).rank_answers(
                inputs["input_ids"],
                inputs["attention_mask"],
                self.pixel_values(inputs["pixel_values_videos"]),
                candidate_ids=answers["input_ids"],
                candidate_attention_mask=answers["attention_mask"],
                k=self.k,
            )
        return None, self.first_equal.to(indices.device)[indices[:, 0]], inputs["answer_ids"]

    def describe_data(self) -> str:
        """The line of [`UMTTrainer`], and another one on the answers that evaluation ranks."""
        text = super().describe_data()
        if self.candidates:
            num_equal = len(equal_to_another(self.first_equal.tolist()))
            equal = f", {num_equal} of which are equal to another one for the model (the same tokens)"
            text += f"\nanswers: {len(self.candidates):,} candidates{equal if num_equal else ''}"
        return text

    def card_sections(self) -> CardSections:
        return question_answering_sections(self)


def most_frequent_answer(texts: Sequence[str], weights: Sequence[float]) -> str:
    """The answer of a question that evaluation compares with, from the result of `weigh_answers`: the first of several
    equally frequent ones."""
    return texts[max(range(len(texts)), key=weights.__getitem__)]


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """Percentage of correctly answered questions, where an answer that is not a candidate counts as wrong, and the
    `possible_accuracy`: percentage of the questions whose answer is a candidate."""
    return {
        "accuracy": 100 * float((prediction.predictions == prediction.label_ids).mean()),
        "possible_accuracy": 100 * float((prediction.label_ids >= 0).mean()),
    }
