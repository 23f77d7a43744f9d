"""Answers to one question about a video, chosen from a list or generated (UMT, arXiv 2303.16058, section 4.3)."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import BatchFeature, PreTrainedModel

from processing_umt import UMTProcessor


@torch.inference_mode()
def answer_question(
    model: PreTrainedModel,
    processor: UMTProcessor,
    video: Any,
    question: str,
    candidates: Sequence[str] | None = None,
    top_k: int = 5,
) -> list[tuple[str, float]]:
    """The best answers to a question about a video, best first, with their scores.

    Args:
        model: a `UMTForVideoQuestionAnswering`, in evaluation mode, on its device.
        processor: its processor.
        video: what the processor takes: a path, an http(s) URL, bytes ...
        question: text of the question.
        candidates: answers to choose from, whose scores sum to 1 over the list; default: answers are generated, and
            their scores are probabilities.
        top_k: number of answers; fewer where generated answers are equal.

    Raises:
        VideoDecodeError: the video can't be read.
    """
    inputs = processor(videos=video, text=question, num_clips=1, num_crops=1, return_tensors="pt").to(model.device)
    inputs["pixel_values_videos"] = inputs["pixel_values_videos"].to(model.dtype)
    if candidates is None:
        return generate_answers(model, processor, inputs, top_k)
    return choose_answers(model, processor, inputs, candidates)[:top_k]


def choose_answers(
    model: PreTrainedModel, processor: UMTProcessor, inputs: BatchFeature, candidates: Sequence[str]
) -> list[tuple[str, float]]:
    """The candidates that the model scores, best first, with their scores."""
    encoded = processor.encode_answers(candidates, return_tensors="pt").to(model.device)
    indices, scores = model.rank_answers(
        **inputs, candidate_ids=encoded["input_ids"], candidate_attention_mask=encoded["attention_mask"]
    )
    return [(candidates[index], score) for index, score in zip(indices[0].tolist(), scores[0].tolist(), strict=True)]


def generate_answers(
    model: PreTrainedModel, processor: UMTProcessor, inputs: BatchFeature, number: int
) -> list[tuple[str, float]]:
    """Generated answers, best first, with their probabilities; at most `number` different ones."""
    generated = model.generate(
        **inputs,
        num_beams=max(number, 3),
        num_return_sequences=number,
        length_penalty=0.0,  # makes the scores log-probabilities
        return_dict_in_generate=True,
        output_scores=True,
    )
    texts = processor.tokenizer.batch_decode(generated.sequences, skip_special_tokens=True)
    answers = {}
    for text, score in zip(texts, generated.sequences_scores.exp().tolist(), strict=True):
        answers.setdefault(text, score)
    return list(answers.items())
