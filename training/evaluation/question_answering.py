"""Video question answering by the protocol of UMT's official code (arXiv 2303.16058, section 4.3).

The model ranks the answers of a list; the first one is correct if it equals the annotation's text exactly.

Candidates with the same tokens, such as two that differ in case or after the last token of an answer, are equal to the
model: the first of them in the list is predicted, and their number is reported.

Unusual: a clip is decoded and encoded once for all its questions. Clips, not questions, are sharded across processes,
each once, so no samples are repeated for padding. A question about a video that can't be read counts as wrong.
Predictions are saved as they are computed, and an interrupted evaluation resumes from them, also with another number
of processes.
"""

import collections
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from transformers import PreTrainedModel

from processing_umt import UMTProcessor

from ..data.question_records import type_name
from ..data.video_dataset import video_name
from ..processes import join_processes
from .clips import EvaluationClipDataset, SkippedVideo, no_readable_video, normalize_clips, read_clips, video_names
from .computation import autocast, dtype_name, evaluation_mode, require_finite
from .equal_texts import equal_to_another, first_equal
from .partial_scores import PartialScores


@dataclass(frozen=True)
class QuestionScores:
    """Predicted answers of all questions of a table, in its order, and their accuracy."""

    question_ids: list[int | str]
    questions: list[str]
    answers: list[str]
    """The annotated answers."""
    predictions: list[str | None]
    """None where the video can't be read."""
    types: list[str] | None
    """Question types, where they are known."""
    skipped: list[SkippedVideo]
    """The videos that can't be read, whose questions count as wrong."""
    equal_candidates: list[str]
    """The candidates that have the same tokens as another one."""
    num_resumed: int
    """Number of videos whose predictions come from an earlier, interrupted evaluation."""
    protocol: dict[str, Any]
    """Settings: frames, sampling, resolution, candidates, k, dtype; and possible_accuracy, the percentage of the
    questions whose answer is among the candidates."""
    partial_folder: Path | None
    """Folder of the saved predictions; to be removed once the results are written."""

    @property
    def accuracy(self) -> float:
        """Percentage of correctly answered questions."""
        return self._accuracy_of(range(len(self.answers)))

    @property
    def num_answers_by_order(self) -> int:
        """Number of questions whose annotated answer is among the `equal_candidates`: whether the model can be right
        depends on the order of the list."""
        equal = set(self.equal_candidates)
        return sum(answer in equal for answer in self.answers)

    @property
    def accuracy_by_type(self) -> dict[str, float]:
        """The accuracy of each question type in percent; empty where types are not known."""
        rows = collections.defaultdict(list)
        for row, kind in enumerate(self.types or []):
            rows[kind].append(row)
        return {kind: self._accuracy_of(rows[kind]) for kind in sorted(rows)}

    def _accuracy_of(self, rows: Sequence[int]) -> float:
        annotated = [{"question_id": self.question_ids[row], "answer": self.answers[row]} for row in rows]
        predicted = [{"question_id": self.question_ids[row], "answer": self.predictions[row]} for row in rows]
        return exact_match(annotated, predicted)


def exact_match(annotations: Sequence[Mapping[str, Any]], predictions: Sequence[Mapping[str, Any]]) -> float:
    """Percentage of the annotations whose answer is predicted exactly, rounded to two decimals.

    Args:
        annotations, predictions: each with a `question_id` and an `answer`. Of several predictions for a question the
            last one counts; a question without a prediction counts as wrong.
    """
    predicted = {prediction["question_id"]: prediction["answer"] for prediction in predictions}
    num_correct = sum(predicted.get(given["question_id"]) == given["answer"] for given in annotations)
    return round(100 * num_correct / len(annotations), 2)


def possible_accuracy(answers: Sequence[str], candidates: Sequence[str]) -> float:
    """Percentage of the annotated answers that are among the candidates.

    Raises:
        ValueError: there are no answers or candidates; or it is 0: the candidates are those of other data, or spelt
            otherwise.
    """
    if not answers or not candidates:
        raise ValueError(f"{len(answers)} questions and {len(candidates)} candidate answers were given; give both.")
    known = set(candidates)
    num_known = sum(answer in known for answer in answers)
    if num_known == 0:
        raise ValueError(
            f"None of the {len(answers)} annotated answers (such as {answers[0]!r:.60}) is in the list of "
            f"{len(candidates)} candidate answers (such as {candidates[0]!r:.60}), so that none could be right; give "
            "the list of these data, with the same spelling."
        )
    return 100 * num_known / len(answers)


def evaluate_questions(
    model: PreTrainedModel,
    processor: UMTProcessor,
    records: Dataset,
    candidates: Sequence[str],
    *,
    k: int = 128,
    types: Mapping[int | str, int | str] | None = None,
    num_workers: int = 4,
    autocast_dtype: torch.dtype | None = None,
    partial_folder: Path | None = None,
) -> QuestionScores:
    """Answers questions from a list. Under `accelerate launch` or `torchrun` every process must call it.

    Args:
        model: a [`UMTForVideoQuestionAnswering`] on its device; its mode is restored.
        processor: its processor; clips are single views of `num_frames` frames.
        records: the table that `load_question_records` returns, with one answer per question.
        candidates: the answers to choose from.
        k: number of candidates whose complete answers are scored, see `rank_answers`.
        types: the type of each question by its id; default: the table's column `type`, if it has one.
        num_workers: decoding processes for each process of the evaluation; 0 decodes in the evaluating process.
        autocast_dtype: the official evaluation uses float16; default: the model's own data type, without autocast.
        partial_folder: predictions are saved here as they are computed, in a sub-folder named by a hash of weights,
            processor, `k`, candidates, questions and names of the videos. A later call with the same hash resumes from
            them; videos that could not be read, whose files have changed, or of which a question is not answered are
            read again. Default: predictions are in memory only.

    Returns:
        The same scores in every process.

    Raises:
        ValueError: no questions, several answers to a question, a question without a type, none of the answers is a
            candidate, scores that are not finite, or none of the videos can be read.
    """
    if isinstance(candidates, str):
        raise ValueError(f"`candidates` is the text {candidates!r}; expected a list of answers.")
    answers = [_only_answer(answer) for answer in records["answer"]]
    possible = possible_accuracy(answers, candidates)
    question_ids, questions = list(records["question_id"]), list(records["question"])
    kinds = _types_of(records, question_ids, types)
    rows_of_clips, names = _rows_by_video(records), video_names(records)
    state = join_processes(model.device)
    dtype = dtype_name(model, autocast_dtype)
    settings = {"dtype": dtype, "k": k, "candidates": candidates, "questions": questions}
    partial = PartialScores(partial_folder, records, names, 1, model, processor, settings)
    saved = partial.read()
    done = [rows for rows in rows_of_clips if saved.keys() >= {*rows}]
    best = {row: int(saved[row][0]) for rows in done for row in rows}

    remaining = [rows for rows in rows_of_clips if rows[0] not in best]
    clips = range(state.process_index, len(remaining), state.num_processes)
    videos = [(clip, records[remaining[clip][0]]["video"]) for clip in clips]
    dataset = EvaluationClipDataset(videos, processor.video_processor, processor.video_processor.num_frames)
    encoded = processor.encode_answers(list(candidates), return_tensors="pt").to(model.device)
    first = first_equal(encoded["input_ids"])
    found, broken = {}, {}
    with evaluation_mode(model), read_clips(dataset, num_workers, "answer") as items:
        for clip, frames in items:
            rows = remaining[clip]
            if not isinstance(frames, torch.Tensor):
                broken[rows[0]] = frames
                continue
            asked = [questions[row] for row in rows]
            best_first, scores = _rank_answers(model, processor, frames, asked, encoded, k, autocast_dtype)
            require_finite(scores, names[rows[0]], dtype)
            found |= {row: first[best] for row, best in zip(rows, best_first[:, 0].tolist(), strict=True)}
            for row in rows:
                partial.write(row, found[row])

    parts = gather_object([(found, broken)])
    best |= {row: candidate for part, _ in parts for row, candidate in part.items()}
    skipped = [SkippedVideo(names[row], *error) for _, errors in parts for row, error in errors.items()]
    if not best:
        raise no_readable_video(skipped)
    return QuestionScores(
        question_ids=question_ids,
        questions=questions,
        answers=answers,
        predictions=[candidates[best[row]] if row in best else None for row in range(len(questions))],
        types=kinds,
        skipped=sorted(skipped),
        equal_candidates=[candidates[index] for index in equal_to_another(first)],
        num_resumed=len(done),
        protocol={
            "frames": processor.video_processor.num_frames,
            "sampling": processor.video_processor.sampling,
            "resolution": list(dataset.resolution),
            "candidates": len(candidates),
            "k": min(k, len(candidates)),
            "possible_accuracy": round(possible, 2),
            "dtype": dtype,
        },
        partial_folder=partial.folder,
    )


def _only_answer(answer: str | list[str]) -> str:
    texts = {answer} if isinstance(answer, str) else set(answer)
    if len(texts) != 1:
        raise ValueError(f"A question has the answers {sorted(texts)}; evaluation needs one answer per question.")
    return texts.pop()


def _types_of(records: Dataset, question_ids: list, types: Mapping | None) -> list[str] | None:
    if types is None:
        return [type_name(kind) for kind in records["type"]] if "type" in records.column_names else None
    # ids are numbers in one file and text in the other
    by_text = {str(question_id): kind for question_id, kind in types.items()}
    if missing := [question_id for question_id in question_ids if str(question_id) not in by_text]:
        raise ValueError(f"{len(missing)} questions have no type, first that with the id {missing[0]!r}.")
    return [type_name(by_text[str(question_id)]) for question_id in question_ids]


def _rows_by_video(records: Dataset) -> list[list[int]]:
    """The rows of each video, in the order of its first question; bytes without a name are separate videos."""
    rows = collections.defaultdict(list)
    for row, record in enumerate(records.select_columns("video")):
        rows[video_name(record["video"]) or row].append(row)
    return list(rows.values())


def _rank_answers(
    model: PreTrainedModel,
    processor: UMTProcessor,
    frames: torch.Tensor,
    questions: list[str],
    candidates: Mapping[str, torch.Tensor],
    k: int,
    autocast_dtype: torch.dtype | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Candidates and their scores for each question about a clip, uint8 (frames, channels, height, width), as
    `rank_answers` returns them."""
    inputs = processor(text=questions, return_tensors="pt").to(model.device)
    pixels = normalize_clips(processor.video_processor, frames[None].to(model.device))
    with autocast(model, autocast_dtype):
        return model.rank_answers(
            **inputs,
            pixel_values_videos=pixels.to(model.dtype),
            candidate_ids=candidates["input_ids"],
            candidate_attention_mask=candidates["attention_mask"],
            k=k,
        )
