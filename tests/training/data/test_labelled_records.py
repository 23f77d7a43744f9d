"""Classes, labels and held-out videos of labelled data."""

from collections import Counter

import datasets
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from umt_training.data.labelled_records import check_classes, check_labels, describe_classes, hold_out


def table(labels: list, names: list[str] | None = None) -> datasets.Dataset:
    records = datasets.Dataset.from_dict({"video": [f"{i}.mp4" for i in range(len(labels))], "label": labels})
    return records if names is None else records.cast_column("label", datasets.ClassLabel(names=names))


def test_classes_come_from_names_or_labels():
    assert check_classes(table([0, 1, 1], ["b", "a"]), None) == ["b", "a"]
    assert check_classes(table([0, 2, 1, 1]), None) == ["LABEL_0", "LABEL_1", "LABEL_2"]
    assert check_classes(table([1, 0]), ["x", "y"]) == ["x", "y"]


@pytest.mark.parametrize(
    ("records", "names", "message"),
    [
        (table([0, 1, 5]), ["x", "y"], r"Labels \[5\] of the training videos are not class indices; expected 0 to 1"),
        (table([0, -1]), ["x", "y"], r"Labels \[-1\]"),
        (table([0, 10**12]), None, r"Labels \[1000000000000\] .* expected 0 to 1"),  # every class has a clip
        (table([1, 2, 3, 3]), None, "labels of the training videos seem to be counted from 1, up to 3; .* Subtract 1"),
        (table([1, 2]), None, "counted from 1, up to 2"),
        (table([3, 1, 1]), ["x", "y", "z"], "counted from 1, up to 3; class indices are 0 to 2"),
        (table([0, 0]), None, "one class only, 'LABEL_0'"),
        (table([0, 0], ["run"]), None, "one class only, 'run', so .* every accuracy is 100 %"),
        (table([True, False]), None, "2 of 2 training videos have no label, or one that is not an integer"),
        (table([[0, 1]]), None, "1 of 1 training videos have no label, or one that is not an integer"),
        (
            table([0]).rename_column("label", "target"),
            None,
            r"columns are video, target\. .*also read: labels, class",
        ),
        (table([0, 2]), ["x", "y", "z"], "1 of 3 classes have no training clip: y"),
        (table([0, 0], ["x", "y"]), None, "1 of 2 classes have no training clip: y"),
        (table([0, None, 1]), None, "1 of 3 training videos have no label"),
        (table([0.0, 1.0]), None, "2 of 2 training videos have no label, or one that is not an integer"),
        (table([0]).remove_columns("label"), None, "The training videos have no labels"),
        (table([0]).to_iterable_dataset(), None, "The training videos are a stream"),
    ],
)
def test_wrong_labels_are_refused(records, names, message):
    with pytest.raises(ValueError, match=message):
        check_classes(records, names)


def test_evaluation_labels_are_checked_too():
    assert check_labels(table([1, 1]), 2, "evaluation") == {1: 2}  # a class without a clip is fine
    with pytest.raises(ValueError, match="of the evaluation videos are not class indices"):
        check_labels(table([3]), 2, "evaluation")


def test_the_classes_are_listed_with_their_numbers_of_videos():
    assert describe_classes({0: 3, 1: 12}, ["run", "long\x1b[0m jump"]) == [
        "2 classes, 15 videos:",
        "  long\\x1b[0m jump  12",  # control characters are escaped
        "  run               3",
    ]
    many = describe_classes({index: index + 1 for index in range(30)}, [f"class {index}" for index in range(30)])
    assert many[0] == "30 classes, 465 videos:" and many[11] == "  … 10 more classes" and len(many) == 22
    assert (many[1], many[10], many[12], many[-1]) == (
        "  class 29  30", "  class 20  21", "  class 9   10", "  class 0   1",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("counts", "note"),
    [
        ({"jumping": 40, "jumpnig": 1}, "the class 'jumpnig' (1) may be a misspelling of 'jumping' (40)"),
        ({"jumping": 40, "Jumpin": 8}, "the class 'Jumpin' (8) may be a misspelling of 'jumping' (40)"),
        ({"run": 9, "runn": 1}, "the class 'runn' (1) may be a misspelling of 'run' (9)"),
        ({"high jump": 5, "high_jump": 4}, "the class 'high_jump' (4) may be a misspelling of 'high jump' (5)"),
        ({"jumping": 40, "jumpnig": 9}, None),  # not much larger
        ({"round 1": 40, "round 2": 1}, None),
        ({"pushing something left": 40, "pushing something right": 1}, None),
        ({"run": 40, "jump": 1}, None),
    ],
)
def test_names_that_may_be_misspelt_are_noted(counts, note):
    lines = describe_classes(dict(enumerate(counts.values())), list(counts))
    assert [line for line in lines if line.startswith("note")] == ([f"note: {note}"] if note else [])


@given(
    labels=st.lists(st.integers(0, 4), min_size=2, max_size=40),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**31),
)
@settings(deadline=None, max_examples=30)
def test_a_fraction_of_every_class_is_held_out(labels, fraction, seed):
    expected = {label: min(round(fraction * n), n - 1) for label, n in Counter(labels).items()}
    if not any(expected.values()):
        with pytest.raises(ValueError, match=r"less than one of the \d+ videos"):
            hold_out(table(labels), fraction, seed)
        return
    train, held_out = hold_out(table(labels), fraction, seed)
    assert sorted([*train["video"], *held_out["video"]]) == sorted(table(labels)["video"])
    assert Counter(held_out["label"]) == {label: n for label, n in expected.items() if n}
    assert set(train["label"]) == set(labels)
    again = hold_out(table(labels), fraction, seed)
    assert [list(part["video"]) for part in again] == [list(train["video"]), list(held_out["video"])]
