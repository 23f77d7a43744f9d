"""Question answering scored as in the official code of UMT (arXiv 2303.16058, section 4.3; evaluation, 5).

The model ranks the answers of a list, and the first one counts if it is the annotation's text, letter by letter.

Unusual: a clip is decoded and encoded once for all its questions. Clips, not questions, are dealt out to the
processes, each once, so nothing is filled up with repeated samples. A question about a video that can't be read counts
as wrong.
"""

import collections
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import PreTrainedModel

from processing_umt import UMTProcessor

from ..data.question_records import type_name
from ..data.video_dataset import video_name
from .classification import SkippedVideo
from .retrieval import ClipsOfVideos


@dataclass(frozen=True)
class QuestionScores:
    """Predictions of every question of a table, in its order, and how often they are right."""

    question_ids: list[int | str]
    questions: list[str]
    answers: list[str]
    """The annotation's."""
    predictions: list[str | None]
    """None where the video can't be read."""
    types: list[str] | None
    """Question types, where they are known."""
    skipped: list[SkippedVideo]
    """The videos that can't be read, whose questions count as wrong."""
    protocol: dict[str, Any]
    """How it was measured: frames, sampling, resolution, candidates, k, dtype; and possible_accuracy, the share of the
    questions whose answer is among the candidates, in percent."""

    @property
    def accuracy(self) -> float:
        """Share of the questions that are answered right, in percent."""
        return self._accuracy_of(range(len(self.answers)))

    @property
    def accuracy_by_type(self) -> dict[str, float]:
        """The same of each type of question, in percent; empty where there are no types."""
        rows = collections.defaultdict(list)
        for row, kind in enumerate(self.types or []):
            rows[kind].append(row)
        return {kind: self._accuracy_of(rows[kind]) for kind in sorted(rows)}

    def _accuracy_of(self, rows: Sequence[int]) -> float:
        given = [{"question_id": self.question_ids[row], "answer": self.answers[row]} for row in rows]
        predicted = [{"question_id": self.question_ids[row], "answer": self.predictions[row]} for row in rows]
        return exact_match(given, predicted)


def exact_match(annotations: Sequence[Mapping[str, Any]], predictions: Sequence[Mapping[str, Any]]) -> float:
    """Share of the annotations whose answer is predicted letter by letter, in percent, rounded to two decimals.

    Args:
        annotations, predictions: each with a `question_id` and an `answer`. Of several predictions for a question the
            last one counts; a question without one is answered wrong.
    """
    predicted = {prediction["question_id"]: prediction["answer"] for prediction in predictions}
    right = sum(predicted.get(given["question_id"]) == given["answer"] for given in annotations)
    return round(100 * right / len(annotations), 2)


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
) -> QuestionScores:
    """Answers questions from a list. Under `accelerate launch` or `torchrun` every process must call it.

    Args:
        model: a [`UMTForVideoQuestionAnswering`] on its device; its mode is restored.
        processor: its processor; clips are single views of `num_frames` frames.
        records: what `load_question_records` returns, with one answer for each question.
        candidates: the answers to choose from.
        k: candidates that are scored, see `rank_answers`.
        types: the type of each question by its id; default: the table's column `type`, if there is one.
        num_workers: processes that decode, for each process of the evaluation; 0 decodes in between.
        autocast_dtype: the official evaluation uses float16; default: the model's own type, without autocast.

    Returns:
        The same on every process.

    Raises:
        ValueError: no questions, several answers to one, a question without a type, or not a single video can be read.
    """
    answers = [_only_answer(answer) for answer in records["answer"]]
    question_ids, questions = list(records["question_id"]), list(records["question"])
    kinds = _types_of(records, question_ids, types)
    rows_of_clips = _rows_by_video(records)
    state = PartialState(cpu=model.device.type == "cpu")
    mine = range(state.process_index, len(rows_of_clips), state.num_processes)
    videos = [(place, records[rows_of_clips[place][0]]["video"]) for place in mine]
    dataset = ClipsOfVideos(videos, processor.video_processor, processor.video_processor.num_frames)
    encoded = processor.encode_answers(list(candidates), return_tensors="pt").to(model.device)
    was_training = model.training
    model.eval()
    try:
        found, broken = _answer_share(
            model, processor, dataset, rows_of_clips, questions, encoded, k, num_workers, autocast_dtype
        )
    finally:
        model.train(was_training)
    parts = gather_object([(found, broken)])
    places = {row: place for part, _ in parts for row, place in part.items()}
    skipped = [SkippedVideo(*video) for _, videos in parts for video in videos]
    if not places:
        listed = ", ".join(f"{video.video} ({video.reason})" for video in skipped[:8])
        raise ValueError(f"None of the {len(skipped)} videos can be read: {listed}. Check path and root of the data.")
    known = set(candidates)
    return QuestionScores(
        question_ids=question_ids,
        questions=questions,
        answers=answers,
        predictions=[candidates[places[row]] if row in places else None for row in range(len(questions))],
        types=kinds,
        skipped=sorted(skipped),
        protocol={
            "frames": processor.video_processor.num_frames,
            "sampling": processor.video_processor.sampling,
            "resolution": list(dataset.resolution),
            "candidates": len(candidates),
            "k": min(k, len(candidates)),
            "possible_accuracy": round(100 * sum(answer in known for answer in answers) / len(answers), 2),
            "dtype": str(autocast_dtype or model.dtype).removeprefix("torch."),
        },
    )


def _only_answer(answer: str | list[str]) -> str:
    texts = {answer} if isinstance(answer, str) else set(answer)
    if len(texts) != 1:
        raise ValueError(f"A question has the answers {sorted(texts)}; for evaluation give one to each question.")
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
    """The rows of each video, in the order of its first question; bytes without a name are a video each."""
    rows = collections.defaultdict(list)
    for row, record in enumerate(records.select_columns("video")):
        rows[video_name(record["video"]) or row].append(row)
    return list(rows.values())


def _as_it_is(item: Any) -> Any:
    return item


def _answer_share(
    model: PreTrainedModel,
    processor: UMTProcessor,
    dataset: ClipsOfVideos,
    rows_of_clips: list[list[int]],
    questions: list[str],
    candidates: Mapping[str, torch.Tensor],
    k: int,
    num_workers: int,
    autocast_dtype: torch.dtype | None,
) -> tuple[dict[int, int], list[tuple[str, str, str]]]:
    """This process's questions: the place of the best candidate by row, and the videos that can't be read."""
    loader = DataLoader(
        dataset, batch_size=None, num_workers=num_workers, collate_fn=_as_it_is, generator=torch.Generator()
    )
    hidden = None if PartialState().is_main_process else True  # None: hidden where stderr is no terminal
    names = {place: video_name(video) for place, video in dataset.videos}
    found, broken = {}, []
    for place, clip in tqdm(loader, desc="answer", unit=" videos", delay=1, leave=False, disable=hidden):
        rows = rows_of_clips[place]
        if not isinstance(clip, torch.Tensor):
            broken.append((names[place] or f"record {rows[0]}", *clip))
            continue
        words = processor(text=[questions[row] for row in rows], return_tensors="pt").to(model.device)
        pixels = dataset.normalize(clip[None].to(model.device))
        with torch.autocast(model.device.type, autocast_dtype, enabled=autocast_dtype is not None):
            best, _ = model.rank_answers(
                **words,
                pixel_values_videos=pixels.to(model.dtype),
                candidate_ids=candidates["input_ids"],
                candidate_attention_mask=candidates["attention_mask"],
                k=k,
            )
        found |= dict(zip(rows, best[:, 0].tolist(), strict=True))
    return found, broken
