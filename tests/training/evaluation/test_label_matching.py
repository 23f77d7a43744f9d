"""Labels of data sets as class indices of a model."""

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


@pytest.mark.parametrize(
    ("records", "message"),
    [
        (
            table(["zumba", "yodelling", "tango"], datasets.Value("string")),
            r"2 class names .*: 'tango', 'yodelling'\.",
        ),
        (table([0, 1], datasets.ClassLabel(names=["a", "b"])), r"2 class names .*'juggling', 'archery'.*Rename"),
        (table([0, 7, -1, 7]), r"2 labels that are not from 0 to 6.*: -1, 7; first that of row 1"),
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
