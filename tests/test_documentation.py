"""The documentation keeps its promises: a short README, links and paths that exist, commands and code that parse."""

import ast
import re
import shlex
from pathlib import Path

import pytest

from umt_training.cli import COMMANDS, main
from umt_training.runs.recipes import recipe_names

REPOSITORY = Path(__file__).parents[1]
README = REPOSITORY / "README.md"
GUIDES = sorted((REPOSITORY / "docs").glob("*.md"))
PAGES = [README, REPOSITORY / "CONTRIBUTING.md", REPOSITORY / "CHANGELOG.md", *GUIDES]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def code_blocks(page: Path, language: str) -> list[str]:
    return [block for name, block in FENCED.findall(page.read_text()) if name == language]


def umt_commands(page: Path) -> list[list[str]]:
    """The arguments of every `umt` command in the shell blocks of a page, but for those cut short by `...`."""
    lines = "".join(code_blocks(page, "bash")).replace("\\\n", " ").replace("$(which umt)", "umt").splitlines()
    found = []
    for line in lines:
        words = shlex.split(line, comments=True)
        if "umt" in words and "..." not in words:
            found.append(words[words.index("umt") + 1 :])
    return found


def heading_anchors(page: Path) -> list[str]:
    """Anchors of a page's headings, as GitHub builds them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]


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


@pages
def test_commands_are_commands(page, monkeypatch):
    for command in COMMANDS:
        monkeypatch.setattr(f"umt_training.cli.{command.replace('-', '_')}.run", lambda args: 0)
    for arguments in umt_commands(page):
        try:
            assert main(arguments) == 0
        except SystemExit as error:
            raise AssertionError(f"umt {shlex.join(arguments)}") from error
        if "--config" in arguments:
            recipe = arguments[arguments.index("--config") + 1]
            assert recipe in recipe_names() or recipe.endswith(".yaml"), recipe


@pages
def test_python_code_parses(page):
    for block in code_blocks(page, "python"):
        ast.parse(block, page.name)


LAUNCHERS = {"num_processes", "num_machines", "multi_gpu", "machine_rank", "main_process_ip", "main_process_port"}


@pytest.mark.parametrize(
    "file", [*PAGES, *sorted(REPOSITORY.glob("training/recipes/*.yaml"))], ids=lambda file: file.name
)
def test_options_are_spelled_with_dashes(file):
    """Both spellings work; documents show one. The options of accelerate are its own."""
    found = set(re.findall(r"(?<![\w-])--([a-z0-9]+(?:_[a-z0-9]+)+)", file.read_text(encoding="utf-8")))
    assert found <= LAUNCHERS


def test_the_index_lists_every_guide():
    linked = set(re.findall(r"\]\((\w+\.md)\)", (REPOSITORY / "docs" / "README.md").read_text()))
    assert linked == {guide.name for guide in GUIDES} - {"README.md"}
