"""Recall and ranks in both directions: recorded values, a count by hand, ties."""

import numpy as np
import pytest
from recorded import load_recorded

from umt_training.evaluation.retrieval_metrics import best_ranks, retrieval_metrics


def test_recorded_recalls():
    """One text per video, several texts per video, several videos per text."""
    problems = load_recorded("retrieval_metrics")[0]["problems"]
    assert len(problems) == 3
    for problem in problems:
        video_to_text = np.array(problem["scores_i2t"])
        match = np.zeros(video_to_text.shape, bool)
        for text, video in problem["txt2img"].items():
            match[video, int(text)] = True
        by_video = np.zeros_like(match)
        for video, texts in problem["img2txt"].items():
            by_video[int(video), texts] = True
        assert (match == by_video).all()
        found = retrieval_metrics(np.array(problem["scores_t2i"]), video_to_text, match)
        for rank in (1, 5, 10):
            assert round(found[f"video_to_text_r{rank}"], 2) == problem["metrics"][f"txt_r{rank}"]
            assert round(found[f"text_to_video_r{rank}"], 2) == problem["metrics"][f"img_r{rank}"]
        assert found["mean_recall"] == pytest.approx(problem["metrics"]["r_mean"], abs=0.011)


def test_ranks_by_hand():
    scores = np.array([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [0.0, 0.0, 0.0]])
    match = np.array([[1, 0, 0], [0, 1, 1], [0, 0, 1]], bool)
    assert best_ranks(scores, match).tolist() == [0, 1, 1]


def test_ties_count_half():
    match = np.eye(4, dtype=bool)
    assert retrieval_metrics(np.zeros((4, 4)), match.astype(float), match) == {
        "text_to_video_r1": 0.0,
        "text_to_video_r5": 100.0,
        "text_to_video_r10": 100.0,
        "text_to_video_mean_rank": 2.5,
        "text_to_video_median_rank": 2.5,
        "video_to_text_r1": 100.0,
        "video_to_text_r5": 100.0,
        "video_to_text_r10": 100.0,
        "video_to_text_mean_rank": 1.0,
        "video_to_text_median_rank": 1.0,
        "mean_recall": pytest.approx(500 / 6),
    }


def test_equal_or_random_scores_reach_at_most_chance_level():
    found = retrieval_metrics(np.zeros((20, 20)), np.zeros((20, 20)), np.eye(20, dtype=bool))
    assert found["video_to_text_r1"] == found["text_to_video_r5"] == 0
    random = np.random.default_rng(0).normal(size=(400, 400))
    found = retrieval_metrics(random.T, random, np.eye(400, dtype=bool))
    assert found["text_to_video_r10"] == pytest.approx(2.5, abs=2)


def test_a_query_without_a_match_is_an_error():
    with pytest.raises(ValueError, match="Query 1 has no candidate"):
        best_ranks(np.zeros((2, 2)), np.array([[True, False], [False, False]]))


def test_scores_that_are_not_finite_are_an_error():
    with pytest.raises(ValueError, match="Scores of 1 queries are not finite"):
        best_ranks(np.array([[np.nan, 1.0], [0.0, 1.0]]), np.ones((2, 2), bool))
