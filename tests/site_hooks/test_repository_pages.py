"""Links of the documentation to files of the repository lead to pages of the site."""

import sys
from pathlib import Path, PurePosixPath

import pytest

pytest.importorskip("mkdocs")

sys.path.insert(0, str(Path(__file__).parents[2] / "site_hooks"))
import repository_pages


@pytest.mark.parametrize(
    ("page", "link", "expected"),
    [
        ("docs/search.md", "data.md#sources", "data.md#sources"),
        ("docs/search.md", "https://arxiv.org/abs/1", "https://arxiv.org/abs/1"),
        ("docs/search.md", "#limits", "#limits"),
        ("docs/search.md", "../examples/stage1.py", "repository/examples/stage1.py.md"),
        ("docs/search.md", "../benchmarks/results", "repository/benchmarks/results/README.md"),
        ("docs/tutorials/labels.md", "../../CHANGELOG.md#a", "../repository/CHANGELOG.md#a"),
        ("model_cards/README.md", "b16_25m/README.md", "b16_25m/README.md"),
        ("model_cards/README.md", "../docs/models.md", "../../models.md"),
        ("notebooks/finetuning.ipynb", "../docs/tutorials/publish.md", "../../tutorials/publish.md"),
    ],
)
def test_a_link_leads_to_the_place_of_its_file(page, link, expected):
    rewritten = repository_pages.rewrite_links(f"see [this]({link}).", PurePosixPath(page))
    assert rewritten == f"see [this]({expected})."


def test_links_in_code_are_not_links():
    code = "```markdown\n[a](../examples/stage1.py)\n```\n"
    page = PurePosixPath("docs/search.md")
    assert repository_pages.rewrite_links(code, page) == code
    assert repository_pages.links_of(page, code) == []


def test_a_file_that_is_not_markdown_is_shown_as_code():
    text = repository_pages.text_of(PurePosixPath("examples/stage1.py"))
    assert text.startswith("# examples/stage1.py\n\n````python\n") and text.endswith("````\n")


def test_a_notebook_is_shown_as_text_and_code():
    text = repository_pages.text_of(PurePosixPath("notebooks/finetuning.ipynb"))
    assert text.startswith("# Fine-tuning\n") and "```python\nfrom umt_training import finetune\n" in text
