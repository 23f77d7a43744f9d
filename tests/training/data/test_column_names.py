"""Columns of tables are recognised by their names, and what could be meant in two ways is refused."""

import itertools
import json

import datasets
import numpy as np
import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, Image, IterableDataset, Video
from hypothesis import given, settings
from hypothesis import strategies as st

from umt_training.data.column_names import CAPTION_NAMES, LABEL_NAMES, VIDEO_NAMES, select_names
from umt_training.data.table_columns import rename_columns
from umt_training.data.video_lists import read_list
from umt_training.data.video_records import load_video_records

VIDEOS, LABELS, CAPTIONS = (list(itertools.chain(*groups)) for groups in (VIDEO_NAMES, LABEL_NAMES, CAPTION_NAMES))


@pytest.fixture
def folder(tmp_path):
    for name in ("v.mp4", "w.mp4"):
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def read(folder, text: str, suffix: str = "csv", **options) -> list[dict]:
    """The rows of a list, with class names and without the folder."""
    path = folder / f"list.{suffix}"
    path.write_text(text, encoding="utf-8")
    records = load_video_records(path, **options)
    rows = [dict(row) | {"video": row["video"].removeprefix(f"{folder}/")} for row in records]
    feature = records.features.get("label")
    if isinstance(feature, ClassLabel):
        rows = [row | {"label": feature.names[row["label"]]} for row in rows]
    return rows


@pytest.mark.parametrize("suffix", ["csv", "json", "jsonl", "parquet", "datasets", "stream", "untyped stream"])
def test_every_accepted_name_is_read_from_every_kind_of_table(folder, suffix, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(folder / "cache"))
    fill = ("video", "label", "caption")
    for video, label, caption in itertools.zip_longest(VIDEOS, LABELS, CAPTIONS):
        video, label, caption = (name or usual for name, usual in zip((video, label, caption), fill, strict=True))
        # as people write them
        row = {"note": "x", video.replace("_", " ").title(): "v.mp4", label.upper(): "run", caption.title(): "a man"}
        path, table = folder / f"{video}.{suffix}", Dataset.from_list([row])
        if suffix == "csv":
            path.write_text(",".join(row) + "\n" + ",".join(row.values()) + "\n")
        elif suffix == "parquet":
            table.to_parquet(path)
        else:
            path.write_text(json.dumps([row] if suffix == "json" else row))
        untyped = IterableDataset.from_generator(lambda row=row: iter([row]))
        sources = {"datasets": table, "stream": table.to_iterable_dataset(), "untyped stream": untyped}
        (found,) = load_video_records(sources.get(suffix, path), class_names=["jump", "run"])
        found = dict(found) | {"video": found["video"].removeprefix(f"{folder}/")}
        assert found == {"note": "x", "video": "v.mp4", "label": 1, "caption": "a man"}


@pytest.mark.parametrize(
    ("text", "row"),
    [
        ("Video,Label\nv.mp4,run\n", {"label": "run"}),
        ('"video","label"\n"v.mp4","run"\n', {"label": "run"}),
        ("\ufeffvideo , label \nv.mp4 , run \n", {"label": "run"}),
        ("video;label\nv.mp4;run\n", {"label": "run"}),
        ("video\tlabel\nv.mp4\trun\n", {"label": "run"}),
        ("video label\nv.mp4 run\n", {"label": "run"}),
        (",video,label,\n0,v.mp4,run,\n", {"label": "run"}),  # the index of pandas, a delimiter at the end
        ("video\nv.mp4\n", {}),
        ("\nvideo,label\n\nv.mp4,run\n , \n", {"label": "run"}),
        ("video,label,class\nv.mp4,run,sport\n", {"label": "run", "class": "sport"}),
        ("video,class,category\nv.mp4,run,sport\n", {"class": "run", "category": "sport"}),
        ("video,target\nv.mp4,run\n", {"target": "run"}),
        ("video,text,sentence\nv.mp4,a,b\n", {"text": "a", "sentence": "b"}),
        ('video,caption\nv.mp4,"a man,\nwho ""runs"""\n', {"caption": 'a man,\nwho "runs"'}),
        ("video,Question,ANSWER\nv.mp4,who?,he\n", {"question": "who?", "answer": "he"}),
        ("video,path\nv.mp4,w.mp4\n", {"path": "w.mp4"}),
        ("image,file_name\nthumbnail.png,v.mp4\n", {"image": "thumbnail.png"}),
        ("path,video_path\nfolder,v.mp4\n", {"path": "folder"}),
    ],
)
@pytest.mark.parametrize("suffix", ["csv", "txt", "TSV"])
def test_headers(folder, text, row, suffix):
    assert read(folder, text, suffix) == [{"video": "v.mp4", **row}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "clip,label\nv.mp4,run\n",
            "line 1: 'clip,label' .* must be a header.* column of videos is video, video_path, ",
        ),
        ("clip,label\nv.mp4,3\n", "line 1: 'clip,label' has no integer label"),
        ("v.mp4,run\nw.mp4,jump\n", "line 1: 'v.mp4,run' is not a path only, and has no integer label"),
        ("v.mp4 run\n", "'v.mp4 run' is not a path only"),
        ("v.mp4\trun\n", "is not a path only"),
        ("v,run\n", "is not a path only"),
        ("v.mp4,3.0\n", "is not a path only"),
        ("video,label,labels\nv.mp4,a,b\n", "list.csv has the columns label and labels, each .* may be the label"),
        ("Label,label,video\na,b,v.mp4\n", "the columns .* and .*, each of which may be the label"),
        ("path,file_name\nv.mp4,w.mp4\n", "the columns path and file_name, each of which may contain the videos"),
        ("video,label,label\nv.mp4,a,b\n", "several columns named 'label'"),
        ("video,label\n,run\n", "line 2: the video is ''; expected its path"),
        ('video,label\n"v.mp4\nw.mp4",run\n', "line 2: the video is .*; expected its path"),
        ("video,\0\nv.mp4,run\n", "contains the character NUL"),
    ],
)
def test_what_could_be_meant_otherwise_is_refused(folder, text, message):
    with pytest.raises(ValueError, match=message):
        read(folder, text)


@pytest.mark.parametrize(
    ("line", "row"),
    [
        ("video 1.mp4,3", {"video": "video 1.mp4", "label": 3}),  # the first word is the name of a column
        ("v.mp4;3", {"video": "v.mp4", "label": 3}),
        ("v.mp4,,3", {"video": "v.mp4", "label": 3}),
        ('"v.mp4"', {"video": "v.mp4"}),
        ("a, b.mp4", {"video": "a, b.mp4"}),
        ("https://example.com/a?list=1,2", {"video": "https://example.com/a?list=1", "label": 2}),
        ("https://example.com/a?list=x,y", {"video": "https://example.com/a?list=x,y"}),
    ],
)
def test_lists_without_header(tmp_path, line, row):
    (tmp_path / "list.csv").write_text(line + "\n")
    assert read_list(tmp_path / "list.csv") == [row]


# --- columns that the caller selects --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "columns", "row"),
    [
        ("clip,what\nv.mp4,run\n", {"video": "clip", "label": "what"}, {"video": "v.mp4", "label": "run"}),
        ("video,label,labels\nv.mp4,a,b\n", {"label": "labels"}, {"video": "v.mp4", "label": "b"}),
        ("video,label\nv.mp4,a\n", {"label": "label"}, {"video": "v.mp4", "label": "a"}),
        ("video,path\nw.mp4,v.mp4\n", {"video": "path"}, {"video": "v.mp4"}),
        ("video,path\nw.mp4,v.mp4\n", {"video": "path", "caption": "video"}, {"video": "v.mp4", "caption": "w.mp4"}),
        ("path,video\nw.mp4,v.mp4\n", {"path": "video", "video": "path"}, {"path": "v.mp4", "video": "w.mp4"}),
        ("video,text\nv.mp4,a\n", {"label": "text"}, {"video": "v.mp4", "label": "a"}),
        ("file,path\nw.mp4,v.mp4\n", {"note": "path"}, {"video": "w.mp4", "note": "v.mp4"}),
    ],
)
def test_selected_columns_come_first(folder, text, columns, row):
    assert read(folder, text, columns=columns) == [row]
    header, values = text.split()
    table = Dataset.from_list([dict(zip(header.split(","), values.split(","), strict=True))])
    for source in (table, table.to_iterable_dataset()):
        class_names = ["a", "b", "run"] if "label" in row else None
        (found,) = load_video_records(source, columns=columns, class_names=class_names)
        expected = row | ({"label": class_names.index(row["label"])} if class_names else {})
        assert found == expected


def test_selected_columns_that_can_not_be_meant(folder):
    for source in (Dataset.from_dict({"clip": ["v.mp4"], "x": ["a"]}), None):
        if source is None:
            (folder / "list.csv").write_text("clip,x\nv.mp4,a\n")
            source = folder / "list.csv"
        with pytest.raises(ValueError, match="has no column 'y'; it has clip, x"):
            load_video_records(source, columns={"video": "clip", "label": "y"})
        with pytest.raises(ValueError, match=r"column 'x' .* is selected as label and as caption; select it once"):
            load_video_records(source, columns={"video": "clip", "label": "x", "caption": "x"})
    (folder / "list.csv").write_text("v.mp4 1\n")
    with pytest.raises(ValueError, match=r"first line of .* has no column of videos; its columns are v.mp4 1\."):
        load_video_records(folder / "list.csv", columns={"video": "clip"})
    with pytest.raises(ValueError, match=r"Columns clip are selected, but .* has no metadata file"):
        load_video_records(folder, columns={"video": "clip"})


def test_a_column_of_json_may_be_absent_in_some_rows(folder):
    (folder / "list.json").write_text(json.dumps([{"clip": "v.mp4", "about": "x"}, {"clip": "w.mp4"}]))
    records = load_video_records(folder / "list.json", columns={"video": "clip", "caption": "about"})
    assert list(records["caption"]) == ["x", None]
    (folder / "list.json").write_text(json.dumps([{"Video": "v.mp4", "Class": None}, {"image": "w.mp4"}]))
    assert len(load_video_records(folder / "list.json")) == 2


@given(
    names=st.lists(st.sampled_from("abcde"), min_size=1, unique=True),
    columns=st.dictionaries(st.sampled_from("abcdef"), st.sampled_from("abcde"), max_size=4),
)
@settings(deadline=None, max_examples=200)
def test_columns_are_renamed_at_once(names, columns):
    found = list(columns.values())
    if not {*found} <= {*names} or len({*found}) < len(found):
        with pytest.raises(ValueError, match=r"has no column|select it once"):
            select_names(names, columns, "x")
        return
    expected = dict(columns)
    expected |= {name: name for name in names if name not in found and name not in columns}
    row = dict(zip(names, range(len(names)), strict=True))
    renamed = rename_columns(Dataset.from_list([row]), select_names(names, columns, "x"))
    assert dict(renamed[0]) == {new: row[old] for new, old in expected.items()}


def test_data_that_need_no_labels_are_read_whatever_the_labels_are(folder):
    faults = [
        ("video,label,labels\nv.mp4,a,b\n", "each of which may be the label"),
        ("video,category\nv.mp4,a\nw.mp4,\n", "have no label"),
        ("video,category\nv.mp4,Sport\nw.mp4,sport\n", "differ only in case"),
    ]
    for text, message in faults:
        with pytest.raises(ValueError, match=message):
            read(folder, text)
        assert {"video": "v.mp4"}.items() <= read(folder, text, with_labels=False)[0].items()
        assert "label" not in read(folder, text, with_labels=False)[0]
    for label in ("x", None):
        stream = IterableDataset.from_generator(lambda label=label: iter([{"video": "v.mp4", "Class": label}]))
        assert list(load_video_records(stream, with_labels=False)) == [{"video": "v.mp4"}]
    table = Dataset.from_dict({"video": ["v.mp4"]})
    for source in (table, table.to_iterable_dataset()):
        assert list(load_video_records(source, with_labels=False)) == [{"video": "v.mp4"}]


# --- types of columns and tables ------------------------------------------------------------------------------------


def test_lists_are_not_the_labels_of_a_column_with_another_name():
    table = Dataset.from_dict({"video": ["v.mp4"], "labels": [[1, 2]], "text": [["a", "b"]]})
    assert load_video_records(table).column_names == ["video", "labels", "caption"]


def test_videos_are_not_decoded_and_formats_are_removed():
    table = Dataset.from_dict({"clip": ["v.mp4"], "label": [1], "image": ["t.png"]})
    typed = table.cast_column("clip", Video()).cast_column("image", Image())
    for source in (typed, typed.to_iterable_dataset(), typed.with_format("numpy")):
        (row,) = load_video_records(source)
        assert row["video"] == {"path": "v.mp4", "bytes": None} and row["label"] == 1
    for kind in ("torch", "numpy", "pandas", "arrow"):
        assert load_video_records(table.rename_column("clip", "video").with_format(kind))[0]["label"] == 1
    with pytest.raises(ValueError, match="has a transform of its own"):
        load_video_records(table.with_transform(lambda batch: batch))


def test_a_selected_column_comes_before_one_of_the_type_video():
    table = Dataset.from_dict({"a": ["v.mp4"], "b": ["w.mp4"]}).cast_column("a", Video())
    assert load_video_records(table, columns={"video": "b"})[0]["video"] == "w.mp4"
    both = table.cast_column("b", Video())
    assert load_video_records(both, columns={"video": "b"})[0]["video"]["path"] == "w.mp4"
    assert load_video_records(both.rename_column("b", "Video"))[0]["video"]["path"] == "w.mp4"


def test_parquet_written_by_pandas(folder, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(folder / "cache"))
    paths = [str(folder / name) for name in ("v.mp4", "w.mp4")]
    frames = {
        "index": (pd.DataFrame({"label": [1, 0]}, index=pd.Index(["v.mp4", "w.mp4"], name="video")), [1, 0]),
        "numbered": (pd.DataFrame({"video": ["v.mp4", "w.mp4"], "label": [1.0, 0.0]}, index=[5, 9]), [1, 0]),
        "category": (pd.DataFrame({"video": ["v.mp4", "w.mp4"], "class": pd.Categorical(["y", "x"])}), [1, 0]),
        "small": (pd.DataFrame({"file_name": ["v.mp4", "w.mp4"], "Label": np.array([7, 3], np.uint8)}), [7, 3]),
    }
    for name, (frame, labels) in frames.items():
        frame.to_parquet(folder / f"{name}.PARQUET")
        records = load_video_records(folder / f"{name}.PARQUET")
        assert (list(records["video"]), list(records["label"])) == (paths, labels)
    pd.DataFrame({"label": [1]}, index=["v.mp4"]).to_parquet(folder / "unnamed.parquet")
    with pytest.raises(ValueError, match="no column of videos; its columns are label, __index_level_0__"):
        load_video_records(folder / "unnamed.parquet")
    for videos, row in ((["v.mp4", None], 1), ([None, "v.mp4"], 0)):
        pd.DataFrame({"video": videos}).to_parquet(folder / f"gap{row}.parquet")
        with pytest.raises(ValueError, match=f"1 rows of .* have no video, first row {row}"):
            load_video_records(folder / f"gap{row}.parquet")
    (folder / "damaged.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"damaged\.parquet can't be read as parquet"):
        load_video_records(folder / "damaged.parquet")
    with pytest.raises(ValueError, match=r"nowhere\.parquet does not exist"):
        load_video_records(folder / "nowhere.parquet")


@pytest.mark.parametrize(
    ("rows", "kinds"),
    [
        ([{"label": 3}, {"label": "run"}], "int, str"),
        ([{"label": 1}, {"label": True}], "bool, int"),
        ([{"answer": {"a": 1}}, {"answer": 3}], "dict, int"),
        ([{"caption": ["a", 5]}, {"caption": "b"}], r"int, str, can't be read: row 0 \(v.mp4\) has \['a', 5\]"),
        ([{"answer": "a"}, {"answer": "b"}, {"answer": 2.5}], r"float, str, can't be read: row 2 \(v.mp4\) has 2.5"),
        ([{"question_id": 1}, {"question_id": "q2"}], "int, str, can't be read: row 1"),
        ([{"label": 10**30}, {"label": 1}], "int"),
        ([{"caption": "\ud800"}], "str"),
    ],
)
def test_values_of_different_types_in_a_column_of_json(folder, rows, kinds):
    (folder / "list.json").write_text(json.dumps([{"video": "v.mp4", **row} for row in rows]))
    with pytest.raises(ValueError, match=f"column '{next(iter(rows[0]))}' of .*list.json, with .* the types {kinds}"):
        load_video_records(folder / "list.json")


@pytest.mark.parametrize(
    "values", [[1, "a"], [{"a": 1}, 3], [10**30, 1], ["\ud800", "a"], [["a", 5], ["b"]], [True, 2]]
)
def test_a_column_that_nobody_reads_may_have_values_of_different_types(folder, values):
    rows = [{"video": "v.mp4", "label": 0, "note": value, "answer": value, "kept": 1} for value in values]
    (folder / "list.json").write_text(json.dumps(rows))
    found = load_video_records(folder / "list.json", reads=())
    assert sorted(found.column_names) == ["kept", "label", "video"] and found["label"] == [0] * len(values)
    (folder / "list.json").write_text(json.dumps([{**row, "label": row["note"]} for row in rows]))
    found = load_video_records(folder / "list.json", reads=(), with_labels=False)
    assert sorted(found.column_names) == ["kept", "video"]


def test_a_split_of_data_without_splits(folder):
    (folder / "list.csv").write_text("v.mp4 1\n")
    for source in (folder / "list.csv", folder / "v.mp4", Dataset.from_dict({"video": ["v.mp4"]})):
        with pytest.raises(ValueError, match=r"The split 'val' is chosen, but .* has no splits"):
            load_video_records(source, split="val")
    train = datasets.Dataset.from_dict({"video": ["v.mp4"]}, split="train")
    assert len(load_video_records(train, split="train")) == 1
