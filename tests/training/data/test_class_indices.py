"""Labels of every kind become the right class indices, or an error that names the label."""

import json
import unicodedata

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, IterableDataset
from hypothesis import given
from hypothesis import strategies as st

from modeling_umt.labels_umt import label_sets, load_labels
from processing_umt import VideoDecodeError
from umt_training.data.class_indices import check_distinct, class_indices, plain_labels
from umt_training.data.video_records import load_video_records

NFC, NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


def table(labels: list, names: list[str] | None = None) -> Dataset:
    records = Dataset.from_dict({"video": [f"{row}.mp4" for row in range(len(labels))], "label": labels})
    return records if names is None else records.cast_column("label", ClassLabel(names=names))


def lists(folder, labels: list) -> list:
    """The same labels as CSV, JSON and data set."""
    for row in range(len(labels)):
        (folder / f"{row}.mp4").write_bytes(b"x")
    rows = [{"video": f"{row}.mp4", "label": label} for row, label in enumerate(labels)]
    cells = [f"{row['video']},{'' if row['label'] is None else row['label']}\n" for row in rows]
    (folder / "list.csv").write_text("video,label\n" + "".join(cells), encoding="utf-8")
    (folder / "list.json").write_text(json.dumps(rows))
    return [folder / "list.csv", folder / "list.json", table(labels)]


@pytest.mark.parametrize(
    ("labels", "names", "expected"),
    [
        (["run", "jump"], None, [1, 0]),
        ([" run", "run ", "jump"], None, [1, 1, 0]),
        ([2, 0, 1], None, [2, 0, 1]),
        ([2.0, 0.0, 1.0], None, [2, 0, 1]),
        ([True, False], None, [1, 0]),
        (["run", "jump"], ["jump", "x", "run"], [2, 0]),
        ([NFC, "tea"], [NFD, "tea"], [0, 1]),
        ([NFD, "tea"], ["tea", NFC], [1, 0]),
        ([1, 3], ["1", "2", "3"], [0, 2]),
        ([10.0, 2.0], ["10", "2"], [0, 1]),
        ([1, 0], ["a", "b"], [1, 0]),
        (["01", "1"], ["1", "01"], [1, 0]),
    ],
)
def test_labels_of_every_source_become_indices(tmp_path, labels, names, expected):
    for source in lists(tmp_path, labels):
        records = load_video_records(source, class_names=names)
        assert list(records["label"]) == expected
        if names is not None:
            assert records.features["label"].names == names  # as they are given
    if names is not None:
        stream = table(labels).to_iterable_dataset()
        assert [record["label"] for record in load_video_records(stream, class_names=names)] == expected


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        (["run", None], None, "1 of 2 videos of .* have no label, first that of row 1"),
        (["run", "  "], None, "1 of 2 videos of .* have no label, first that of row 1"),
        ([None, 1], None, "1 of 2 videos of .* have no label, first that of row 0"),
        ([1.0, None], ["a", "b"], "1 of 2 videos of .* have no label"),
        (["3", "nan"], None, "1 of 2 videos of .* have no label, first that of row 1"),
        (["Run", "run"], None, "classes 'Run' and 'run' of .* differ only in case"),
        (["play it", "play  it"], None, "differ only in case, spaces or Unicode form"),
        ([NFC, NFD], None, "differ only in case, spaces or Unicode form"),
        (["runn"], ["run", "jump"], "Row 0 of .* has the label 'runn', .* 2 classes: run, jump. Did you mean 'run'"),
        (["RUN"], ["run", "jump"], "Did you mean 'run'"),
        (["high_jump"], ["run", "high jump"], "Did you mean 'high jump'"),
        (["run", "x", "y"], ["run", "jump"], "Row 1 of .* Unknown too: 'y'. Correct the label"),
        ([1, 2], ["a", "b"], "Row 1 of .* label 2, .* counted from 1; class indices are 0 to 1: subtract 1"),
        ([0, 2], ["a", "b"], "label 2, which is not one of the 2 classes: a, b. Class indices are 0 to 1"),
        ([0, -1], ["a", "b"], "label -1, which is not one of the 2 classes"),
        ([0], ["1", "2", "3"], "ambiguous: 1 is the name of a class, but 0 is not"),
        ([3, 4], ["1", "2", "3"], "ambiguous: 3 is the name of a class, but 4 is not"),
        ([1], ["01", "02"], "ambiguous: 01 is the name of a class, but 1 is not"),
        ([0], ["a", "A"], "classes 'a' and 'A' of class_names differ only in case"),
        ([0], ["a", " "], "class of class_names has the name ' '"),
    ],
)
def test_labels_that_can_not_be_meant(tmp_path, labels, names, message):
    for source in lists(tmp_path, labels):
        with pytest.raises(ValueError, match=message) as error:
            load_video_records(source, class_names=names)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("label", [2.5, float("inf"), [1], b"run"])
def test_labels_of_other_types(label):
    with pytest.raises(ValueError, match=r"The label of row 1 of the data is .*; expected a class name or an integer"):
        plain_labels([0, label], "the data")


def test_numpy_labels_of_a_stream():
    labels = [np.int64(2), np.uint8(0), np.float32(1), np.str_("c"), np.bool_(True)]
    assert plain_labels(labels, "x") == [2, 0, 1, "c", "True"]
    assert plain_labels([np.float64("nan"), None, ""], "x") == [None, None, None]
    stream = IterableDataset.from_generator(lambda: ({"video": "v", "label": label} for label in labels[:4]))
    assert [record["label"] for record in load_video_records(stream, class_names=["a", "b", "c"])] == [2, 0, 1, 2]


def test_records_of_a_stream_without_label():
    error = VideoDecodeError("shard.tar", "truncated")
    stream = IterableDataset.from_generator(lambda: ({"video": video} for video in (error, "v.mp4")))
    records = iter(load_video_records(stream, class_names=["a", "b"]))
    assert next(records) == {"video": error}  # counted as broken when it is opened
    with pytest.raises(ValueError, match="has no label"):
        next(records)


def test_data_of_which_no_video_has_a_label(tmp_path):
    """A test set: as data without labels."""
    for source in (*lists(tmp_path, [None, None]), table([-1, -1], ["a", "b"])):
        assert load_video_records(source).column_names == ["video"]


def test_class_labels(tmp_path):
    with pytest.raises(ValueError, match="1 of 2 videos of the given Dataset have no label, first that of row 1"):
        load_video_records(table([0, -1], ["a", "b"]))
    with pytest.raises(ValueError, match="classes 'a' and 'A' of the given Dataset differ only in case"):
        load_video_records(table([0], ["a", "A"]))
    counted = table([1, 0], ["0", "1"])  # as `ClassLabel(num_classes=2)`
    assert list(load_video_records(counted, class_names=["x", "y"])["label"]) == [1, 0]
    assert list(load_video_records(counted, class_names=["1", "0"])["label"]) == [0, 1]
    assert list(load_video_records(table([1, 0], [NFD, "tea"]), class_names=["tea", NFC])["label"]) == [0, 1]


def test_published_label_lists_have_distinct_names():
    for name in label_sets():
        check_distinct(load_labels(name), name)


@given(
    names=st.lists(st.text("aé ́BC01", min_size=1, max_size=4), min_size=1, max_size=8),
    form=st.sampled_from(["NFC", "NFD"]),
)
def test_every_name_is_found_in_any_form(names, form):
    try:
        check_distinct(names, "x")
    except ValueError:
        return
    written = [f" {unicodedata.normalize(form, name)}" for name in names]
    assert class_indices(written, names, "x") == list(range(len(names)))
