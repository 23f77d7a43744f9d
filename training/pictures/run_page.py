"""An HTML page that shows the results of a run: text, tables, commands and pictures.

The page is a single file with inline style, without scripts and external requests. Pictures are separate files with
relative paths, so the folder can be moved, archived or served unchanged.
"""

import html
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from PIL import Image

from ..atomic_files import atomic_write


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Code:
    """Commands or code."""

    text: str


@dataclass(frozen=True)
class Link:
    """A link to a file; as the cell of a table, or on a picture.

    Args:
        text: Text of a cell.
        path: Path of the file; the page contains it relative to its own folder.
        fragment: Part of the file, such as `t=12,20` for the seconds of a video.
    """

    text: str
    path: str | os.PathLike
    fragment: str = ""

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Table:
    """A table; cells are links or converted by `str`, and columns of only numbers and empty cells are right-aligned.

    Args:
        header: Names of the columns.
        rows: Rows with a cell for each column.
        caption (*optional*): Text below the table.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[Any]]
    caption: str | None = None


@dataclass(frozen=True)
class Picture:
    """An existing picture file, preferably in the folder of the page or below.

    Args:
        path: Path of the file.
        caption: Text below the picture, and its alternative text.
        link (*optional*): What a click opens; by default the picture in full size.
    """

    path: str | os.PathLike
    caption: str
    link: Link | None = None


@dataclass
class Section:
    """A heading and the elements below it, in order."""

    heading: str
    parts: list[Text | Code | Table | Picture] = field(default_factory=list)


def write_page(path: str | os.PathLike, title: str, sections: Sequence[Section]) -> Path:
    """Write a page atomically. All text is escaped.

    Args:
        path: Path of the page, such as `folder/index.html`.
        title: Heading and title of the page.
        sections: Sections of the page, in order.

    Raises:
        FileNotFoundError: if a picture does not exist.
        ValueError: if a row of a table and its header have different numbers of cells.
    """
    path = Path(path)
    body = "\n".join(_section(section, path.parent) for section in sections)
    content = _PAGE.format(title=html.escape(title), style=_STYLE, body=body)
    with atomic_write(path) as temporary:
        temporary.write_text(content, encoding="utf-8")
    return path


def _section(section: Section, folder: Path) -> str:
    parts = []
    for part in section.parts:
        if isinstance(part, Text):
            parts.append(f"<p>{html.escape(part.text)}</p>")
        elif isinstance(part, Code):
            parts.append(f"<pre><code>{html.escape(part.text)}</code></pre>")
        elif isinstance(part, Table):
            parts.append(_table(part, folder))
        else:
            parts.append(_picture(part, folder))
    return "\n".join(["<section>", f"<h2>{html.escape(section.heading)}</h2>", *parts, "</section>"])


def _table(table: Table, folder: Path) -> str:
    width = len(table.header)
    for row in table.rows:
        if len(row) != width:
            raise ValueError(f"A row of a table has {len(row)} cells, {list(row)}, but its header has {width}.")
    numeric = [all(_is_number(row[column]) for row in table.rows) for column in range(width)]

    def cells(values: Sequence[Any], tag: str) -> str:
        kinds = (' class="number"' if right else "" for right in numeric)
        return "".join(f"<{tag}{kind}>{cell(value)}</{tag}>" for value, kind in zip(values, kinds, strict=True))

    def cell(value: Any) -> str:
        text = html.escape(str(value))
        return f'<a href="{_address(value, folder)}">{text}</a>' if isinstance(value, Link) else text

    lines = [f"<thead><tr>{cells(table.header, 'th')}</tr></thead>", "<tbody>"]
    lines += [f"<tr>{cells(row, 'td')}</tr>" for row in table.rows]
    caption = f"<figcaption>{html.escape(table.caption)}</figcaption>" if table.caption else ""
    return "\n".join(['<figure><div class="wide"><table>', *lines, f"</tbody></table></div>{caption}</figure>"])


def _is_number(value: Any) -> bool:
    """Whether a cell starts with a number, such as `12.5 ± 0.3` or `12 s`, or is empty."""
    return not str(value) or str(value).lstrip("+-−± ").replace(".", "", 1)[:1].isdigit()


def _picture(picture: Picture, folder: Path) -> str:
    """A picture, which is a link to its file in full size, or to another file."""
    with Image.open(picture.path) as image:
        width, height = image.size
    address = _address(Link("", picture.path), folder)
    target = address if picture.link is None else _address(picture.link, folder)
    caption = html.escape(picture.caption)
    return (
        f'<figure><a href="{target}"><img src="{address}" width="{width}" height="{height}" alt="{caption}"></a>'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _address(link: Link, folder: Path) -> str:
    """The address of a file relative to the folder of the page."""
    fragment = f"#{link.fragment}" if link.fragment else ""
    return html.escape(quote(Path(os.path.relpath(link.path, folder)).as_posix()) + fragment)


_STYLE = """
:root { color-scheme: light dark; --ink: #222; --faint: #666; --paper: #fff; --line: #ddd; --code: #f4f4f2 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #ddd; --faint: #999; --paper: #16181b; --line: #3a3d42; --code: #22252a }
}
* { box-sizing: border-box }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 62rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, sans-serif; overflow-wrap: break-word }
h1 { font-size: 1.6rem; line-height: 1.25 }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .75rem; padding-bottom: .25rem; border-bottom: 1px solid var(--line) }
p { max-width: 46rem }
figure { margin: 1.25rem 0 }
figcaption { margin-top: .5rem; color: var(--faint); font-size: .875rem; max-width: 46rem }
img { max-width: 100%; height: auto; background: #fff; border: 1px solid var(--line); border-radius: 4px }
.wide, pre { overflow-x: auto }
table { border-collapse: collapse; font-size: .9375rem; font-variant-numeric: tabular-nums }
th, td { padding: .35rem .9rem .35rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line) }
.number { text-align: right; white-space: nowrap }
pre { padding: .75rem 1rem; background: var(--code); border-radius: 4px; font-size: .875rem; line-height: 1.45 }
"""

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""
