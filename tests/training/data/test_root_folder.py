"""A video has one path, joined to `root`. `root` is a fence: no path, link or URL of a list leads out of it."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from video_files import write_video

from umt_training.data.root_folder import join_root
from umt_training.data.video_records import load_video_records
from umt_training.evaluation.retrieval import retrieval_set


@pytest.fixture
def folders(tmp_path):
    """`root/` with a video, and links in it and to it; `outside/` with a video."""
    for name in ("root", "outside", "root/inner"):
        (tmp_path / name).mkdir()
    content = write_video(tmp_path / "a.mp4").read_bytes()
    for name in ("root/a.mp4", "root/inner/b.mp4", "outside/secret.mp4"):
        (tmp_path / name).write_bytes(content)
    os.symlink("a.mp4", tmp_path / "root/alias.mp4")
    os.symlink("inner", tmp_path / "root/folder-alias")
    os.symlink("../outside/secret.mp4", tmp_path / "root/leak.mp4")
    os.symlink(tmp_path / "outside", tmp_path / "root/folder-leak")
    os.symlink("folder-leak/secret.mp4", tmp_path / "root/second.mp4")
    os.symlink("root", tmp_path / "link-to-root")
    return tmp_path


def load(folder, path, root="root"):
    (folder / "list.jsonl").write_text(f'{{"video": "a.mp4"}}\n{{"video": "{path}"}}\n')
    return load_video_records(folder / "list.jsonl", root=root and folder / root)["video"][1]


@pytest.mark.parametrize(
    "path",
    [
        "a.mp4", "inner/b.mp4", "inner/../a.mp4", "./a.mp4", "alias.mp4", "folder-alias/b.mp4", "missing.mp4",
        "no/such/folder.mp4", "folder-alias/../a.mp4", "a:b.mp4", "..a.mp4",
    ],
)  # fmt: skip
@pytest.mark.parametrize("root", ["root", "link-to-root"])
def test_paths_and_links_in_the_root_are_read(path, root, folders):
    normal = os.path.normpath(path)
    assert load(folders, path, root) == f"{folders}/{root}/{normal}"
    assert load(folders, folders / "root" / path, root) == f"{folders}/root/{normal}"


@pytest.mark.parametrize(
    "path",
    [
        "https://host/a.mp4", "HTTP://host/a.mp4", "s3://bucket/a.mp4", "gs://bucket/a.mp4",
        "hf://datasets/owner/name/a.mp4",
    ],
)  # fmt: skip
def test_remote_urls_are_read(path, folders):
    assert load(folders, path) == path


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("../outside/secret.mp4", "is outside the root folder"),
        ("{}/outside/secret.mp4", "is outside the root folder"),
        ("/etc/passwd", "is outside the root folder"),
        ("inner/../../outside/secret.mp4", "is outside the root folder"),
        ("folder-leak/../outside/secret.mp4", "is outside the root folder"),
        ("..", "is outside the root folder"),
        ("leak.mp4", "by a link to .*secret.mp4"),
        ("folder-leak/secret.mp4", "by a link to .*secret.mp4"),
        ("folder-leak/missing.mp4", "by a link to .*missing.mp4"),
        ("second.mp4", "by a link to .*secret.mp4"),
        ("file://{}/outside/secret.mp4", "URLs are of the protocols http, "),
        ("FILE:///etc/passwd", "URLs are of the protocols"),
        ("local:///etc/passwd", "URLs are of the protocols"),
        ("zip://a.mp4::file:///etc/x.zip", "URLs are of the protocols"),
        ("simplecache::file:///etc/passwd", "URLs are of the protocols"),
        ("https://host/a.zip::file:///etc/passwd", "URLs are of the protocols"),
        ("filecache::https://host/a.mp4", "URLs are of the protocols"),
        ("reference://a::/etc/passwd", "URLs are of the protocols"),
        ("memory://a.mp4", "URLs are of the protocols"),
        (" file:///etc/passwd", "URLs are of the protocols"),
        ("dir/file:///etc/passwd", "URLs are of the protocols"),
    ],
)
def test_everything_else_is_refused(path, message, folders):
    path = path.format(folders)
    with pytest.raises(ValueError, match=message) as caught:
        load(folders, path)
    assert "\n" not in str(caught.value) and path in str(caught.value)


def test_a_link_in_a_folder_that_cannot_be_listed_is_found(folders, monkeypatch):
    def refuse(folder):
        raise PermissionError(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ValueError, match="by a link"):
        load(folders, "leak.mp4")


def test_each_folder_is_listed_once(folders, monkeypatch):
    listed, scandir = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda folder: listed.append(folder) or scandir(folder))
    (folders / "list.txt").write_text("a.mp4\ninner/b.mp4\n" * 50)
    assert len(load_video_records(folders / "list.txt", root=folders / "root")) == 100
    assert len(listed) == 2


def test_without_a_root_all_paths_are_read(folders):
    for path in ("leak.mp4", "../outside/secret.mp4", f"file://{folders}/outside/secret.mp4"):
        assert path in load(folders, path, root=None)


@pytest.mark.parametrize("root", ["root", None])
@pytest.mark.parametrize(
    "path", ["./inner/b.mp4", "inner//b.mp4", "inner/./b.mp4", "inner/../inner/b.mp4", "../root/inner/b.mp4", "/"]
)
def test_two_spellings_of_a_path_are_one_video(folders, path, root):
    """`/` stands for the absolute path."""
    list_file = folders / "root/list.jsonl"
    path = path if path != "/" else f"{folders}/root/inner/b.mp4"
    list_file.write_text(f'{{"video": "inner/b.mp4", "caption": "x"}}\n{{"video": "{path}", "caption": "y"}}\n')
    records = load_video_records(list_file, root=root and folders / root)
    assert records["video"] == [f"{folders}/root/inner/b.mp4"] * 2
    assert len(retrieval_set(records, paragraph=True).texts) == 1


def test_a_path_through_a_link_keeps_its_meaning(folders):
    """`root/folder-leak/..` is the folder that contains `outside`, not `root`."""
    for path in ("root/folder-leak/../root/a.mp4", "root/folder-leak/../a.mp4"):
        assert load(folders, path, root=None) == f"{folders}/{path}"


def test_an_id_is_the_video_with_this_name(folders):
    """Only where no file has the name without an extension, and one video has it with an extension."""
    for name in ("v_1.5.webm", "two.mp4", "two.mkv", "plain", "plain.mp4", "text.txt"):
        (folders / "root/inner" / name).touch()
    for path, found in (("inner/b", "inner/b.mp4"), ("./inner/v_1.5", "inner/v_1.5.webm")):
        assert load(folders, path) == f"{folders}/root/{found}"
    for path in ("inner/plain", "inner/none", "inner/text", "no/folder", "inner"):
        assert load(folders, path) == f"{folders}/root/{path}"
    with pytest.raises(ValueError, match=r"inner/two may be two\.mkv or two\.mp4; write the extension"):
        load(folders, "inner/two")


@given(st.lists(st.sampled_from([".", "..", "", "inner", "a.mp4", "x"]), min_size=1, max_size=6))
def test_the_spelling_of_a_path_keeps_the_file(parts):
    path = "/".join([*parts, "a.mp4"])
    [joined] = join_root([path], "/tmp", is_fence=False)
    assert os.path.realpath(joined) == os.path.realpath(os.path.join("/tmp", path))
    if os.pardir not in joined.split("/"):  # in the root
        assert join_root([joined], "/tmp", is_fence=False) == [joined]
