"""All sources of video data give the same table, and errors in them are reported."""

import json
import tarfile

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Image, IterableDataset, Video
from hypothesis import given
from hypothesis import strategies as st
from video_files import write_tar

from processing_umt import VideoDecodeError
from umt_training.data import video_lists
from umt_training.data.video_records import load_video_records
from umt_training.data.video_shards import expand_shards


@pytest.fixture
def folder(tmp_path):
    """Files with the names of videos: tables are created without opening them."""
    for name in ("b/one.mp4", "b/two.webm", "a/deep/er/three.mkv", "a/four.AVI", "train/five.mp4", "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def rows_of(records):
    return [dict(row) for row in records]


class TestFolders:
    def test_class_folders(self, folder):
        records = load_video_records(folder)
        assert records.features["label"].names == ["a", "b", "train"]
        found = [(row["video"].removeprefix(f"{folder}/"), row["label"]) for row in records]
        assert sorted(found) == [
            ("a/deep/er/three.mkv", 0),
            ("a/four.AVI", 0),
            ("b/one.mp4", 1),
            ("b/two.webm", 1),
            ("train/five.mp4", 2),
        ]

    def test_no_labels_with_videos_in_the_top_folder(self, folder):
        (folder / "top.mp4").write_bytes(b"x")
        assert load_video_records(folder).column_names == ["video"]

    def test_class_without_clips_keeps_its_index(self, folder):
        (folder / "aa_empty").mkdir()
        assert load_video_records(folder).features["label"].names == ["a", "aa_empty", "b", "train"]

    def test_names_of_another_split_are_kept(self, folder):
        names = ["x", "train", "b", "a"]
        records = load_video_records(folder, class_names=names)
        assert records.features["label"].names == names
        assert {row["video"].removeprefix(f"{folder}/").split("/")[0]: row["label"] for row in records} == {
            "a": 3,
            "b": 2,
            "train": 1,
        }

    def test_split_is_a_sub_folder_or_a_list(self, folder):
        assert rows_of(load_video_records(folder, split="train")) == [{"video": f"{folder}/train/five.mp4"}]
        (folder / "val.csv").write_text("b/one,3\n")
        assert rows_of(load_video_records(folder, split="val")) == [{"video": f"{folder}/b/one.mp4", "label": 3}]
        with pytest.raises(ValueError, match=r"no split 'test'.*train"):
            load_video_records(folder, split="test")

    def test_splits_are_not_classes(self, tmp_path):
        for name in ("train/x.mp4", "val/x.mp4"):
            (tmp_path / name).parent.mkdir()
            (tmp_path / name).write_bytes(b"x")
        with pytest.raises(ValueError, match="named like splits"):
            load_video_records(tmp_path)

    def test_links_in_a_circle(self, folder):
        (folder / "a" / "back").symlink_to(folder)
        assert len(load_video_records(folder)) == 5

    def test_single_file(self, folder):
        assert rows_of(load_video_records(folder / "b" / "one.mp4")) == [{"video": f"{folder}/b/one.mp4"}]

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("nowhere/at/all", "file or folder .* does not exist"),
            ("/nowhere", "file or folder .* does not exist"),
            ("nowhere.csv", "list of videos .* does not exist"),
            ("shards-{0..1}.tar", "2 of the 2 shards"),
            ("*.tar", "No tar file matches"),
        ],
    )
    def test_missing(self, name, message):
        with pytest.raises(ValueError, match=message):
            load_video_records(name)

    def test_empty_folder_and_wrong_file(self, tmp_path):
        with pytest.raises(ValueError, match="contains no video files"):
            load_video_records(tmp_path)
        (tmp_path / "x.pdf").write_bytes(b"x")
        with pytest.raises(ValueError, match="neither a supported list of videos"):
            load_video_records(tmp_path / "x.pdf")


class TestLists:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("b/one.mp4,3\nb/two,4\n", [("b/one.mp4", 3), ("b/two.mp4", 4)]),
            ("b/one.mp4 3\nb/two.webm -1 ignored\n\n", [("b/one.mp4", 3), ("b/two.webm", -1)]),
            ("b/one.mp4,3,120,x\n", [("b/one.mp4", 3)]),
            ("b/with space.mp4,3\n", [("b/with space.mp4", 3)]),
            ("b/with space.mp4 3\nb/with, comma.mp4 4", [("b/with space.mp4", 3), ("b/with, comma.mp4", 4)]),
            ('"b/with, comma.mp4",3\n', [("b/with, comma.mp4", 3)]),
            ("b/one.mp4\tx\t3\n", [("b/one.mp4\tx", 3)]),
            ("b/one.mp4\nb/two.webm\n", [("b/one.mp4", None), ("b/two.webm", None)]),
            ("\ufeffvideo,label\r\nb/one.mp4,3\r\n", [("b/one.mp4", 3)]),
            ("label,path\n3,b/one.mp4\n", [("b/one.mp4", 3)]),
            ("label\tvideo\n3\tb/one.mp4\n", [("b/one.mp4", 3)]),
        ],
    )
    def test_official_and_header(self, tmp_path, text, expected):
        path = tmp_path / "list.csv"
        path.write_text(text, encoding="utf-8")
        rows = video_lists.read_list(path)
        assert [(row["video"], row.get("label")) for row in rows] == expected

    @given(
        st.lists(
            st.tuples(st.from_regex(r"[a-z][a-z_/]{0,8}[a-z]\.mp4", fullmatch=True), st.integers(0, 999)), min_size=1
        ),
        st.sampled_from([",", " ", "\t"]),
    )
    def test_any_official_list(self, tmp_path_factory, rows, delimiter):
        path = tmp_path_factory.mktemp("list") / "train.csv"
        path.write_text("".join(f"{name}{delimiter}{label}\n" for name, label in rows))
        assert [(row["video"], row["label"]) for row in video_lists.read_list(path)] == rows

    def test_root_and_default_root(self, folder):
        (folder / "lists").mkdir()
        (folder / "lists" / "train.csv").write_text("one.mp4,0\n")
        records = load_video_records(folder / "lists" / "train.csv", root=folder / "b")
        assert records["video"][0] == f"{folder}/b/one.mp4"
        with pytest.raises(ValueError, match=r"None of 1 checked videos .*Set root"):
            load_video_records(folder / "lists" / "train.csv")
        (folder / "lists" / "train.csv").write_text("../b/one.mp4,0\n")
        assert len(load_video_records(folder / "lists" / "train.csv")) == 1

    @pytest.mark.parametrize("name", ["../outside.mp4", "/etc/outside.mp4", "b/../../outside.mp4"])
    def test_paths_outside_of_root(self, folder, name):
        (folder / "train.csv").write_text(f"b/one.mp4,0\n{name},1\n")
        with pytest.raises(ValueError, match="is outside the root"):
            load_video_records(folder / "train.csv", root=folder)

    @pytest.mark.parametrize(
        ("name", "text", "message"),
        [
            ("list.csv", "", "lists no videos"),
            ("list.csv", "b/one.mp4,3\nb/two.mp4,cat\n", r"line 2: .* no integer label"),
            ("list.csv", "video,label\na.mp4,1,2\n", r"line 2: the header has 2 columns"),
            ("list.csv", "video,label\na.mp4\n", r"line 2: the header has 2 columns"),
            ("list.json", '{"videos": []}', r"an object with the keys \['videos'\]"),
            ("list.json", "[{", "not valid JSON"),
            ("list.json", '[{"clip": "a.mp4", "text": "x"}]', "its columns are clip, text"),
            ("list.json", '[{"video": ["a.mp4", 2]}]', "expected its path"),
            ("list.json", '["a.mp4"]', "row 1 is a str"),
            ("list.json", '[{"id": "1", "template": 3}]', "row 1: the template is 3; expected a text"),
            ("list.jsonl", '{"video": "a.mp4"}\n{', "line 2 is not valid JSON"),
        ],
    )
    def test_malformed(self, tmp_path, name, text, message):
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=message):
            load_video_records(tmp_path / name)

    def test_binary_list(self, tmp_path):
        (tmp_path / "list.csv").write_bytes(b"\xff\xfe\x00")
        with pytest.raises(ValueError, match="not a text file"):
            load_video_records(tmp_path / "list.csv")

    def test_captions(self, folder):
        rows = [{"video": "b/one.mp4", "caption": "a cat"}, {"video": "b/two.webm", "caption": ["a dog", "an owl"]}]
        (folder / "train.json").write_text(json.dumps(rows))
        records = load_video_records(folder / "train.json", root=folder)
        assert list(records["caption"]) == [["a cat"], ["a dog", "an owl"]]
        # characters that `splitlines`, but neither JSON nor an editor, treats as line ends
        rows[0]["caption"] = "a cat\u2028\u0085 on a mat"
        (folder / "train.jsonl").write_text(json.dumps(rows[0], ensure_ascii=False), encoding="utf-8")
        assert rows_of(load_video_records(folder / "train.jsonl")) == [{**rows[0], "video": f"{folder}/b/one.mp4"}]

    def test_something_something(self, folder):
        (folder / "1.webm").write_bytes(b"x")
        rows = [
            {"id": "1", "label": "putting a cup on a table", "template": "Putting [something] on [something]"},
            {"id": "2", "label": "lifting a cup", "template": "Lifting [something]"},
        ]
        (folder / "train.json").write_text(json.dumps(rows))
        names = ["Lifting something", "Other", "Putting something on something"]
        records = load_video_records(folder / "train.json", class_names=names)
        assert list(records["video"]) == [f"{folder}/1.webm", f"{folder}/2.webm"]
        assert list(records["label"]) == [2, 0] and records["caption"][0] == "putting a cup on a table"
        with pytest.raises(ValueError, match="'Lifting something', which is not one of the 2 classes"):
            load_video_records(folder / "train.json", class_names=names[1:])

    @pytest.mark.parametrize(
        ("line", "video", "label"),
        [
            ("train/drinking (31).mp4 1", "train/drinking (31).mp4", 1),
            ("train/take 3 final.mp4 0", "train/take 3 final.mp4", 0),
            ("v 0 (31).MP4 12 7", "v 0 (31).MP4", 12),
            ("a 7/b.mp4,2", "a 7/b.mp4", 2),
            ("a.mp4,1,thumbnail.jpg", "a.mp4", 1),
            ("name 3", "name.mp4", 3),
        ],
    )
    def test_numbers_in_a_file_name_are_not_labels(self, tmp_path, line, video, label):
        (tmp_path / "train.txt").write_text(line + "\n")
        assert video_lists.read_list(tmp_path / "train.txt") == [{"video": video, "label": label}]

    def test_named_labels(self, folder):
        (folder / "train.csv").write_text("video,label\nb/one.mp4,dog\nb/two.webm,cat\n")
        records = load_video_records(folder / "train.csv")
        assert records.features["label"] == ClassLabel(names=["cat", "dog"]) and list(records["label"]) == [1, 0]
        (folder / "train.csv").write_text("video,label\nb/one.mp4,dog\nb/two.webm,\n")
        with pytest.raises(ValueError, match=r"1 of 2 videos of .*train\.csv have no label, first that of row 1"):
            load_video_records(folder / "train.csv")

    def test_indices_beyond_the_classes(self, folder):
        (folder / "train.csv").write_text("b/one.mp4,0\nb/two.webm,2\n")
        with pytest.raises(ValueError, match="the label 2, which is not one of the 2 classes"):
            load_video_records(folder / "train.csv", class_names=["a", "b"])

    @pytest.mark.parametrize("suffix", ["csv", "txt", "json"])
    def test_numbers_that_are_class_names_are_not_indices(self, tmp_path, suffix):
        """Folders `0` to `11`, which are sorted as text, and a list of their videos with the names as labels."""
        numbers = [str(number) for number in range(12)]
        for name in numbers:
            (tmp_path / "train" / name).mkdir(parents=True)
            (tmp_path / "train" / name / "v.mp4").write_bytes(b"x")
        names = load_video_records(tmp_path / "train").features["label"].names
        assert names == sorted(numbers)
        videos = [f"train/{name}/v.mp4" for name in numbers]
        lists = {
            "csv": "video,label\n" + "".join(f"{v},{n}\n" for v, n in zip(videos, numbers, strict=True)),
            "txt": "".join(f"{v} {n}\n" for v, n in zip(videos, numbers, strict=True)),
            "json": json.dumps([{"video": v, "label": int(n)} for v, n in zip(videos, numbers, strict=True)]),
        }
        (tmp_path / f"val.{suffix}").write_text(lists[suffix])
        records = load_video_records(tmp_path / f"val.{suffix}", class_names=names)
        assert [names[label] for label in records["label"]] == numbers

    def test_numbers_that_are_class_names_in_part_are_ambiguous(self, folder):
        (folder / "train.csv").write_text("b/one.mp4,1\nb/two.webm,0\n")
        with pytest.raises(ValueError, match=r"train\.csv are ambiguous: 1 is the name of a class, but 0 is not"):
            load_video_records(folder / "train.csv", class_names=["1", "2", "3"])
        (folder / "train.csv").write_text("b/one.mp4,01\nb/two.webm,02\n")
        records = load_video_records(folder / "train.csv", class_names=["02", "01"])
        assert list(records["label"]) == [1, 0]

    def test_integers_of_a_stream_are_names_where_classes_have_such_names(self):
        stream = Dataset.from_dict({"video": ["a.mp4", "b.mp4"], "label": [2, 10]}).to_iterable_dataset()
        records = load_video_records(stream, class_names=["10", "2"])
        assert [record["label"] for record in records] == [1, 0]
        records = load_video_records(stream, class_names=["1", "2", "3"])
        with pytest.raises(ValueError, match="ambiguous: 1 is the name of a class, but 10 is not"):
            list(records)

    def test_urls_are_not_joined_to_the_root(self, folder):
        (folder / "train.csv").write_text("video\nhttps://example.com/a.mp4\nb/one.mp4\n")
        records = load_video_records(folder / "train.csv", root=folder)
        assert list(records["video"]) == ["https://example.com/a.mp4", f"{folder}/b/one.mp4"]


class TestDatasets:
    def test_paths_bytes_and_records(self, folder):
        for column in (["x.mp4"], [b"bytes"]):
            assert rows_of(load_video_records(Dataset.from_dict({"path": column}))) == [{"video": column[0]}]
        records = Dataset.from_dict({"clip": [str(folder / "b/one.mp4")], "label": [1]}).cast_column("clip", Video())
        assert rows_of(load_video_records(records)) == [
            {"video": {"bytes": None, "path": str(folder / "b/one.mp4")}, "label": 1}
        ]

    def test_columns(self):
        records = Dataset.from_dict({"clip": ["x.mp4"], "text": ["a"], "label": [3], "class": ["b"]})
        renamed = load_video_records(records, columns={"video": "clip", "caption": "text", "label": "class"})
        assert rows_of(renamed) == [{"video": "x.mp4", "caption": "a", "label": 0}]
        with pytest.raises(ValueError, match="no column of videos; its columns are clip, text, label, class"):
            load_video_records(records)
        with pytest.raises(ValueError, match="no column 'x'"):
            load_video_records(records, columns={"video": "x"})
        with pytest.raises(ValueError, match="contains int; expected paths"):
            load_video_records(Dataset.from_dict({"video": [1]}))

    def test_a_column_of_the_type_video_comes_before_names(self):
        """`image` and `path` beside it are a thumbnail and a page."""
        columns = {"image": ["thumbnail.png"], "path": ["page.html"], "clip": ["v.mp4"], "preview": ["p.mp4"]}
        records = Dataset.from_dict(columns)
        one = records.cast_column("clip", Video(decode=False)).cast_column("image", Image(decode=False))
        assert rows_of(load_video_records(one))[0]["video"]["path"] == "v.mp4"
        named = one.rename_column("path", "video")
        assert rows_of(load_video_records(named))[0]["video"]["path"] == "v.mp4"
        with pytest.raises(ValueError, match="2 columns of videos; its columns are image, path, clip, preview"):
            load_video_records(one.cast_column("preview", Video(decode=False)))

    def test_class_labels_are_mapped_by_name(self):
        records = Dataset.from_dict({"video": ["x.mp4", "y.mp4"], "label": [0, 1]})
        records = records.cast_column("label", ClassLabel(names=["dog", "cat"]))
        assert list(load_video_records(records, class_names=["cat", "owl", "dog"])["label"]) == [2, 0]
        assert load_video_records(records)["label"][0] == 0

    def test_splits(self, tmp_path):
        both = DatasetDict({name: Dataset.from_dict({"video": [f"{name}.mp4"]}) for name in ("train", "test")})
        assert rows_of(load_video_records(both, split="test")) == [{"video": "test.mp4"}]
        with pytest.raises(ValueError, match=r"splits train, test; choose one of them, not None"):
            load_video_records(both)
        both.save_to_disk(tmp_path / "saved")
        assert rows_of(load_video_records(tmp_path / "saved", split="test")) == [{"video": "test.mp4"}]
        both["train"].save_to_disk(tmp_path / "one")
        assert rows_of(load_video_records(tmp_path / "one")) == [{"video": "train.mp4"}]
        with pytest.raises(ValueError, match="given as int"):
            load_video_records(3)

    def test_parquet(self, folder, monkeypatch, tmp_path):
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
        Dataset.from_dict({"video": ["b/one.mp4"], "caption": ["x"]}).to_parquet(folder / "t.parquet")
        records = load_video_records(folder / "t.parquet")
        assert rows_of(records) == [{"video": f"{folder}/b/one.mp4", "caption": "x"}]

    def test_folder_of_a_data_set(self, tmp_path, monkeypatch):
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
        (tmp_path / "repo" / "data").mkdir(parents=True)
        for name in ("train", "test"):
            Dataset.from_dict({"video": [name.encode()]}).to_parquet(tmp_path / f"repo/data/{name}-00000.parquet")
        assert rows_of(load_video_records(tmp_path / "repo", split="test")) == [{"video": b"test"}]

    def test_unknown_data_set(self, monkeypatch):
        monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
        with pytest.raises(ValueError, match="not a local file or folder, and can't be loaded"):
            load_video_records("nobody/nothing-at-all")

    def test_stream(self):
        stream = Dataset.from_dict({"video": [b"x", b"y"], "label": ["b", "a"]}).to_iterable_dataset()
        assert rows_of(load_video_records(stream, class_names=["a", "b"])) == [
            {"video": b"x", "label": 1},
            {"video": b"y", "label": 0},
        ]


class TestShards:
    def test_samples(self, tmp_path):
        files = [("k/a.mp4", b"A"), ("k/a.cls", b"3"), ("k/a.txt", b"a cat\n"), ("b.x.webm", b"B"), ("c.json", b"{}")]
        write_tar(tmp_path / "s-00.tar", [*files, ("d.mp4", b"D"), ("d.json", b'{"label": 7, "id": "d"}')])
        write_tar(tmp_path / "s-01.tar", [("e.mp4", b"E"), ("e.cls", b"dog"), (".hidden", b"")])
        records = load_video_records(str(tmp_path / "s-{00..01}.tar"))
        assert isinstance(records, IterableDataset) and records.num_shards == 2
        a, b, c, d, e = records
        video = {"path": f"{tmp_path}/s-00.tar/k/a.mp4", "bytes": b"A"}
        assert a == {"video": video, "label": 3, "caption": "a cat"}
        assert b["video"]["bytes"] == b"B"
        assert isinstance(c["video"], VideoDecodeError) and c["video"].reason == "missing"
        assert (d["label"], d["id"], d["video"]["bytes"]) == (7, "d", b"D")
        assert (e["label"], e["video"]["bytes"]) == ("dog", b"E")

    def test_folder_of_shards_and_names(self, tmp_path):
        write_tar(tmp_path / "s.tar", [("e.mp4", b"E"), ("e.cls", b"dog")])
        assert [row["label"] for row in load_video_records(tmp_path, class_names=["cat", "dog"])] == [1]

    def test_damaged_shards_are_reported_and_skipped(self, tmp_path):
        write_tar(tmp_path / "s-0.tar", [(f"{name}.mp4", bytes(20_000)) for name in "ab"])
        content = (tmp_path / "s-0.tar").read_bytes()
        (tmp_path / "s-0.tar").write_bytes(content[:30_000])
        (tmp_path / "s-1.tar").write_bytes(b"no tar at all" * 100)
        write_tar(tmp_path / "s-2.tar", [("c.mp4", b"C"), ("d.mp4", b"D"), ("d.json", b"{")])
        a, b, not_tar, c, d = load_video_records(str(tmp_path / "s-*.tar"))
        assert (a["video"]["bytes"], c["video"]["bytes"]) == (bytes(20_000), b"C")
        errors = [(record["video"].video.rsplit("/", 1)[-1], record["video"].reason) for record in (b, not_tar, d)]
        assert errors == [("s-0.tar", "truncated"), ("s-1.tar", "unreadable"), ("d.json", "unreadable")]

    def test_compressed(self, tmp_path):
        with tarfile.open(tmp_path / "s.tar.gz", "w:gz") as tar:
            tar.addfile(tarfile.TarInfo("a.mp4"))
        assert [row["video"]["bytes"] for row in load_video_records(str(tmp_path / "s.tar.gz"))] == [b""]

    @pytest.mark.parametrize(
        ("pattern", "expected"),
        [
            (
                "hf://x/s-{098..101}.tar",
                ["hf://x/s-098.tar", "hf://x/s-099.tar", "hf://x/s-100.tar", "hf://x/s-101.tar"],
            ),
            ("hf://{a,b}-{0..1}.tar", ["hf://a-0.tar", "hf://a-1.tar", "hf://b-0.tar", "hf://b-1.tar"]),
            ("hf://x.tar", ["hf://x.tar"]),
        ],
    )
    def test_braces(self, pattern, expected):
        assert expand_shards(pattern) == expected

    def test_root_of_a_stream(self, tmp_path):
        write_tar(tmp_path / "s.tar", [("e.mp4", b"E")])
        with pytest.raises(ValueError, match="not paths in a table"):
            load_video_records(str(tmp_path / "s.tar"), root=tmp_path)
