"""Questions about videos, with their answers: the data of question answering (UMT, arXiv 2303.16058, section 4.3).

The official files are JSON lists of `{"video", "question", "answer", "question_id"}`, where `answer` may be a list in
training, and a JSON list of all answers to choose from. Any table that `load_video_records` reads will do, with such
columns.

Unusual: neither questions nor answers are changed here. Questions are cleaned when they are tokenised, answers never
are, and a prediction counts only if it is the very text of the annotation, as in the official code.
"""

import collections
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset

from .video_records import load_video_records

# ActivityNet-QA's numbers of question types; those from "yes/no" on are about anything, told apart by their answer
ACTIVITYNET_TYPES = (
    "motion", "spatial relationship", "temporal relationship", "yes/no", "colour", "object", "location", "number",
    "other",
)  # fmt: skip


def load_question_records(
    source: Any, *, root: str | os.PathLike | None = None, split: str | None = None, answered: bool = True
) -> Dataset:
    """A table of questions: `video`, `question`, `answer` (a text, or a list of texts), `question_id`, and `type`
    where the source has one.

    Args:
        source, root, split: see `load_video_records`.
        answered: every question has an answer.

    Returns:
        The table; without `question_id` in the source, questions are numbered.

    Raises:
        ValueError: a stream, no columns of questions or answers, a question or answer that is no text, a
            `question_id` that occurs twice, and what `load_video_records` raises.
    """
    records = load_video_records(source, root=root, split=split)
    if not isinstance(records, Dataset):
        raise ValueError("Questions are read from a table; unpack the shards, or give a list file or a data set.")
    needed = ["question", "answer"] if answered else ["question"]
    if missing := [name for name in needed if name not in records.column_names]:
        raise ValueError(
            f"A table of questions has no column {' and '.join(missing)}; it has {', '.join(records.column_names)}."
        )
    for name in needed:
        for row, value in enumerate(records[name]):
            texts = value if isinstance(value, list) and name == "answer" else [value]
            if not texts or not all(isinstance(text, str) and text for text in texts):
                raise ValueError(f"Row {row} of the questions has the {name} {value!r}; expected a text.")
    if "question_id" not in records.column_names:
        records = records.add_column("question_id", list(range(len(records))))
    repeated = [name for name, count in collections.Counter(records["question_id"]).items() if count > 1]
    if repeated:
        raise ValueError(
            f"{len(repeated)} values of question_id occur twice, first {repeated[0]!r}; a prediction is known by it."
        )
    columns = ["video", "question", "answer", "question_id", "type"]
    return records.select_columns([name for name in columns if name in records.column_names])


def weigh_answers(answers: str | Sequence[str]) -> tuple[list[str], list[float]]:
    """The distinct answers to a question, in the order of their first appearance, and the share of each.

    Args:
        answers: a text, or those of several people.

    Returns:
        Texts, and weights that sum to 1.
    """
    answers = [answers] if isinstance(answers, str) else list(answers)
    counts = collections.Counter(answers)
    return list(counts), [count / len(answers) for count in counts.values()]


def read_answers(path: str | os.PathLike) -> list[str]:
    """The answers to choose from: a JSON list of texts, or a text file with one in each line.

    Raises:
        ValueError: there is no such file, or it is no list of different texts.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"There is no list of answers {path}; check the path.")
    text = path.read_text(encoding="utf-8-sig")
    try:
        answers = json.loads(text) if path.suffix == ".json" else [line.strip() for line in text.split("\n")]
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON: {error}.") from error
    if path.suffix != ".json":
        answers = [answer for answer in answers if answer]
    if not isinstance(answers, list) or not answers or not all(isinstance(answer, str) for answer in answers):
        raise ValueError(f"{path} must be a JSON list of texts, or a text file with an answer in each line.")
    return list(dict.fromkeys(answers))


def read_question_types(path: str | os.PathLike) -> dict[Any, int | str]:
    """The type of each question, by its id: of a JSON list of `{"question_id", "type"}`, such as ActivityNet-QA's
    `test_a.json`.

    Raises:
        ValueError: there is no such file, or a row lacks one of the two.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"There is no list of question types {path}; check the path.")
    rows = json.loads(path.read_text(encoding="utf-8-sig"))
    if not isinstance(rows, list) or not all(
        isinstance(row, dict) and {"question_id", "type"} <= {*row} for row in rows
    ):
        raise ValueError(f"{path} must be a JSON list of objects with a question_id and a type.")
    return {row["question_id"]: row["type"] for row in rows}


def type_name(kind: int | str) -> str:
    """A question type as text; a number is one of ActivityNet-QA's."""
    if isinstance(kind, int) and 0 <= kind < len(ACTIVITYNET_TYPES):
        return ACTIVITYNET_TYPES[kind]
    return str(kind)
