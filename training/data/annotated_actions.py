"""Annotated actions of any source, with the names of their classes."""

from dataclasses import dataclass

from .ava_csv import ActionTable


@dataclass(frozen=True, eq=False)
class AnnotatedActions:
    """Annotated actions as a table, with what was left out of it.

    Args:
        table: rows of person and action.
        label_map: action id, from 1 → name of the class.
        num_empty_rows: number of key frames of own data left out because no person on them has categories.
        num_empty_persons: number of persons without categories, left out of other key frames.
    """

    table: ActionTable
    label_map: dict[int, str]
    num_empty_rows: int = 0
    num_empty_persons: int = 0
