"""Folders of videos: what is found in them, class folders, and the layout of datasets' VideoFolder."""

import os
import unicodedata

import pandas as pd
import pytest
from video_files import write_tar

from umt_training.data import video_files
from umt_training.data.video_checks import check_videos
from umt_training.data.video_files import list_video_files
from umt_training.data.video_records import load_video_records


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))


def make(folder, *names):
    """Files with the names of videos: tables are created without opening them."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


def rows(records, folder) -> list[dict]:
    names = getattr((records.features or {}).get("label"), "names", None)
    found = [dict(row) | {"video": row["video"].removeprefix(f"{folder}/")} for row in records]
    return [row | {"label": names[row["label"]]} for row in found] if names else found


# --- files ----------------------------------------------------------------------------------------------------------


def test_commands_search_folders_as_training_does(tmp_path):
    folder = make(tmp_path / "d", "a.mp4", "sub/B.MP4", "._a.mp4", ".trash/old.mp4", "sub/.hidden/x.mp4", "notes.txt")
    make(folder, "__MACOSX/a.mp4", "@eaDir/a.mp4/thumbnail.jpg", "$RECYCLE.BIN/b.mp4", "folder.mkv/inside.mp4")
    make(tmp_path, "elsewhere/c.mp4")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "sub" / "circle").symlink_to(folder)
    (folder / "a_link").symlink_to(folder / "sub")  # sorted before `sub`, which keeps its own path
    (folder / "file link.mp4").symlink_to(tmp_path / "elsewhere" / "c.mp4")
    (folder / "dangling.mp4").symlink_to(tmp_path / "nowhere")
    found = list_video_files([str(folder)])
    expected = ["a.mp4", "dangling.mp4", "file link.mp4", "folder.mkv", "linked/c.mp4", "sub/B.MP4"]
    assert [os.path.relpath(path, folder) for path in found] == expected
    assert sorted(load_video_records(folder)["video"]) == found
    checks, number = check_videos(load_video_records(folder))
    assert sorted(check.video for check in checks) == found and number == len(found)


def test_a_folder_of_links_a_link_and_a_hidden_folder(tmp_path):
    make(tmp_path, "elsewhere/c.mp4", ".hidden/d.mp4")
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for folder, video in (("only", "only/link/c.mp4"), ("link", "link/c.mp4"), (".hidden", ".hidden/d.mp4")):
        assert list_video_files([str(tmp_path / folder)]) == [str(tmp_path / video)]
        assert list(load_video_records(tmp_path / folder)["video"]) == [str(tmp_path / video)]


def test_a_folder_that_can_not_be_read_is_an_error(tmp_path, monkeypatch):
    make(tmp_path, "a.mp4", "closed/b.mp4")
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(video_files.os, "scandir", refuse)
    for search in (list_video_files, lambda paths: load_video_records(paths[0])):
        with pytest.raises(PermissionError, match="closed"):
            search([str(tmp_path)])


# --- class folders --------------------------------------------------------------------------------------------------


def test_folders_of_the_system_are_not_classes(tmp_path):
    make(tmp_path, "run/a.mp4", "jump/b.mp4", "__MACOSX/run/._a.mp4", ".git/c.mp4")
    assert load_video_records(tmp_path).features["label"].names == ["jump", "run"]


@pytest.mark.parametrize("names", [("Run", "run"), ("play it", "play  it"), ("café", "café")])
def test_folders_with_the_same_name_are_refused(tmp_path, names):
    first, second = (unicodedata.normalize(form, name) for form, name in zip(("NFC", "NFD"), names, strict=True))
    make(tmp_path, f"{first}/a.mp4", f"{second}/b.mp4")
    with pytest.raises(ValueError, match="differ only in case, spaces or Unicode form"):
        load_video_records(tmp_path)


@pytest.mark.parametrize(("ours", "theirs"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_class_names_match_in_any_unicode_form_and_are_not_changed(tmp_path, ours, theirs):
    names = [unicodedata.normalize(ours, "café"), "tea"]
    make(tmp_path, f"{unicodedata.normalize(theirs, 'café')}/a.mp4", "tea/b.mp4")
    records = load_video_records(tmp_path, class_names=names)
    assert records.features["label"].names == names and list(records["label"]) == [0, 1]


# --- metadata files -------------------------------------------------------------------------------------------------

METADATA = {
    "csv": "file_name,label,caption\n{video},run,a man\n",
    "jsonl": '{{"file_name": "{video}", "label": "run", "caption": "a man"}}\n',
    "parquet": None,
}


def write_metadata(folder, suffix: str, video: str) -> None:
    if suffix == "parquet":
        frame = pd.DataFrame({"file_name": [video], "label": ["run"], "caption": ["a man"]})
        frame.to_parquet(folder / "metadata.parquet")
    else:
        (folder / f"metadata.{suffix}").write_text(METADATA[suffix].format(video=video))


@pytest.mark.parametrize("suffix", METADATA)
def test_columns_come_from_metadata_files(tmp_path, suffix, monkeypatch):
    """As `load_dataset("videofolder")` gives them: listed videos only, paths relative to the metadata file."""
    folder = make(tmp_path / "d", "a.mp4", "not listed.mp4", "sub/b.mp4", ".hidden/metadata.csv")
    write_metadata(folder, suffix, "./a.mp4")
    write_metadata(folder / "sub", suffix, "b.mp4")
    row = {"label": "run", "caption": "a man"}
    expected = [{"video": "a.mp4", **row}, {"video": "sub/b.mp4", **row}]
    assert rows(load_video_records(folder), folder) == expected
    monkeypatch.chdir(tmp_path)
    assert [row["video"] for row in load_video_records("d")] == ["d/a.mp4", "d/sub/b.mp4"]
    assert rows(load_video_records(folder, split="sub"), folder) == expected[1:]
    selected = load_video_records(folder, columns={"label": "caption"})
    assert rows(selected, folder) == [{"video": name, "label": "a man"} for name in ("a.mp4", "sub/b.mp4")]


def test_images_and_shards_with_a_metadata_file(tmp_path):
    folder = make(tmp_path / "images", "a.jpg")
    write_metadata(folder, "csv", "a.jpg")
    assert rows(load_video_records(folder), folder) == [{"video": "a.jpg", "label": "run", "caption": "a man"}]
    (tmp_path / "shards").mkdir()
    write_tar(tmp_path / "shards" / "s.tar", [("e.mp4", b"E"), ("e.cls", b"3")])
    (tmp_path / "shards" / "metadata.csv").write_text("shard,number\ns.tar,1\n")
    assert [record["label"] for record in load_video_records(tmp_path / "shards")] == [3]


@pytest.mark.parametrize("suffix", METADATA)
def test_splits_with_metadata_files(tmp_path, suffix):
    folder = make(tmp_path, "train/a.mp4", "test/b.mp4")
    for split, video in (("train", "a.mp4"), ("test", "b.mp4")):
        write_metadata(folder / split, suffix, video)
    with pytest.raises(ValueError, match=r"named like splits, not classes: \['test', 'train'\]"):
        load_video_records(folder)
    assert [row["video"] for row in rows(load_video_records(folder, split="test"), folder)] == ["test/b.mp4"]


def test_one_metadata_file_of_all_splits(tmp_path):
    folder = make(tmp_path, "train/a.mp4", "test/b.mp4")
    (folder / "metadata.csv").write_text("file_name,label\ntrain/a.mp4,run\ntest/b.mp4,jump\n")
    with pytest.raises(ValueError, match="Choose a split"):
        load_video_records(folder)
    records = load_video_records(folder, split="train", class_names=["jump", "run"])
    assert rows(records, folder) == [{"video": "train/a.mp4", "label": "run"}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,label\na.mp4,run\n", r"metadata\.csv, line 1: 'name,label' .* must be a header"),
        ("file_name,label\n../a.mp4,run\n", "lists ../a.mp4, which is not in its folder"),
        ("file_name,label\n/a.mp4,run\n", "lists /a.mp4, which is not in its folder"),
        ("file_name,label\nsub/../../a.mp4,run\n", "which is not in its folder"),
        ("file_name,label\nfile:///a.mp4,run\n", "lists file:///a.mp4, which is not in its folder"),
        ("file_name,label\nb.mp4,run\n", "None of 1 checked videos of .* exists, first .*b.mp4"),
    ],
)
def test_metadata_files_that_are_refused(tmp_path, text, message):
    (make(tmp_path / "d", "a.mp4") / "metadata.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_video_records(tmp_path / "d")


def test_metadata_files_that_do_not_go_together(tmp_path):
    folder = make(tmp_path, "a.mp4", "sub/b.mp4")
    write_metadata(folder, "csv", "a.mp4")
    write_metadata(folder / "sub", "jsonl", "b.mp4")
    with pytest.raises(ValueError, match="metadata files of several kinds"):
        load_video_records(folder)
    (folder / "sub" / "metadata.jsonl").unlink()
    (folder / "sub" / "metadata.csv").write_text("file_name,label\nb.mp4,3\n")
    with pytest.raises(ValueError, match=r"metadata files of .* do not have the same columns"):
        load_video_records(folder)
