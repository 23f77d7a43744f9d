"""Questions about videos with their answers: the data of question answering (UMT, arXiv 2303.16058, section 4.3).

The official files are JSON lists of `{"video", "question", "answer", "question_id"}`, where `answer` may be a list in
training, and a JSON list of candidate answers. Any table that `load_video_records` reads and that has such columns can
be used.

Questions and answers are not changed here. Questions are cleaned when they are tokenised, answers never are, and a
prediction is correct only if it equals the text of the annotation, as in the official code.
"""

import collections
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset

from .strict_json import read_json
from .video_records import load_video_records

# The question types of ActivityNet-QA by number; those from "yes/no" on are defined by the type of answer.
ACTIVITYNET_TYPES = (
    "motion", "spatial relationship", "temporal relationship", "yes/no", "colour", "object", "location", "number",
    "other",
)  # fmt: skip


def load_question_records(
    source: Any, *, root: str | os.PathLike | None = None, split: str | None = None, answered: bool = True
) -> Dataset:
    """Loads a table of questions: `video`, `question`, `answer` (a text, or a list of texts), `question_id`, and
    `type` if the source has one.

    Args:
        source, root, split: see `load_video_records`.
        answered: require an answer to every question.

    Returns:
        The table. If the source has no `question_id`, questions are numbered from 0.

    Raises:
        ValueError: a stream, a missing column of questions or answers, a question or answer that is not a text, a
            repeated `question_id`; and the errors of `load_video_records`.
    """
    records = load_video_records(source, root=root, split=split, with_labels=False)
    if not isinstance(records, Dataset):
        raise ValueError("Questions can't be streamed; unpack the shards, or pass a list file or a data set.")
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
    odd = next((name for name in records["question_id"] if not isinstance(name, (int, str))), None)
    if odd is not None:
        raise ValueError(f"A question_id is {odd!r:.60}; expected an integer or a text.")
    repeated = [name for name, count in collections.Counter(records["question_id"]).items() if count > 1]
    if repeated:
        raise ValueError(
            f"{len(repeated)} values of question_id are repeated, first {repeated[0]!r}; they must be unique."
        )
    columns = ["video", "question", "answer", "question_id", "type"]
    return records.select_columns([name for name in columns if name in records.column_names])


def weigh_answers(answers: str | Sequence[str]) -> tuple[list[str], list[float]]:
    """The distinct answers to a question, in order of first occurrence, and the relative frequency of each.

    Args:
        answers: a text, or the texts of several annotators.

    Returns:
        Texts, and weights that sum to 1.
    """
    answers = [answers] if isinstance(answers, str) else list(answers)
    counts = collections.Counter(answers)
    return list(counts), [count / len(answers) for count in counts.values()]


def read_answers(path: str | os.PathLike) -> list[str]:
    """Reads the candidate answers, without duplicates, from a JSON list of texts or a text file with one per line.

    Raises:
        ValueError: the file does not exist, or is not such a list.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"The list of answers {path} does not exist; check the path.")
    if path.suffix == ".json":
        answers = read_json(path)
    else:
        try:
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not a text file in UTF-8: {error}.") from error
        answers = [answer for line in text.split("\n") if (answer := line.strip())]
    if not isinstance(answers, list) or not answers or not all(isinstance(answer, str) for answer in answers):
        raise ValueError(f"{path} must be a JSON list of texts, or a text file with one answer per line.")
    return list(dict.fromkeys(answers))


def read_question_types(path: str | os.PathLike) -> dict[Any, int | str]:
    """Reads the type of each question, by question id, from a JSON list of `{"question_id", "type"}` such as
    `test_a.json` of ActivityNet-QA.

    Raises:
        ValueError: the file does not exist, or a row lacks one of the two fields, an integer or a text each.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"The list of question types {path} does not exist; check the path.")
    rows = read_json(path)
    if not isinstance(rows, list) or not all(
        isinstance(row, dict) and all(isinstance(row.get(name), (int, str)) for name in ("question_id", "type"))
        for row in rows
    ):
        raise ValueError(f"{path} must be a JSON list of objects with a question_id and a type.")
    return {row["question_id"]: row["type"] for row in rows}


def type_name(kind: int | str) -> str:
    """Name of a question type; an integer is a type of ActivityNet-QA."""
    if isinstance(kind, int) and 0 <= kind < len(ACTIVITYNET_TYPES):
        return ACTIVITYNET_TYPES[kind]
    return str(kind)
