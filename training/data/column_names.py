"""Names of the columns of a table of videos: those of this package, and others that are read as the same.

Columns are recognised in any case, with spaces or hyphens instead of underscores (`File Name`). Of the groups below,
earlier ones have priority. Two columns of videos in one group are an error: each could be meant. So are `label` and
`labels` where labels are needed; two other columns of one group are left as they are. A column that the caller
selects (`columns=`) comes before all of them.
"""

import numbers
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from datasets import ClassLabel, List, Value

VIDEO_NAMES = (
    ("video",),
    ("video_path", "video_file", "video_file_name", "video_filename"),
    ("path", "file_path", "filepath", "file_name", "filename", "file"),
    ("image",),
)
LABEL_NAMES = (("label", "labels"), ("class", "class_name", "label_name", "category", "action"))
CAPTION_NAMES = (("caption",), ("captions",), ("text", "sentence", "description"))
_OPTIONAL_NAMES = {
    "label": LABEL_NAMES,
    "caption": CAPTION_NAMES,
    "question": (("question",),),
    "answer": (("answer",),),
    "question_id": (("question_id",),),
}
TEXT_COLUMNS = ("caption", "question", "answer", "question_id", "type")  # that retrieval and question answering read


def accepted_names(groups: Iterable[Iterable[str]]) -> str:
    """All names of a kind of column, for an error."""
    return ", ".join(name for group in groups for name in group)


def is_video_column(name: str) -> bool:
    """Whether a column of this name may be that of the videos."""
    return any(_normalize(name) in group for group in VIDEO_NAMES)


def find_video_column(names: Iterable[str], source: str) -> str | None:
    """The column of videos, by its name; None if there is none.

    Raises:
        ValueError: several columns could be meant.
    """
    for group in VIDEO_NAMES:
        found = [name for name in names if _normalize(name) in group]
        if len(found) > 1:
            raise ValueError(
                f"{source} has the columns {' and '.join(found)}, each of which may contain the videos. Rename the "
                "right one to video."
            )
        if found:
            return found[0]
    return None


def no_video_column(source: str, names: Iterable[str], number: str = "no column") -> ValueError:
    """The error of a table without a column of videos, or with several."""
    return ValueError(
        f"{source} has {number} of videos; its columns are {', '.join(map(str, names))}. Rename one of them to video "
        f"(also read: {accepted_names(VIDEO_NAMES[1:])}), or, in Python, select it with load_video_records(…, "
        "columns={'video': …})."
    )


def select_names(names: Sequence[str], columns: Mapping[str, str], source: str) -> dict[str, str]:
    """New names of the columns that are kept where the caller selects some of them.

    Args:
        names: Names in the source.
        columns: New name → name in the source. All are renamed at once, so that two names may be exchanged. A column
            that has one of the new names and is not selected itself is left out.
        source: Name of the data, for the error.

    Returns:
        Name in the source → new name, in the order of `names`.

    Raises:
        ValueError: a selected column does not exist, or is selected twice.
    """
    new_names: dict[str, str] = {}
    for name, found in columns.items():
        if found not in names:
            raise ValueError(f"{source} has no column {found!r}; it has {', '.join(map(str, names))}.")
        if found in new_names:
            raise ValueError(
                f"The column {found!r} of {source} is selected as {new_names[found]} and as {name}; select it once."
            )
        new_names[found] = name
    return {name: new_names.get(name, name) for name in names if name in new_names or name not in columns}


def standard_names(kinds: Mapping[str, Any], selected: Collection[str]) -> dict[str, str]:
    """New names of all columns, where labels, captions, questions and answers have the names of this package.

    Args:
        kinds: Name of each column → its type in `datasets`, or its value in a row of a table without types. A column
            with another name than `label` or `caption` is only read as such if its type fits: one value per video
            for labels, texts or lists of texts for captions.
        selected: Names that the caller has given to columns; they are final.
    """
    new_names = {name: name for name in kinds}
    free = [name for name in kinds if name not in selected]
    for standard, groups in _OPTIONAL_NAMES.items():
        for group in () if standard in selected else groups:
            found = [name for name in free if _is_one_of(name, kinds[name], standard, group)]
            if len(found) == 1:
                new_names[found[0]] = standard
            if found:
                break
    return new_names


def check_one_label(kinds: Mapping[str, Any], source: str) -> None:
    """Raises a ValueError if several columns are named like `label` and have one value per video."""
    found = [name for name in kinds if _is_one_of(name, kinds[name], "label", LABEL_NAMES[0])]
    if len(found) > 1:
        raise ValueError(
            f"{source} has the columns {' and '.join(found)}, each of which may be the label. Remove all but one, or, "
            "in Python, select it with load_video_records(…, columns={'label': …})."
        )


def rename_row(row: Mapping[str, Any], new_names: Mapping[str, str]) -> dict[str, Any]:
    """A row with the columns `new_names` (name → new name) only."""
    return {new: row[name] for name, new in new_names.items() if name in row}


def _normalize(name: str) -> str:
    """A column name in lower case, with underscores instead of spaces and hyphens."""
    return re.sub(r"[\s-]+", "_", str(name).strip().lower())


def _is_one_of(name: str, kind: Any, standard: str, group: Collection[str]) -> bool:
    """Whether a column has a name of the group, and a type or value that can be the label (one value) or texts."""
    if _normalize(name) not in group:
        return False
    if name == standard or kind is None:  # a row without it
        return True
    if standard == "label":
        return isinstance(kind, (ClassLabel, Value, str, numbers.Real))
    if isinstance(kind, (List, list)):
        kind = kind.feature if isinstance(kind, List) else next(iter(kind), "")
    return isinstance(kind, str) or (isinstance(kind, Value) and "string" in kind.dtype)
