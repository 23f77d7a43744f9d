"""Sections of a page about a classifier's predictions: confusion matrix, accuracy of each class, worst mistakes."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..pictures.bars import draw_bars
from ..pictures.confusion_plot import draw_confusion_matrix
from ..pictures.drawing import save_picture
from ..pictures.run_page import Picture, Section, Table
from .mistakes import MOST_MISTAKES, Mistake, mistakes_section

MOST_CONFUSED = 15  # pairs of classes in the table


def classification_sections(
    folder: Path,
    matrix: np.ndarray,
    probabilities: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    title: str,
    names: Sequence[str],
    video_of: Callable[[int], Any] | None,
) -> list[Section]:
    """Draws `confusion.png`, `per_class.png` and the strips of frames `mistakes/*.jpg` in a folder.

    Args:
        folder: Folder of the pictures, that of the page or below.
        matrix: int `(classes, classes)`, confusion matrix of the videos, true classes in rows.
        probabilities: float `(videos, classes)`.
        labels: int `(videos,)`.
        class_names: Names in the order of the model.
        title: Title of the confusion matrix.
        names: `(videos,)`, names of the videos.
        video_of: Index of a video → the video, as in the records; None for no frames.
    """
    accuracies = [
        100.0 * hits / total if total else None
        for hits, total in zip(matrix.diagonal().tolist(), matrix.sum(axis=1).tolist(), strict=True)
    ]
    confusion = save_picture(draw_confusion_matrix(matrix, class_names, title), folder / "confusion.png")
    bars = save_picture(draw_bars(class_names, accuracies, "Accuracy of each class"), folder / "per_class.png")
    pairs = confused_pairs(matrix, class_names)
    sections = [
        Section("Classes", [Picture(bars, "Percentage of the videos of each class that are classified correctly.")]),
        Section(
            "Confusions",
            [
                Picture(confusion, "Confusion matrix: videos of the row's class predicted as the column's."),
                *([pairs] if pairs.rows else []),
            ],
        ),
    ]
    if video_of is not None:
        mistakes = [
            Mistake(video_of(row), describe_mistake(names[row], probabilities[row], labels[row], class_names))
            for row in worst_mistakes(probabilities, labels)[:MOST_MISTAKES]
        ]
        sections.append(mistakes_section(mistakes, folder / "mistakes"))
    return sections


def worst_mistakes(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Indices of the wrongly classified videos, those first whose class has the lowest probability relative to the
    predicted one; int64."""
    predictions = probabilities.argmax(axis=1)
    wrong = np.flatnonzero(predictions != labels)
    margins = probabilities[wrong, predictions[wrong]] - probabilities[wrong, labels[wrong]]
    return wrong[np.argsort(-margins, kind="stable")]


def describe_mistake(name: str, probabilities: np.ndarray, label: int, class_names: Sequence[str]) -> str:
    prediction = int(probabilities.argmax())
    return (
        f"{name}: {class_names[label]} ({probabilities[label]:.3f}), predicted as {class_names[prediction]} "
        f"({probabilities[prediction]:.3f})"
    )


def confused_pairs(matrix: np.ndarray, class_names: Sequence[str]) -> Table:
    """The pairs of classes that are confused most often, as a table."""
    counts = matrix * (1 - np.eye(len(matrix), dtype=matrix.dtype))
    order = np.argsort(-counts, axis=None, kind="stable")[:MOST_CONFUSED]
    pairs = [(int(row), int(column)) for row, column in zip(*np.unravel_index(order, counts.shape), strict=True)]
    totals = matrix.sum(axis=1)
    rows = [
        (class_names[row], class_names[column], int(counts[row, column]), int(totals[row]))
        for row, column in pairs
        if counts[row, column]
    ]
    caption = f"The {MOST_CONFUSED} most frequent confusions." if len(rows) == MOST_CONFUSED else None
    return Table(("class", "predicted as", "videos", "of"), rows, caption)
