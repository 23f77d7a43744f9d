"""Fine-tuning for question answering (arXiv 2303.16058, section 4.3; method, 19) as a Transformers Trainer.

A question may have several answers, each weighing as much as the share of people who gave it. Evaluation ranks a list
of answers, as the evaluation of the published models does, but by single views drawn as in the Trainer's other
objectives: a broken video is replaced, and told. `umt evaluate --task question_answering` is the strict one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import EvalPrediction, PreTrainedModel

from processing_umt import UMTProcessor

from ..cards.question_answering_card import question_answering_card
from ..data.question_records import weigh_answers
from ..data.video_dataset import collate_clips
from .absolute_learning_rate import AbsoluteLearningRateArguments, AbsoluteLearningRateMixin
from .activation_checkpointing import checkpoint_first_blocks
from .base_trainer import UMTTrainer


@dataclass
class UMTQuestionAnsweringArguments(AbsoluteLearningRateArguments):
    """Arguments of [`UMTQuestionAnsweringTrainer`]; the defaults are those that the published recipes share.

    Args:
        checkpoint_blocks: Blocks of the video encoder, counted from the first, whose activations are recomputed in the
            backward pass.
    """

    learning_rate: float = 2e-5
    checkpoint_blocks: int = 0


class QuestionCollator:
    """Batches of clips with their questions and answers as token ids.

    Args:
        processor ([`UMTProcessor`]): cleans and tokenises questions, tokenises answers.
        candidates: the answers that evaluation chooses from.
    """

    def __init__(self, processor: UMTProcessor, candidates: Sequence[str] = ()):
        self.processor = processor
        self.places = {answer: place for place, answer in enumerate(candidates)}

    def __call__(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """As `collate_clips`, with `input_ids` and `attention_mask` of the questions; `labels`,
        `decoder_attention_mask` and `answer_weights` of their distinct answers, and `answers_per_question`; and
        `answer_places`, that of the most frequent answer among the candidates or -1, instead of the texts.

        Raises:
            ValueError: samples without a question or an answer.
        """
        batch = collate_clips(samples)
        if "question" not in batch or "answer" not in batch:
            raise ValueError("Samples need a question and an answer; make their records with `load_question_records`.")
        weighed = [weigh_answers(answer) for answer in batch.pop("answer")]
        answers = self.processor.encode_answers([text for texts, _ in weighed for text in texts], return_tensors="pt")
        first = [texts[max(range(len(texts)), key=weights.__getitem__)] for texts, weights in weighed]
        return {
            **batch,
            **self.processor(text=batch.pop("question"), return_tensors="pt"),
            "labels": answers["input_ids"],
            "decoder_attention_mask": answers["attention_mask"],
            "answers_per_question": torch.tensor([len(texts) for texts, _ in weighed]),
            "answer_weights": torch.tensor([weight for _, weights in weighed for weight in weights]),
            "answer_places": torch.tensor([self.places.get(text, -1) for text in first]),
        }


class UMTQuestionAnsweringTrainer(AbsoluteLearningRateMixin, UMTTrainer):
    """Fine-tunes a [`UMTForVideoQuestionAnswering`]; evaluation measures how often the right answer is chosen.

    Args:
        model ([`UMTForVideoQuestionAnswering`]).
        args ([`UMTQuestionAnsweringArguments`]).
        processing_class ([`UMTProcessor`]).
        candidates: The answers that evaluation chooses from.
        k: Candidates that are scored, see `rank_answers`.
        kwargs: Everything else that `transformers.Trainer` takes. Data sets are of `load_question_records`.

    Raises:
        ValueError: if there is an evaluation data set and no candidates, or the model has fewer blocks than are to be
            checkpointed.
    """

    model_card = staticmethod(question_answering_card)

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
        super().__init__(
            model=model,
            args=args,
            processing_class=processing_class,
            data_collator=QuestionCollator(processing_class, candidates),
            compute_metrics=compute_metrics or accuracy,
            **kwargs,
        )
        if self.eval_dataset is not None and not candidates:
            raise ValueError("Evaluation chooses from a list of answers; give `candidates`, or no `eval_dataset`.")
        checkpoint_first_blocks(model.vision_model, args.checkpoint_blocks)
        if args.checkpoint_text:
            for part in (model.text_model, model.text_decoder):
                checkpoint_first_blocks(part)
        self.candidates, self.k = list(candidates), k
        if candidates:
            self.encoded_candidates = processing_class.encode_answers(self.candidates, return_tensors="pt")

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
        """The place of the answer that is chosen for each question and of the right one, for `compute_metrics`."""
        for name, reason in inputs.pop("broken", []):
            print(f"evaluation: {name} cannot be read ({reason}); another video stands in for it", flush=True)
        inputs = self._prepare_inputs(inputs)
        answers = self.encoded_candidates.to(self.args.device)
        # accelerate has put its autocast around the model's own forward, which is not called here
        with self.accelerator.autocast():
            places, _ = self.accelerator.unwrap_model(model).rank_answers(
                inputs["input_ids"],
                inputs["attention_mask"],
                self.pixel_values(inputs["pixel_values_videos"]),
                candidate_ids=answers["input_ids"],
                candidate_attention_mask=answers["attention_mask"],
                k=self.k,
            )
        return None, places[:, 0].contiguous(), inputs["answer_places"]


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """Share of the questions whose answer is chosen, in percent; one that is not in the list is answered wrong."""
    return {"accuracy": 100 * float((prediction.predictions == prediction.label_ids).mean())}
