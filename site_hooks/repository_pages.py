"""Links of the documentation to other files of the repository, which GitHub resolves and a site does not.

Each file that is linked, directly or by another one, becomes a page below `repository/`: Markdown and notebooks as
they are, other text as a block of code, a folder as its README or the list of its Markdown files. Links between pages
are rewritten to the places where the pages are in the site.
"""

import json
import os
import re
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

REPOSITORY = Path(__file__).resolve().parents[1]
DOCS = "docs"
PLACE = "repository"  # folder of the pages in the site
LINK = re.compile(r"(?<=\]\()(?P<path>[^)\s#]+)(?P<anchor>#[^)\s]*)?(?=\))")
CODE = re.compile(r"^(?:```|~~~).*?^(?:```|~~~)", re.MULTILINE | re.DOTALL)
NOT_SEARCHED = "---\nsearch:\n  exclude: true\n---\n\n"
LANGUAGES = {".py": "python", ".yaml": "yaml", ".json": "json"}


def linked_path(page: PurePosixPath, target: str) -> PurePosixPath | None:
    """The path in the repository that a link of a page leads to; None for addresses and paths outside of it."""
    if "://" in target or target.startswith(("mailto:", "/")):
        return None
    path = PurePosixPath(os.path.normpath(page.parent / target))
    return None if path.parts[:1] == ("..",) else path


def place_of(path: PurePosixPath) -> str:
    """Where the site has the page of a file or a folder of the repository."""
    if path.parts[0] == DOCS:
        return str(path.relative_to(DOCS))
    if (REPOSITORY / path).is_dir():
        return f"{PLACE}/{path}/README.md"
    return f"{PLACE}/{path}" if path.suffix == ".md" else f"{PLACE}/{path}.md"


def rewrite_links(markdown: str, page: PurePosixPath) -> str:
    """The text of a page of the repository with links to the places of the site."""
    here = PurePosixPath(place_of(page)).parent

    def rewrite(link: re.Match) -> str:
        path = linked_path(page, link["path"])
        if path is None or (page.parts[0] == path.parts[0] == DOCS):
            return link[0]
        return os.path.relpath(place_of(path), here) + (link["anchor"] or "")

    parts, end = [], 0
    for code in CODE.finditer(markdown):
        parts += [LINK.sub(rewrite, markdown[end : code.start()]), code[0]]
        end = code.end()
    return "".join([*parts, LINK.sub(rewrite, markdown[end:])])


def text_of(path: PurePosixPath) -> str:
    """The Markdown of the page of a file or a folder, with the links of the repository."""
    file = REPOSITORY / path
    if file.is_dir():
        if (file / "README.md").is_file():
            return (file / "README.md").read_text(encoding="utf-8")
        names = sorted(child.name for child in file.glob("*.md"))
        return "\n".join([f"# {path}", "", *(f"- [{name}]({name})" for name in names), ""])
    text = file.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return text
    if path.suffix == ".ipynb":
        return text_of_notebook(json.loads(text))
    return f"# {path}\n\n````{LANGUAGES.get(path.suffix, 'text')}\n{text}````\n"


def text_of_notebook(notebook: dict) -> str:
    """The cells of a notebook: text as it is, code as blocks."""
    cells = (("".join(cell["source"]), cell["cell_type"]) for cell in notebook["cells"])
    return "\n\n".join(text if kind == "markdown" else f"```python\n{text}\n```" for text, kind in cells) + "\n"


def links_of(page: PurePosixPath, text: str) -> list[PurePosixPath]:
    """Files and folders outside of docs/ that a page links."""
    # links of a folder are relative to the files in it
    start = page / "README.md" if (REPOSITORY / page).is_dir() else page
    paths = [linked_path(start, link["path"]) for link in LINK.finditer(CODE.sub("", text))]
    return [path for path in paths if path is not None and path.parts[0] != DOCS and (REPOSITORY / path).exists()]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds a page for each linked file outside of docs/."""
    to_read = [PurePosixPath("CHANGELOG.md")]
    for file in files.documentation_pages():
        if file.generated_by is None:
            to_read += links_of(PurePosixPath(DOCS, file.src_uri), file.content_string)
    added = set()
    while to_read:
        path = to_read.pop()
        place = place_of(path)
        if place in added:
            continue
        added.add(place)
        text = text_of(path)
        if path.suffix in (".md", ".ipynb") or (REPOSITORY / path).is_dir():
            to_read += links_of(path, text)
            start = path / "README.md" if (REPOSITORY / path).is_dir() else path
            text = rewrite_links(text, start)
        header = "" if text.startswith("---\n") or path.name == "CHANGELOG.md" else NOT_SEARCHED
        files.append(File.generated(config, place, content=header + text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    if page.file.generated_by is not None:
        return markdown
    return rewrite_links(markdown, PurePosixPath(DOCS, page.file.src_uri))
