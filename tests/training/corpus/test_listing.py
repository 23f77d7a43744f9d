"""Inputs of commands as lists of videos."""

import json
from pathlib import Path

import fsspec
import pytest
from pyarrow import parquet, table

from umt_training.corpus.listing import list_videos


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("videos/b.mp4", "videos/a.MKV", "videos/deep/c.mp4", "videos/.hidden/d.mp4", "videos/notes.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (["videos"], ["videos/a.MKV", "videos/b.mp4", "videos/deep/c.mp4"]),
        (["videos/*.mp4"], ["videos/b.mp4"]),
        (["videos/**/*"], ["videos/a.MKV", "videos/b.mp4", "videos/deep/c.mp4"]),
        (["videos/?.mp4", "videos/deep"], ["videos/b.mp4", "videos/deep/c.mp4"]),
        (["missing.mp4", "videos/notes.md"], ["missing.mp4", "videos/notes.md"]),
        (["https://example.org/a?b=*.mp4"], ["https://example.org/a?b=*.mp4"]),
        (["s3://bucket/deep/a.mp4"], ["s3://bucket/deep/a.mp4"]),  # not looked up
    ],
)
def test_files_folders_patterns_and_urls(folder, inputs, expected):
    assert list_videos(inputs) == expected


def test_a_file_with_the_characters_of_a_pattern_is_that_file(folder):
    (folder / "take [1].mp4").touch()
    assert list_videos(["take [1].mp4"]) == ["take [1].mp4"]


def test_lists_and_tables_are_relative_to_their_folder(folder):
    names = ["b.mp4", "deep/c.mp4"]
    (folder / "videos" / "list.txt").write_text("\n".join(names))
    (folder / "videos" / "list.csv").write_text("path,label\nb.mp4,1\ndeep/c.mp4,a\n")
    (folder / "videos" / "list.jsonl").write_text("".join(json.dumps({"video": name}) + "\n" for name in names))
    parquet.write_table(table({"file_name": names, "x": [1, 2]}), folder / "videos" / "list.parquet")
    for suffix in ("txt", "csv", "jsonl", "parquet"):
        assert list_videos([f"videos/list.{suffix}"]) == ["videos/b.mp4", "videos/deep/c.mp4"], suffix


def test_remote_folders_and_patterns_are_listed():
    for name in ("b.mp4", "deep/a.mkv", ".hidden/c.mp4", "notes.txt"):
        with fsspec.open(f"memory://listing/{name}", "wb") as file:
            file.write(b"x")
    expected = ["memory:///listing/b.mp4", "memory:///listing/deep/a.mkv"]
    assert list_videos(["memory://listing"]) == list_videos(["memory://listing/"]) == expected
    assert list_videos(["memory://listing/**/*.m*"]) == expected
    assert list_videos(["memory://listing/*.mp4"]) == expected[:1]
    assert list_videos(["memory://listing/b.mp4"]) == ["memory://listing/b.mp4"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("videos/*.avi", r"The pattern videos/\*\.avi matches no videos"),
        ("empty", "empty contains no videos"),
        ("missing.csv", "missing.csv does not exist"),
        ("memory://nothing/here", "memory://nothing/here contains no videos"),
        ("nonsense://user:secret@a/b", "nonsense://a/b can't be listed: Protocol not known: nonsense"),
        ("s3://bucket/list.csv", "s3://bucket/list.csv is a list in remote storage; copy it"),
        ("bytes.parquet", "bytes.parquet contains the videos themselves"),
    ],
)
def test_what_names_no_videos_is_refused(folder, source, message):
    (folder / "empty").mkdir()
    parquet.write_table(table({"video": [b"content"]}), folder / "bytes.parquet")
    with pytest.raises(ValueError, match=message):
        list_videos([source])
