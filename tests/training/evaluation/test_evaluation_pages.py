"""Sections of the pages of evaluations: which mistakes they show, in which order, with which frames."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from tiny_classifier import save_noise

from umt_training.evaluation.classification_page import classification_sections, confused_pairs, worst_mistakes
from umt_training.evaluation.mistakes import MOST_MISTAKES, Mistake, mistakes_section
from umt_training.evaluation.text_pages import spread
from umt_training.pictures.run_page import Picture, Text


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Two videos, and a file that is none."""
    folder = tmp_path_factory.mktemp("videos")
    for index in range(2):
        save_noise(folder / f"{index}.mp4", index, num_frames=6, height=32, width=48)
    (folder / "2.mp4").write_bytes(b"no video")
    return [str(folder / f"{index}.mp4") for index in range(3)]


def test_a_mistake_has_frames_unless_its_video_is_broken(videos, tmp_path):
    (tmp_path / "09.jpg").write_bytes(b"of an earlier evaluation")
    section = mistakes_section([Mistake(video, f"wrong {index}") for index, video in enumerate(videos)], tmp_path)
    assert [type(part) for part in section.parts] == [Picture, Picture, Text]
    assert section.parts[0].caption == "1. wrong 0" and section.parts[0].link.path == videos[0]
    assert section.parts[2].text == "3. wrong 2 (the video can't be read: not_a_video)"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["01.jpg", "02.jpg"]
    with Image.open(tmp_path / "01.jpg") as strip:
        assert strip.size == (4 * (240 + 4) - 4, 160)


def test_bytes_have_frames_and_no_link(videos, tmp_path):
    content = Path(videos[0]).read_bytes()
    (part,) = mistakes_section([Mistake({"path": None, "bytes": content}, "wrong")], tmp_path).parts
    assert isinstance(part, Picture) and part.link is None


def test_without_mistakes_the_section_says_so(tmp_path):
    assert mistakes_section([], tmp_path).parts == [Text("None.")]


@given(
    hnp.arrays(np.float64, st.tuples(st.integers(1, 12), st.just(4)), elements=st.floats(0, 1, width=16)),
    st.integers(0, 99),
)
def test_the_worst_mistakes_are_all_wrong_predictions_by_margin(probabilities, seed):
    labels = np.random.default_rng(seed).integers(0, 4, len(probabilities))
    worst = worst_mistakes(probabilities, labels)
    assert sorted(worst.tolist()) == np.flatnonzero(probabilities.argmax(axis=1) != labels).tolist()
    margins = probabilities.max(axis=1) - probabilities[np.arange(len(labels)), labels]
    assert (np.diff(margins[worst]) <= 0).all()


def test_confused_pairs_are_the_most_frequent_first_without_the_diagonal():
    matrix = np.array([[9, 1, 0], [4, 3, 0], [0, 2, 0]])
    assert confused_pairs(matrix, ["a", "b", "c"]).rows == [("b", "a", 4, 7), ("c", "b", 2, 2), ("a", "b", 1, 10)]


def test_without_videos_there_are_no_frames(tmp_path):
    sections = classification_sections(
        tmp_path,
        np.array([[1, 0, 0], [0, 1, 0], [0, 1, 0]]),
        np.eye(3)[[0, 1, 1]],
        np.array([0, 1, 2]),
        ["a", "b", "c"],
        "title",
        ["x", "y", "z"],
        None,
    )
    assert [section.heading for section in sections] == ["Classes", "Confusions"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["confusion.png", "per_class.png"]


@given(st.integers(0, 200))
def test_mistakes_without_an_order_are_spread_over_the_table(number):
    chosen = spread(range(number))
    assert len(chosen) == min(number, MOST_MISTAKES) and chosen == sorted(set(chosen))
    if number > 1:
        assert (chosen[0], chosen[-1]) == (0, number - 1)
