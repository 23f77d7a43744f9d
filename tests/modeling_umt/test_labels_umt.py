"""Label lists against the class orders recorded from the official data lists."""

import pytest

from modeling_umt.labels_umt import k710_rows, label_sets, load_labels

KINETICS = {"k400": 400, "k600": 600, "k700": 700, "k710": 710}
SIZES = (
    KINETICS
    | {f"{name}_alphabetical": size for name, size in KINETICS.items()}
    | {"ava": 80, "mitv1": 339, "ssv2": 174}
)


def test_label_lists_are_complete():
    assert label_sets() == sorted(SIZES)
    for name, size in SIZES.items():
        labels = load_labels(name)
        assert len(labels) == len(set(labels)) == size, name
        assert all(label == label.strip() != "" for label in labels)


@pytest.mark.parametrize("name", KINETICS)
def test_a_kinetics_list_is_the_recorded_official_order(name, recorded):
    recorded_orders, _ = recorded("internvideo2_class_orders")
    official, alphabetical = load_labels(name), load_labels(f"{name}_alphabetical")
    assert official == recorded_orders["names"][name]
    assert [alphabetical[index] for index in recorded_orders["official_to_alphabetical"][name]] == official
    # Kinetics-710 has two sorted parts: the classes of Kinetics-400 under the names of that data set, then the others
    if name != "k710":
        assert alphabetical == sorted(alphabetical)
    assert official != alphabetical


@pytest.mark.parametrize("name", ["k400", "k600", "k700"])
def test_rows_of_a_kinetics_710_head_are_the_recorded_ones(name, recorded):
    rows = [k710_rows()[label] for label in load_labels(name)]
    assert rows == recorded("internvideo2_class_orders")[0]["k710_rows"][name]
    assert len(set(rows)) == len(rows)


def test_the_actions_of_ava_are_in_the_order_of_their_ids():
    """Column c - 1 is id c. Each of AVA's three groups (poses, objects, persons) is sorted by name."""
    labels = load_labels("ava")
    for first, last in ((1, 14), (15, 63), (64, 80)):
        assert labels[first - 1 : last] == sorted(labels[first - 1 : last])
    ids = {"crawl": 2, "sit": 11, "stand": 12, "walk": 14, "answer phone": 15, "write": 63, "watch (a person)": 80}
    assert {name: labels.index(name) + 1 for name in ids} == ids


def test_a_class_has_one_row_under_all_its_names():
    assert [k710_rows()[label] for label in load_labels("k710")] == list(range(710))
    assert k710_rows()["hugging"] == k710_rows()["hugging (not baby)"]
    assert len(set(k710_rows().values())) == 710
