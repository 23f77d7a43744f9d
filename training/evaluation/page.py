"""The HTML page of an evaluation, `index.html` in its folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..pictures.run_page import Code, Link, Section, Table, write_page

PAGE = "index.html"
MOST_SKIPPED = 50  # videos in the table


def write_evaluation_page(
    folder: Path, title: str, results: Mapping[str, Any], table: Sequence[str], sections: Sequence[Section], next: str
) -> Path:
    """Writes the page: results, the task's sections, skipped videos, settings, files, commands.

    Args:
        folder: Folder of the results, which has the other files already.
        title: Title of the page.
        results: Content of `results.json`.
        table: The printed lines.
        sections: The sections of the task.
        next: Suggested commands.
    """
    skipped = results["dataset"]["skipped"]
    parts = [Section("Result", [Code("\n".join(table))]), *sections]
    if skipped:
        rows = [(video["video"], video["reason"]) for video in skipped[:MOST_SKIPPED]]
        caption = f"The first {len(rows)} of {len(skipped)}." if len(skipped) > len(rows) else None
        parts.append(Section("Videos that can't be read", [Table(("video", "reason"), rows, caption)]))
    parts += [
        Section("Settings", [Table(("setting", "value"), settings(results))]),
        Section("Files", [Table(("file",), [[Link(path.name, path)] for path in files(folder)])]),
        Section("Next", [Code(next)]),
    ]
    return write_page(folder / PAGE, title, parts)


def settings(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Rows of the table of settings; values that are not set are left out."""
    rows = {}
    for part in ("model", "dataset", "protocol", "versions"):
        for name, value in results[part].items():
            if name != "skipped" and value not in (None, {}, []):
                rows[f"{part}: {name.replace('_', ' ')}"] = as_text(value)
    return [*rows.items(), ("date", results["date"])]


def as_text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {as_text(part)}" for name, part in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(as_text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file() and path.name != PAGE)
