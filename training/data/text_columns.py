"""Columns of texts: captions, questions and answers, a text or a list of texts in each row of a table.

A value that can't be meant as a text is an error that names the table, the row (from 0) and the video. Whether a model
can tell the texts apart is another question, see `processing_umt/text_inspection_umt.py`.
"""

import ast
import json
import sys
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
from datasets import Dataset

from processing_umt.text_inspection_umt import TextCounts

from ..terminal import printable
from .video_dataset import video_name

_ROWS_AT_ONCE = 100_000


def check_texts(table: Dataset, column: str, source: str, lists: bool = True) -> None:
    """Checks that all values of a column are texts.

    Args:
        table: a table with `video` and the column.
        column: its name, for example `caption`.
        source: name of the table, for the error.
        lists: whether a row may have a list of at least one text.

    Raises:
        ValueError: a value is missing, is not a text, has nothing but white space, is an empty list, or is a list that
            was written as text, as pandas writes the lists of a column to CSV.
    """
    rows_done = 0
    for batch in table.select_columns([column]).with_format("arrow").iter(_ROWS_AT_ONCE):
        values = batch[column].combine_chunks()
        texts, rows = values, np.arange(len(values))
        if is_list_type(values.type):
            lengths = pa.compute.list_value_length(values).fill_null(0).to_numpy(zero_copy_only=False)
            texts, rows = values.flatten(), np.repeat(rows, lengths)
            if not lengths.all():
                raise _error(table, column, source, rows_done + int(np.argmin(lengths != 0)), lists)
        is_odd = _odd_texts(texts) if lists or texts is values else np.ones(len(texts), dtype=bool)
        if is_odd.any():
            raise _error(table, column, source, rows_done + int(rows[np.argmax(is_odd)]), lists)
        rows_done += len(values)


def note_texts(counts: TextCounts, name: str, is_main_process: bool = True) -> None:
    """Prints, on stderr, how many texts a model can't read completely or tell apart; nothing if there are none.

    Args:
        counts: result of `UMTProcessor.inspect_texts` or `inspect_answers`.
        name: what the texts are, such as "captions of test.json".
        is_main_process: False only checks the texts.

    Raises:
        ValueError: none of the texts can be meant, see `TextCounts.require_meaning`.
    """
    counts.require_meaning(name)
    line = counts.describe(name)
    if line is not None and is_main_process:
        print(f"note: {printable(line)}", file=sys.stderr, flush=True)


def is_list_type(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def is_written_list(text: str) -> bool:
    """Whether a text is a Python or JSON list."""
    if not text.lstrip().startswith("["):
        return False
    for parse in (ast.literal_eval, json.loads):
        try:
            return isinstance(parse(text.strip()), list)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
    return False


def _odd_texts(texts: pa.Array) -> np.ndarray:
    """bool `(texts,)`, True for values that can't be meant as texts."""
    if not pa.types.is_string(texts.type) and not pa.types.is_large_string(texts.type):
        return np.ones(len(texts), dtype=bool)
    is_empty = pa.compute.equal(pa.compute.utf8_trim_whitespace(texts), "").fill_null(True)
    is_odd = is_empty.to_numpy(zero_copy_only=False).copy()
    in_brackets = pa.compute.match_substring_regex(texts, r"(?s)^\s*\[.*\]\s*$").fill_null(False)
    for index in np.flatnonzero(in_brackets.to_numpy(zero_copy_only=False)):
        is_odd[index] = is_written_list(texts[int(index)].as_py())
    return is_odd


def _error(table: Dataset, column: str, source: str, row: int, lists: bool) -> ValueError:
    record = table[row]
    value: Any = record[column]
    where = f"{video_name(record['video']) or 'A video'}, row {row} of {source}, has"
    expected = "texts or lists of texts" if lists else "texts"
    if value is None or value == [] or (isinstance(value, str) and not value.strip()):
        return ValueError(f"{where} no {column}; expected {expected}. Add it, or remove the row.")
    if isinstance(value, str):
        return ValueError(
            f"{where} a list that was written as text as its {column}: {value:.80}. Write a row for each text, or a "
            "JSON file, in which a value may be a list."
        )
    return ValueError(f"{where} the {column} {value!r:.80}; expected {expected}, none of them missing or empty.")
