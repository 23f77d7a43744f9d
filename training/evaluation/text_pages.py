"""Sections of a page about retrieval, question answering or multiple choice: bars of the metrics, worst mistakes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..pictures.bars import draw_bars
from ..pictures.drawing import save_picture
from ..pictures.run_page import Picture, Section
from .mistakes import MOST_MISTAKES, Mistake, mistakes_section
from .multiple_choice import ChoiceScores
from .question_answering import QuestionScores
from .retrieval import RetrievalScores
from .retrieval_metrics import RANKS, best_ranks

STRIPS = "mistakes"  # folder of the frames


def retrieval_sections(folder: Path, scores: RetrievalScores) -> list[Section]:
    """Recall as bars, `recall.png`, and the texts whose video is ranked lowest, with frames of that video."""
    recalls = {
        f"{direction.replace('_', '-')}, {ranking.replace('_', ' ')}, R@{rank}": metrics[f"{direction}_r{rank}"]
        for ranking, metrics in scores.metrics.items()
        for direction in ("text_to_video", "video_to_text")
        for rank in RANKS
    }
    title = "Recall: queries with a match among the first 1, 5 and 10"
    bars = save_picture(draw_bars([*recalls], [*recalls.values()], title, lowest_first=False), folder / "recall.png")
    by_text = scores.text_to_video if scores.protocol["reranked"] else scores.dual_encoder.T
    match = scores.data.match.T
    ranks = best_ranks(by_text, match)
    mistakes = []
    for text in np.argsort(-ranks, kind="stable")[:MOST_MISTAKES].tolist():
        if ranks[text] < 1:
            break
        video = int(np.where(match[text], by_text[text], -np.inf).argmax())
        first = int(by_text[text].argmax())
        mistakes.append(
            Mistake(
                scores.data.videos[video],
                f"“{scores.data.texts[text]}”: its video {scores.data.names[video]} has rank {ranks[text] + 1:g}; the "
                f"first is {scores.data.names[first]}",
            )
        )
    return [
        Section("Recall", [Picture(bars, title)]),
        mistakes_section(mistakes, folder / STRIPS, "Texts whose video is ranked lowest"),
    ]


def question_answering_sections(folder: Path, scores: QuestionScores, videos: Sequence[Any]) -> list[Section]:
    """The accuracy of each question type as bars, `types.png`, if types are known, and wrong answers.

    Args:
        folder: Folder of the page.
        scores: The result.
        videos: The videos of the table, in its order.
    """
    sections = []
    if by_type := scores.accuracy_by_type:
        title = "Accuracy of each question type"
        bars = save_picture(draw_bars([*by_type], [*by_type.values()], title), folder / "types.png")
        sections.append(Section("Question types", [Picture(bars, title)]))
    rows = zip(scores.questions, scores.answers, scores.predictions, strict=True)
    wrong = [
        (row, f"{question} {prediction}; correct is {answer}")
        for row, (question, answer, prediction) in enumerate(rows)
        if prediction is not None and prediction != answer
    ]
    mistakes = [Mistake(videos[row], text) for row, text in spread(wrong)]
    return [*sections, mistakes_section(mistakes, folder / STRIPS, "Wrong answers")]


def multiple_choice_sections(
    folder: Path, scores: ChoiceScores, videos: Sequence[Any], captions: Sequence[Sequence[str]]
) -> list[Section]:
    """Wrong choices, with frames of the videos.

    Args:
        folder: Folder of the page.
        scores: The result.
        videos, captions: Video and options of each row of the table.
    """
    wrong = [
        (row, f"chosen is “{captions[row][choice]}”; correct is “{captions[row][answer]}”")
        for row, (choice, answer, credit) in enumerate(
            zip(scores.choices, scores.answers, scores.credits, strict=True)
        )
        if choice is not None and not credit
    ]
    mistakes = [Mistake(videos[row], text) for row, text in spread(wrong)]
    return [mistakes_section(mistakes, folder / STRIPS, "Wrong choices")]


def spread(mistakes: Sequence[Any]) -> list[Any]:
    """At most twelve of the mistakes, evenly spaced over the table, for they have no order."""
    indices = np.linspace(0, len(mistakes) - 1, min(len(mistakes), MOST_MISTAKES)).round().astype(int)
    return [mistakes[index] for index in indices]
