"""Labels of data sets as class indices of a model."""

import unicodedata

import datasets
import pytest
from tiny_classifier import CLASSES, tiny_classifier, tiny_processor

from umt_training.evaluation.classification import evaluate_classifier, match_labels


@pytest.fixture(scope="module")
def model():
    return tiny_classifier()


def table(labels, feature=None) -> datasets.Dataset:
    columns = {"video": datasets.Value("string"), "label": feature or datasets.Value("int64")}
    rows = {"video": [f"{row}.mp4" for row in range(len(labels))], "label": labels}
    return datasets.Dataset.from_dict(rows, features=datasets.Features(columns))


def test_names_have_priority_over_indices(model):
    names = sorted(CLASSES)
    labels = match_labels(table(names, datasets.ClassLabel(names=names)), model.config)
    assert labels.tolist() == [CLASSES.index(name) for name in names]
    assert match_labels(table(names, datasets.Value("string")), model.config).tolist() == labels.tolist()
    assert match_labels(table([6, 0, 3]), model.config).tolist() == [6, 0, 3]
    assert match_labels(table([6, 0, 3], datasets.ClassLabel(num_classes=7)), model.config).tolist() == [6, 0, 3]
    # the model need not know classes of the data that have no videos
    labels = match_labels(table(["zumba"], datasets.ClassLabel(names=["yodelling", "zumba"])), model.config)
    assert labels.tolist() == [2]


def test_names_that_are_numbers():
    config = tiny_classifier(id2label={0: "1", 1: "0"}, label2id={"1": 0, "0": 1}).config
    assert match_labels(table(["0", "1"], datasets.ClassLabel(names=["0", "1"])), config).tolist() == [1, 0]
    assert match_labels(table([0, 1]), config).tolist() == [1, 0]
    with pytest.raises(ValueError, match="labels of the data are ambiguous: 1 is the name of a class, but 2 is not"):
        match_labels(table([1, 2]), config)


def test_only_id2label_counts():
    """`from_pretrained(…, id2label=…)` leaves `label2id` as it was."""
    config = tiny_classifier(id2label={0: "zumba", 1: "archery"}, label2id={"archery": 0, "zumba": 1}).config
    assert match_labels(table(["zumba", "archery"], datasets.Value("string")), config).tolist() == [0, 1]
    config = tiny_classifier(id2label={0: "1", 1: "0"}, label2id={"0": 0, "1": 1}).config
    assert match_labels(table([0, 1]), config).tolist() == [1, 0]
    config.id2label = {1: "zumba", 2: "archery"}
    with pytest.raises(ValueError, match="`id2label` of the model has the keys 1, 2; expected 0 to 1"):
        match_labels(table([0, 1]), config)
    with pytest.raises(ValueError, match="has the class 'zumba' only"):
        match_labels(table([0]), tiny_classifier(id2label={0: "zumba"}, label2id={"zumba": 0}).config)


def test_names_are_equal_in_any_unicode_form():
    """macOS stores the names of folders in the form D."""
    forms = {form: unicodedata.normalize(form, "café") for form in ("NFC", "NFD")}
    for model_form, data_form in (("NFC", "NFD"), ("NFD", "NFC")):
        names = {0: "tea", 1: forms[model_form]}
        config = tiny_classifier(id2label=names, label2id={name: index for index, name in names.items()}).config
        assert match_labels(table([forms[data_form], " tea"], datasets.Value("string")), config).tolist() == [1, 0]
    names = {0: forms["NFC"], 1: forms["NFD"], 2: "tea"}
    config = tiny_classifier(id2label=names, label2id={"tea": 2}).config
    assert match_labels(table(["tea"], datasets.Value("string")), config).tolist() == [2]
    with pytest.raises(ValueError, match="2 of the 3 classes have the name"):
        match_labels(table([forms["NFC"]], datasets.Value("string")), config)


@pytest.mark.parametrize("dtype", ["float64", "int8", "uint8", "large_string", "bool"])
def test_labels_of_every_type(dtype):
    names = {0: "False", 1: "True"} if dtype == "bool" else {0: "a", 1: "b"}
    config = tiny_classifier(id2label=names, label2id={name: index for index, name in names.items()}).config
    labels = {"bool": [True, False], "large_string": ["b", "a"]}.get(dtype, [1, 0])
    assert match_labels(table(labels, datasets.Value(dtype)), config).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("records", "message"),
    [
        (
            table(["zumba", "yodelling", "tango"], datasets.Value("string")),
            r"Row 1 .* 'yodelling', which is not one of the model's 7 classes: juggling, .* Unknown too: 'tango'\.",
        ),
        (
            table([0, 1], datasets.ClassLabel(names=["a", "b"])),
            "Row 0 .* 'a', which is not one of the model's 7 .*: 'b'",
        ),
        (
            table([0, 9, -1, 9]),
            "Row 1 .* the label 9, which is not one of .* Unknown too: -1. Class indices are 0 to 6",
        ),
        (table([1, 7, 3]), "label 7, .* counted from 1; class indices are 0 to 6: subtract 1"),
        (table(["zumbaa"], datasets.Value("string")), "Did you mean 'zumba'"),
        (
            table([0.5], datasets.Value("float64")),
            "label of row 0 of the data is 0.5; expected a class name or an int",
        ),
        (table([0.0, None], datasets.Value("float64")), "1 of 2 videos have no label, first that of row 1"),
        (table([0, -1], datasets.ClassLabel(names=["zumba", "archery"])), "1 of 2 videos have no label.*row 1"),
        (table([None, 0]), "1 of 2 videos have no label, first that of row 0"),
        (table([]), "0 rows"),
        (table([0]).remove_columns("label"), "1 rows and the columns video"),
        (table([0]).to_iterable_dataset(), "given as IterableDataset; expected a table"),
    ],
)
def test_labels_that_do_not_fit(records, message, model):
    """The error is raised before a video is opened: the videos of these tables do not exist."""
    with pytest.raises(ValueError, match=message):
        evaluate_classifier(model, tiny_processor(), records, num_workers=0)
