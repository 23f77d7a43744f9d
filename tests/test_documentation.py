"""The documentation keeps its promises: a short README, links and paths that exist.

Its code is run by test_documented_code.py."""

import re
from pathlib import Path

import pytest
from markdown_code import FENCED

REPOSITORY = Path(__file__).parents[1]
README = REPOSITORY / "README.md"
GUIDES = sorted((REPOSITORY / "docs").rglob("*.md"))
PAGES = [README, REPOSITORY / "CONTRIBUTING.md", REPOSITORY / "CHANGELOG.md", *GUIDES]

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))


def heading_anchors(page: Path) -> list[str]:
    """Anchors of a page's headings, as GitHub builds them, and those of the names that a page of the reference has."""
    text = page.read_text()
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    documented = re.findall(r"^::: (\S+)", text, re.MULTILINE)
    return documented + [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]


def test_the_readme_is_short():
    text = README.read_text()
    assert len(text.splitlines()) <= 150
    for paragraph in re.split(r"\n\s*\n", FENCED.sub("", text)):
        lines = [line for line in paragraph.splitlines() if line and not line.startswith(("|", "#", "<!--"))]
        assert len(lines) <= 3 and max(map(len, lines), default=0) <= 119, paragraph


@pages
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        if not target.startswith("http"):
            assert linked.exists(), target
            assert not anchor or anchor in heading_anchors(linked), target


@pages
def test_files_that_are_named_exist(page):
    folders = "modeling_umt|processing_umt|training|tests|benchmarks|examples|model_cards|docs"
    for path in re.findall(rf"(?<![\w/])(?:{folders})/[\w./-]+\.(?:py|yaml|md|json|txt|png)\b", page.read_text()):
        assert "NAME" in path or (REPOSITORY / path).exists(), path


LAUNCHERS = {"num_processes", "num_machines", "multi_gpu", "machine_rank", "main_process_ip", "main_process_port"}


@pytest.mark.parametrize(
    "file", [*PAGES, *sorted(REPOSITORY.glob("training/recipes/*.yaml"))], ids=lambda file: file.name
)
def test_options_are_spelled_with_dashes(file):
    """Both spellings work; documents show one. The options of accelerate are its own."""
    found = set(re.findall(r"(?<![\w-])--([a-z0-9]+(?:_[a-z0-9]+)+)", file.read_text(encoding="utf-8")))
    assert found <= LAUNCHERS


def test_the_index_lists_every_guide():
    linked = re.findall(r"\]\(([\w/]+\.md)\)", (REPOSITORY / "docs" / "README.md").read_text())
    pages = {str(guide.relative_to(REPOSITORY / "docs")) for guide in GUIDES} - {"README.md"}
    assert sorted(linked) == sorted(page for page in pages if not page.startswith("reference/"))
