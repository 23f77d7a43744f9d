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

from .text_columns import check_texts, is_written_list
from .text_files import json_rows, numbered_lines, read_text, split_cells, table_rows
from .video_records import describe_source, load_video_records

# The question types of ActivityNet-QA by number; those from "yes/no" on are defined by the type of answer.
ACTIVITYNET_TYPES = (
    "motion", "spatial relationship", "temporal relationship", "yes/no", "colour", "object", "location", "number",
    "other",
)  # fmt: skip
WEIGHT_NAMES = ("weight", "weights", "answer_weight", "answer_weights")


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
            column of weights, a repeated `question_id`, a question without its type; and the errors of
            `load_video_records`.
    """
    needed = ["question", "answer"] if answered else ["question"]
    columns = [*needed, "question_id", "type"]
    records = load_video_records(source, root=root, split=split, with_labels=False, reads=columns)
    name = describe_source(source)
    if not isinstance(records, Dataset):
        raise ValueError("Questions can't be streamed; unpack the shards, or pass a list file or a data set.")
    if missing := [column for column in needed if column not in records.column_names]:
        raise ValueError(
            f"A table of questions has no column {' and '.join(missing)}: {name} has the columns "
            f"{', '.join(records.column_names)}. Rename the right ones."
        )
    if weights := [column for column in records.column_names if column.lower() in WEIGHT_NAMES]:
        raise ValueError(
            f"{name} has the column {weights[0]}, which is not read: answers are weighted by repetition, a list with "
            "the answer of each person to a question. Write such lists, and remove the column."
        )
    for column in needed:
        check_texts(records, column, name, lists=column == "answer")
    if "question_id" not in records.column_names:
        records = records.add_column("question_id", list(range(len(records))))
    _check_question_ids(records["question_id"], name)
    if "type" in records.column_names:
        _check_types(records["type"], name)
    return records.select_columns([column for column in ("video", *columns) if column in records.column_names])


def _check_question_ids(question_ids: Sequence[Any], source: str) -> None:
    for row, question_id in enumerate(question_ids):
        if not _is_key(question_id):
            raise ValueError(
                f"A question_id is {question_id!r:.60}, row {row} of {source}; expected an integer or a text."
            )
    repeated = [name for name, count in collections.Counter(question_ids).items() if count > 1]
    if repeated:
        raise ValueError(
            f"{len(repeated)} values of question_id of {source} are repeated, first {repeated[0]!r:.60}; they must be "
            "unique."
        )


def _check_types(types: Sequence[Any], source: str) -> None:
    odd = [row for row, kind in enumerate(types) if not _is_key(kind)]
    if odd:
        raise ValueError(
            f"{len(odd)} of {len(types)} questions of {source} have no type, first row {odd[0]} with "
            f"{types[odd[0]]!r:.60}; expected an integer or a text. Complete the column, or remove it."
        )


def _is_key(value: Any) -> bool:
    """Whether a value is an integer or a text that is not empty."""
    return (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, str) and value.strip() != "")


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
    """Reads the candidate answers, without duplicates.

    Args:
        path: `.json`, a list, or `.jsonl`, of texts or of objects with an `answer`; `.csv` or `.tsv`, a table with a
            column `answer`; or `.txt`, an answer per line. Lines and cells are read without the spaces at their ends.
            Extensions are read in any case.

    Raises:
        ValueError: the file does not exist, is not such a list, or an answer is not a text or is empty.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"The list of answers {path} does not exist; check the path.")
    suffix = path.suffix.lower()
    if suffix in (".json", ".jsonl"):
        rows = json_rows(path)
    elif suffix in (".csv", ".tsv"):
        rows = _table_of_answers(path)
    elif suffix in (".txt", ".list", ""):
        rows = [(f"line {number}", line.strip()) for number, line in numbered_lines(read_text(path))]
    else:
        raise ValueError(f"{path} is not a list of answers; its name must end in .json, .jsonl, .csv, .tsv or .txt.")
    if not rows:
        raise ValueError(f"{path} has no answers.")
    return list(dict.fromkeys(_answer(row, f"{path}, {where}") for where, row in rows))


def _table_of_answers(path: Path) -> list[tuple[str, dict[str, str]]]:
    text = read_text(path)
    header = next((line for _, line in numbered_lines(text)), "")
    for delimiter in (",", "\t", ";"):
        if "answer" in map(str.lower, split_cells(header, delimiter)):
            return table_rows(text, delimiter, path)
    raise ValueError(
        f"{path} has no column answer; its first line is {header!r:.80}. Name the columns in a header, as in: answer"
    )


def _answer(row: Any, where: str) -> str:
    if isinstance(row, dict):
        names = [name for name in row if name.strip().lower() == "answer"]
        if len(names) != 1:
            raise ValueError(f"{where} has no column answer, but {', '.join(row)}; rename the right one to answer.")
        row = row[names[0]]
    if not isinstance(row, str) or not row.strip() or is_written_list(row):
        raise ValueError(f'{where}: the answer is {row!r:.60}; expected a text that is not empty, such as "two".')
    return row


def read_question_types(path: str | os.PathLike) -> dict[Any, int | str]:
    """Reads the type of each question, by question id, from a JSON list or JSON lines of `{"question_id", "type"}`,
    such as `test_a.json` of ActivityNet-QA.

    Raises:
        ValueError: the file does not exist, or a row lacks one of the two fields, an integer or a text each.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"The list of question types {path} does not exist; check the path.")
    types = {}
    for where, row in json_rows(path):
        if not isinstance(row, dict) or not all(_is_key(row.get(name)) for name in ("question_id", "type")):
            raise ValueError(
                f"{path} must be a JSON list of objects with a question_id and a type, an integer or a text each; "
                f"{where} is {row!r:.80}."
            )
        if types.setdefault(row["question_id"], row["type"]) != row["type"]:
            raise ValueError(f"{path}, {where}: the question {row['question_id']!r:.60} has two types; remove one.")
    return types


def type_name(kind: int | str) -> str:
    """Name of a question type; an integer, also as text, is a type of ActivityNet-QA."""
    text = " ".join(str(kind).split())
    if text.isdecimal() and int(text) < len(ACTIVITYNET_TYPES):
        return ACTIVITYNET_TYPES[int(text)]
    return text
