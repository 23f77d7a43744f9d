"""Docstrings in the form of Transformers, for mkdocstrings: `` [`Name`] `` is a link to what is documented under this
name, and the types of arguments are written between backticks.
"""

import re
from pathlib import Path

from griffe import Alias, Extension, GriffeLoader, Module, Object

REFERENCE = re.compile(r"\[(`~?(?P<name>[\w.]+)`)\](?![\[(])")
# the type of an argument in parentheses, with its default
TYPE = re.compile(r"^(?P<start>\s+\w+ )\((?P<type>(?:[^()]|\([^()]*\))*)\)(?=:)", re.MULTILINE)
DIRECTIVE = re.compile(r"^::: (\S+)", re.MULTILINE)
REFERENCE_PAGES = Path(__file__).resolve().parents[1] / "docs" / "reference"


class TransformersDocstrings(Extension):
    """Rewrites the docstrings of a package when it has been loaded, before they are parsed."""

    def on_package(self, *, pkg: Module, loader: GriffeLoader, **kwargs) -> None:
        rewrite(pkg, documented_names(), set())


def documented_names() -> dict[str, str]:
    """Name → path of everything that the pages of the reference document."""
    paths = [path for page in REFERENCE_PAGES.glob("*.md") for path in DIRECTIVE.findall(page.read_text("utf-8"))]
    return {path.rpartition(".")[2]: path for path in paths}


def rewrite(found: Object | Alias, names: dict[str, str], seen: set[str]) -> None:
    if found.is_alias or found.path in seen:
        return
    seen.add(found.path)
    if found.docstring is not None:
        found.docstring.value = rewrite_text(found.docstring.value, names)
    for member in found.members.values():
        rewrite(member, names, seen)


def rewrite_text(text: str, names: dict[str, str]) -> str:
    def link(match: re.Match) -> str:
        path = names.get(match["name"].partition(".")[0])
        if path is None:
            return f"`{match['name']}`"
        rest = match["name"].partition(".")[2]
        return f"[`{match['name']}`][{path}{'.' + rest if rest else ''}]"

    text = TYPE.sub(lambda match: f"{match['start']}({plain_type(match['type'])})", text)
    return REFERENCE.sub(link, separate_lists(text))


def plain_type(text: str) -> str:
    """A type without markup, because it is shown as code."""
    return text.replace("`", "").replace("*optional*", "optional")


def separate_lists(text: str) -> str:
    """The text with an empty line before each list, without which Markdown continues the paragraph."""
    lines: list[str] = []
    for line in text.splitlines():
        before = lines[-1] if lines else ""
        is_first = line.lstrip().startswith("- ") and not before.lstrip().startswith("- ")
        if is_first and before.strip() and indent_of(before) <= indent_of(line):
            lines.append("")
        lines.append(line)
    return "\n".join(lines)


def indent_of(line: str) -> int:
    return len(line) - len(line.lstrip())
