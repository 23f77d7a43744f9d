"""Tiny evaluations of all tasks on the same clips, which can be interrupted, for the tests of partial scores.

As a script of a launcher, `tiny_evaluations.py VIDEOS FOLDER` interrupts and resumes each task in every process.
"""

import sys
from pathlib import Path
from typing import Any
from unittest import mock

import datasets
import numpy as np
from bert_vocabulary import write_vocabulary
from tiny_classifier import save_noise, tiny_classifier, tiny_processor
from tiny_question_answering import ANSWERS, tiny_answerer
from tiny_video_text_retrieval import tiny_retrieval_model

from modeling_umt import UMTVideoTextModel
from processing_umt import UMTProcessor
from umt_training.evaluation import clips
from umt_training.evaluation.classification import evaluate_classifier
from umt_training.evaluation.multiple_choice import evaluate_multiple_choice
from umt_training.evaluation.question_answering import evaluate_questions
from umt_training.evaluation.retrieval import evaluate_retrieval, retrieval_set

TASKS = ("classification", "question_answering", "multiple_choice", "retrieval")
CAPTIONS = ["a man runs", "a dog on the bike", "two cars", "the cat", "a person doing yes"]
QUESTIONS = ["What's the man doing?", "Is a dog on the bike?"]
NUM_VIDEOS = 5


def save_clips(folder: Path, seed: int = 0) -> list[str]:
    paths = [folder / f"clip{number}.mp4" for number in range(NUM_VIDEOS)]
    return [str(save_noise(path, seed + n, num_frames=6, height=32, width=48)) for n, path in enumerate(paths)]


def make_processor(folder: Path) -> UMTProcessor:
    folder.mkdir(exist_ok=True)
    return UMTProcessor.from_bert(write_vocabulary(folder), image_size=32, num_frames=2, max_text_length=8)


def evaluate_task(
    task: str,
    processor: UMTProcessor,
    videos: list[Any],
    partial_folder: Path | None = None,
    *,
    model=None,
    captions=CAPTIONS,
    questions=QUESTIONS,
    candidates=ANSWERS,
    **options: Any,
) -> Any:
    """Scores of a task on paths or records of bytes. Two views and two questions per video; batches of three."""
    common = {"num_workers": 0, "partial_folder": partial_folder}
    if task == "classification":
        records = datasets.Dataset.from_dict({"video": videos, "label": [0] * len(videos)})
        options = {"num_clips": 2, "num_crops": 1, "batch_size": 3} | common | options
        return evaluate_classifier(model or tiny_classifier(), tiny_processor(), records, **options)
    if task == "question_answering":
        rows = [(video, question) for video in videos for question in questions]
        columns = {"video": [row[0] for row in rows], "question": [row[1] for row in rows]}
        columns |= {"answer": ["yes"] * len(rows), "question_id": list(range(len(rows)))}
        records = datasets.Dataset.from_dict(columns)
        return evaluate_questions(model or tiny_answerer(), processor, records, candidates, **common | options)
    if task == "multiple_choice":
        choices = [[*captions[row:], *captions[:row]] for row in range(len(videos))]
        records = datasets.Dataset.from_dict({"video": videos, "caption": choices, "answer": [0] * len(videos)})
        return evaluate_multiple_choice(model or tiny_retrieval_model(), processor, records, **common | options)
    records = datasets.Dataset.from_dict({"video": videos, "caption": captions})
    options = {"num_reranked": 2, "batch_size": 3} | common | options
    return evaluate_retrieval(model or tiny_retrieval_model(), processor, retrieval_set(records), **options)


def values_of(task: str, scores: Any) -> list[Any]:
    """The scores of a result, for comparison bit for bit."""
    if task == "classification":
        return scores.probabilities.tolist()
    if task == "retrieval":
        return [scores.text_to_video.tolist(), scores.video_to_text.tolist(), scores.metrics]
    return scores.predictions if task == "question_answering" else scores.choices


class Interruption(Exception):
    """Raised in place of a kill."""


def interrupted(task: str, after: int, act=None):
    """A context in which `act` is called, by default to raise `Interruption`, instead of reading the video after the
    first `after`, in retrieval instead of re-ranking it. The context's value counts the calls."""

    def stop(*_):
        raise Interruption

    owner, name = (UMTVideoTextModel, "match") if task == "retrieval" else (clips, "open_video")
    real, calls = getattr(owner, name), []

    def counted(*args, **options):
        if len(calls) == after:
            (act or stop)()
        calls.append(None)
        return real(*args, **options)

    return mock.patch.object(owner, name, counted), calls


def main(videos: str, folder: str) -> None:
    """Interrupts each task in every process after one video and resumes it there, with an uninterrupted one beside."""
    from accelerate import PartialState

    state = PartialState(cpu=True)
    assert state.num_processes == 2
    paths = [f"{videos}/clip{number}.mp4" for number in range(NUM_VIDEOS)]
    processor = make_processor(Path(folder, f"vocabulary{state.process_index}"))
    for task in TASKS:
        options = {"batch_size": 2} if task in ("classification", "retrieval") else {}
        options["partial_folder"] = Path(folder, task)
        try:
            with interrupted(task, 1)[0]:
                evaluate_task(task, processor, paths, **options)
        except Interruption:
            state.wait_for_everyone()
        resumed = evaluate_task(task, processor, paths, **options)
        expected = evaluate_task(task, processor, paths, **options | {"partial_folder": None})
        assert resumed.num_resumed == 2, (task, resumed.num_resumed)
        assert values_of(task, resumed) == values_of(task, expected), task
        scores = np.array([len(list(Path(folder, task).glob("*/*.scores")))])
        np.save(Path(folder, f"{task}{state.process_index}.npy"), scores)


if __name__ == "__main__":
    main(*sys.argv[1:])
