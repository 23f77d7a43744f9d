"""The page of a run: well-formed, escaped, self-contained, with existing pictures."""

import re
from html.parser import HTMLParser
from urllib.parse import unquote

import pytest
from PIL import Image

from umt_training.pictures.run_page import Code, Picture, Section, Table, Text, write_page

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Parses a page into tags with attributes and texts, and checks that tags are closed in order."""

    def __init__(self, content: str):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.texts = [], [], []
        self.feed(content)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "pictures & more").mkdir()
    Image.new("RGB", (30, 20)).save(tmp_path / "pictures & more" / "mask #1.png")
    Image.new("RGB", (7, 9)).save(tmp_path / "curves.png")
    return tmp_path


@pytest.fixture
def page(folder):
    nasty = '<script>alert("1")</script> & "quotes"'
    sections = [
        Section("First " + nasty, [Text(nasty), Code("umt demo --seeds 3 > log\nls")]),
        Section(
            "Results",
            [
                Table(("arm", "top-1", "spread"), [(nasty, 87.5, "± 3"), ("chance", 12.5, "")], caption=nasty),
                Picture(folder / "pictures & more" / "mask #1.png", caption=nasty),
                Picture(folder / "curves.png", caption="Loss"),
            ],
        ),
        Section("Empty"),
    ]
    path = write_page(folder / "index.html", "Run " + nasty, sections)
    return path.read_text(encoding="utf-8"), nasty


def test_it_parses_and_all_text_is_escaped(page):
    content, nasty = page
    parsed = Page(content)
    assert not parsed.all("script") and content.startswith("<!DOCTYPE html>")
    text = "".join(parsed.texts)
    assert text.count(nasty) == 7  # title twice, heading, paragraph, cell, two captions
    assert "umt demo --seeds 3 > log\nls" in text
    assert [len(parsed.all(tag)) for tag in ("h1", "h2", "table", "tr", "td", "pre", "section")] == [
        1,
        3,
        1,
        3,
        6,
        1,
        3,
    ]


def test_columns_of_numbers_are_right_aligned(page):
    cells = [attributes.get("class") for attributes in Page(page[0]).all("td")]
    assert cells == [None, "number", "number"] * 2


def test_pictures_exist_and_have_size_and_alternative_text(page, folder):
    content, nasty = page
    parsed = Page(content)
    images = parsed.all("img")
    assert len(images) == 2 and [link["href"] for link in parsed.all("a")] == [image["src"] for image in images]
    for image in images:
        path = folder / unquote(image["src"])
        assert not image["src"].startswith(("/", "file:")) and path.is_file()
        with Image.open(path) as picture:
            assert picture.size == (int(image["width"]), int(image["height"]))
    assert [image["alt"] for image in images] == [nasty, "Loss"]


def test_it_makes_no_external_requests(page):
    """No external addresses in markup or style; it adapts to small screens and dark mode."""
    content, _ = page
    assert not re.search(r"https?:|//|url\(|@import", content.replace("<!DOCTYPE html>", ""))
    assert "prefers-color-scheme: dark" in content and 'name="viewport"' in content and "max-width: 100%" in content


def test_mistakes_are_errors_and_leave_no_page(tmp_path):
    for part, error in (
        (Picture(tmp_path / "none.png", "nothing"), FileNotFoundError),
        (Table(("a", "b"), [(1, 2, 3)]), ValueError),
    ):
        with pytest.raises(error, match=r"none\.png|3 cells, \[1, 2, 3\], but its header has 2"):
            write_page(tmp_path / "index.html", "Run", [Section("Results", [part])])
    assert not list(tmp_path.iterdir())
